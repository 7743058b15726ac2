// The picture that shows which peers have exchanged messages, and when.

import { $, at, flat, span, svg } from '/page/dom.js';
import { now } from '/page/mesh_state.js';
import { shownMessages } from '/page/messages.js';
import { addSection } from '/page/repaint_schedule.js';

const LANES_MAX = 14;
const MESSAGES_MAX = 300;

/** Draws a lane for each of the busiest peers, and an arrow for each message, from lane to lane. */
function paintLanes() {
  const box = $('lanes');
  const width = Math.max(300, box.clientWidth || 300);
  const end = now();
  const all = shownMessages().slice(-MESSAGES_MAX);
  // If the user has not chosen a time span, the picture begins with the first message, but at most a day ago. So the
  // messages fill the picture, even if there are only a few.
  const length = Number($('span').value) || Math.min(86400e3, Math.max(20e3, (end - at(all[0]?.createdAt)) * 1.02));
  const rows = all.filter((row) => at(row.createdAt) >= end - length);
  const counts = new Map();
  const names = new Map();
  for (const row of rows) {
    for (const [id, name] of [[row.fromPeer, row.fromName], [row.toPeer, row.toName]]) {
      counts.set(id, (counts.get(id) ?? 0) + 1);
      names.set(id, flat(name));
    }
  }
  const busiest = [...counts].sort((a, b) => b[1] - a[1]).slice(0, LANES_MAX).map(([id]) => id);
  const lanes = busiest.sort((a, b) => names.get(a).localeCompare(names.get(b)));
  box.hidden = rows.length === 0;
  if (box.hidden) return box.replaceChildren();
  const left = Math.min(170, width * 0.34);
  const step = 24;
  const height = lanes.length * step + 25;
  const x = (time) => left + ((time - (end - length)) / length) * (width - left - 10);
  const y = (id) => lanes.indexOf(id) * step + 14;
  const picture = svg('svg', { viewBox: `0 0 ${width} ${height}`, height, role: 'img' });
  picture.setAttribute('aria-label', `${rows.length} messages among ${counts.size} peers in the last ${span(length)}; the list below shows these messages`);
  for (const id of lanes) {
    const name = names.get(id);
    const max = Math.floor(left / 7.2);
    picture.append(svg('text', { x: 0, y: y(id) + 4 }, name.length > max ? `${name.slice(0, max - 1)}…` : name));
    picture.append(svg('line', { x1: left, x2: width, y1: y(id), y2: y(id), class: 'lane' }));
  }
  for (const row of rows) {
    if (!lanes.includes(row.fromPeer) || !lanes.includes(row.toPeer)) continue;
    const [when, from, to] = [x(at(row.createdAt)), y(row.fromPeer), y(row.toPeer)];
    const css = ['read', 'acked'].includes(row.receipt) ? ' read' : '';
    const back = to > from ? -5 : 5;
    picture.append(svg('line', { x1: when, x2: when, y1: from, y2: to, class: `sent${css}` }));
    picture.append(svg('circle', { cx: when, cy: from, r: 2.5, class: `tip${css}` }));
    picture.append(svg('path', { d: `M${when} ${to}l-4 ${back}h8z`, class: `tip${css}` }));
  }
  picture.append(svg('text', { x: left, y: height - 5, class: 'axis' }, `${span(length)} ago`));
  picture.append(svg('text', { x: width - 2, y: height - 5, class: 'axis', 'text-anchor': 'end' }, 'now'));
  box.replaceChildren(picture);
}

addSection('lanes', paintLanes);
