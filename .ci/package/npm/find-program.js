'use strict';
// The path of the program for this platform, in the package that npm chose among the optional dependencies.
// All of this package is written for old versions of node, too.
var PLATFORMS = ['linux-x64', 'linux-arm64', 'darwin-x64', 'darwin-arm64'];

module.exports = function () {
  var platform = process.platform + '-' + process.arch;
  try {
    return require.resolve('@slm-mesh/' + platform + '/bin/slm-mesh');
  } catch (error) {
    throw new Error(PLATFORMS.indexOf(platform) < 0
      ? 'there is no package for ' + platform + '; build the program from its source with cargo, gcc and make install'
      : 'the package @slm-mesh/' + platform + ' is missing; install slm-mesh again with optional packages, or build ' +
        'the program from its source with cargo, gcc and make install');
  }
};
