// The section of locks.

import { $, always, at, bdi, button, el, flat, lastPart, setText, showEmpty, span, sync, tame } from '/page/dom.js';
import { openReleaseDialog } from '/page/dialogs.js';
import { fits, mesh, now, project } from '/page/mesh_state.js';
import { addSection } from '/page/repaint_schedule.js';

/** The folder and the name of a path. For a path in the holder's project, the folder begins with the project's name. */
export function pathOf(path, holder) {
  const root = (project(holder) || '').replace(/\/+$/, '');
  const inside = root && path.startsWith(`${root}/`) ? `${lastPart(root)}${path.slice(root.length)}` : path;
  const cut = inside.lastIndexOf('/', inside.length - 2) + 1;
  return [tame(inside.slice(0, cut)), tame(inside.slice(cut))];
}

function paintLocks() {
  const rows = [...mesh.locks.values()].filter((row) => fits(row.filePath, row.holder, row.reason, project(row.lockedBy)));
  rows.sort((a, b) => (a.filePath < b.filePath ? -1 : 1));
  sync($('lock-list'), rows, (row) => row.key, (row) => {
    const cell = el('li');
    const [folder, name] = pathOf(row.filePath, row.lockedBy);
    const path = el('bdi', 'path', el('span', 'folder', folder), el('b', '', name));
    path.title = tame(row.filePath);
    const parts = { left: el('span', 'dim num less'), why: el('bdi', 'less'), queue: el('p', 'wait less') };
    const ask = button('Release', `Release ${flat(row.filePath)}`, () => openReleaseDialog(cell.row));
    const line = el('div', 'line', path, el('span', 'end', parts.left, ask));
    cell.append(line, el('p', 'less', bdi('name', row.holder), ' ', parts.why), parts.queue);
    return Object.assign(cell, { parts });
  }, always((cell, row) => {
    setText(cell.parts.left, row.expiresAt ? `${span(at(row.expiresAt) - now())} left` : '');
    setText(cell.parts.why, flat(row.reason));
    const queue = (row.queue ?? []).map(flat);
    setText(cell.parts.queue, queue.length ? `Waiting: ${queue.map((name, n) => `${n + 1}. ${name}`).join('  ')}` : '');
    cell.parts.queue.hidden = queue.length === 0;
  }));
  setText($('n-locks'), String(mesh.locks.size + (mesh.more.locks || 0)));
  setText($('more-locks'), mesh.more.locks ? `and ${mesh.more.locks} more` : '');
  showEmpty('locks', rows.length);
}

addSection('locks', paintLocks);
