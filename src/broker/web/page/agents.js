// The section of agents, grouped by machine, and then by project and branch.

import { $, always, bdi, button, el, flat, lastPart, setText, showEmpty, span, sync, tame } from '/page/dom.js';
import { openWriteDialog } from '/page/dialogs.js';
import { openMailbox } from '/page/agent_mailbox.js';
import { fits, mesh, now } from '/page/mesh_state.js';
import { addSection } from '/page/repaint_schedule.js';

function paintAgents() {
  const rows = [...mesh.peers.values()].filter((row) => row.kind !== 'human' &&
    fits(row.name, row.agentType, row.projectPath, row.gitBranch, row.summary, row.host));
  const here = rows.filter((row) => row.status !== 'away');
  const away = rows.filter((row) => row.status === 'away').sort(byName);
  const machines = group(here, (row) => row.host || mesh.host);
  sync($('peers'), machines, (found) => found.key, makeGroup('machine', 'h3', 'div'), always((cell, found) => {
    setText(cell.caption, flat(found.key) + (found.key === mesh.host ? ' · this machine' : ''));
    const places = group(found.rows, (row) => JSON.stringify([row.repo || row.gitRoot || row.projectPath, row.gitBranch || '']));
    sync(cell.list, places, (place) => place.key, makeGroup('place', 'h4', 'ul'), always((cell, place) => {
      const [path, branch] = JSON.parse(place.key);
      setText(cell.caption, lastPart(path));
      cell.caption.title = tame(path);
      setText(cell.branch, flat(branch));
      cell.branch.hidden = !branch;
      sync(cell.list, place.rows.sort(byName), (row) => row.id, makePeer, always(fillPeer));
    }));
  }));
  sync($('away-list'), away, (row) => row.id, makePeer, always(fillPeer));
  $('away').hidden = away.length === 0;
  setText($('n-away'), String(away.length));
  setText($('n-agents'), String(here.length));
  setText($('more-peers'), mesh.more.peers ? `and ${mesh.more.peers} more agents that are away` : '');
  showEmpty('agents', here.length);
  $('to-all').hidden = here.length === 0;
}

/** Orders peers by name. */
const byName = (a, b) => a.name.localeCompare(b.name);

/** Groups rows by a key, in the order of the keys. */
function group(rows, keyOf) {
  const found = new Map();
  for (const row of rows) {
    const key = keyOf(row);
    if (!found.has(key)) found.set(key, { key, rows: [] });
    found.get(key).rows.push(row);
  }
  return [...found.values()].sort((a, b) => a.key.localeCompare(b.key));
}

const makeGroup = (css, tag, list) => () => {
  const cell = el('div', css);
  const caption = el('bdi');
  const branch = el('bdi', 'branch');
  branch.hidden = true;
  const made = el(list, list === 'ul' ? 'rows' : '');
  cell.append(el(tag, '', caption, branch), made);
  return Object.assign(cell, { caption, branch, list: made });
};

function makePeer(row) {
  const cell = el('li', 'peer');
  const parts = { dot: el('span', 'dot'), state: el('span', 'dim less'), mail: button('', '', () => openMailbox(cell.row)), what: el('p', 'what') };
  parts.dot.setAttribute('aria-hidden', 'true');
  parts.what.dir = 'auto';
  const end = el('span', 'end', parts.mail, button('Write', `Write to ${flat(row.name)}`, () => openWriteDialog(cell.row)));
  cell.append(el('div', 'line', parts.dot, bdi('name', row.name), bdi('dim less', row.agentType), parts.state), parts.what, end);
  return Object.assign(cell, { parts });
}

function fillPeer(cell, row) {
  const idle = now() - row.activeAt;
  const isIdle = row.status === 'active' && idle >= 60e3;
  cell.parts.dot.className = `dot ${isIdle ? 'idle' : row.status}`;
  setText(cell.parts.state, isIdle ? `idle ${span(idle)}` : flat(row.status));
  const unread = row.unread > 0 ? `${row.unread} unread` : '';
  setText(cell.parts.mail, unread || 'Mailbox');
  cell.parts.mail.setAttribute('aria-label', `${unread || 'Mailbox'}: look at the mailbox of ${flat(row.name)}`);
  cell.parts.mail.classList.toggle('flag', Boolean(unread));
  const locks = row.locks?.length ? ` · holds ${row.locks.length} ${row.locks.length > 1 ? 'locks' : 'lock'}` : '';
  setText(cell.parts.what, flat(row.summary) + locks.slice(row.summary ? 0 : 3));
}

addSection('agents', paintAgents);
