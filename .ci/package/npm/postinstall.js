'use strict';
// Puts the program itself in place of the script that runs it, so that a command does not wait for node to start.
//
// Only npm links a command to the file itself; other package managers write a launcher that calls node with this file,
// and node can't run a program. If anything fails here, the script stays and works.
var fs = require('fs');
var path = require('path');

if (/^npm\//.test(process.env.npm_config_user_agent || '')) {
  var script = path.join(__dirname, 'bin', 'slm-mesh');
  var link = script + '.new';
  try {
    fs.linkSync(require('./find-program.js')(), link);
    fs.renameSync(link, script);
  } catch (error) {
    // If the program can't be found, the script says so to the user who calls it.
  }
}
