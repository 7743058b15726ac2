// The page: a stream of frames in, the mesh as people think of it out.
//
// Invariant: text of others becomes text and nothing else. Elements are made by name, words go in as
// text nodes, and what would steer a reader's eye (control and direction marks) is shown as a sign.
'use strict';

const KEPT = { messages: 400, events: 300, history: 20 };
const SHOWN = { messages: 120, events: 120, lanes: 14, ways: 300 };
const STAGES = ['accepted', 'offered', 'read', 'acked'];
const WORDS = { accepted: 'sent', offered: 'offered', read: 'read', acked: 'acked', expired: 'expired' };

const $ = (id) => document.getElementById(id);
const mesh = {};

function clear() {
  Object.assign(mesh, {
    me: '', name: '', host: '', ahead: 0, seq: 0, more: {},
    peers: new Map(), locks: new Map(), messages: new Map(), entries: new Map(), history: new Map(), events: [],
  });
}

// ---- Text -------------------------------------------------------------------------------------

const MARKS = {
  0x07: 'BEL', 0x08: 'BS', 0x0d: 'CR', 0x1b: 'ESC', 0x7f: 'DEL', 0x9b: 'CSI',
  0x61c: 'ALM', 0x200e: 'LRM', 0x200f: 'RLM', 0x202a: 'LRE', 0x202b: 'RLE', 0x202c: 'PDF', 0x202d: 'LRO', 0x202e: 'RLO',
  0x2066: 'LRI', 0x2067: 'RLI', 0x2068: 'FSI', 0x2069: 'PDI', 0x2028: 'LS', 0x2029: 'PS', 0xfeff: 'BOM',
};

/** What cannot be seen, made visible; lines stay lines. */
function tame(text) {
  return String(text ?? '').replace(/[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g, (mark) => {
    const code = mark.codePointAt(0);
    return `\u27e8${MARKS[code] ?? `U+${code.toString(16).padStart(4, '0').toUpperCase()}`}\u27e9`;
  });
}

/** The same on one line. */
const flat = (text) => tame(text).replace(/\s+/g, ' ').trim();

/** An element with a class and children; strings become text. */
function el(tag, css, ...children) {
  const made = document.createElement(tag);
  if (css) made.className = css;
  made.append(...children);
  return made;
}

const bdi = (css, text) => el('bdi', css, flat(text));

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function button(label, name, act) {
  const made = el('button', 'small', label);
  made.type = 'button';
  made.setAttribute('aria-label', name);
  made.addEventListener('click', act);
  return made;
}

// ---- Time -------------------------------------------------------------------------------------

const now = () => Date.now() + mesh.ahead;
const at = (iso) => Date.parse(iso) || 0;

function clock(iso) {
  const date = new Date(iso);
  const made = el('time', 'dim', date.toLocaleTimeString([], { hour12: false }));
  made.dateTime = String(iso);
  made.title = date.toLocaleString();
  return made;
}

function span(ms) {
  if (ms < 90e3) return `${Math.max(0, Math.round(ms / 1e3))} s`;
  if (ms < 90 * 60e3) return `${Math.round(ms / 60e3)} min`;
  return ms < 48 * 3600e3 ? `${Math.round(ms / 3600e3)} h` : `${Math.round(ms / 86400e3)} d`;
}

// ---- What is known ------------------------------------------------------------------------------

function take(frame) {
  const begins = Boolean(frame.hello);
  if (begins) {
    clear();
    Object.assign(mesh, frame.hello);
  }
  mesh.ahead = frame.now - Date.now();
  Object.assign(mesh.more, frame.more);
  for (const change of frame.changes ?? []) remember(change);
  for (const event of frame.events ?? []) {
    if (event.seq <= mesh.seq) continue;
    mesh.seq = event.seq;
    mesh.events.push(event);
    if (!begins) follow(event);
  }
  mesh.events.splice(0, mesh.events.length - KEPT.events);
  for (const row of frame.entries ?? []) mesh.entries.set(`${row.namespace} ${row.key}`, row);
  for (const row of frame.peers ?? []) mesh.peers.set(row.id, row);
  for (const id of frame.left ?? []) mesh.peers.delete(id);
  for (const row of frame.locks ?? []) mesh.locks.set(row.key, row);
  for (const key of frame.freed ?? []) mesh.locks.delete(key);
  for (const row of frame.messages ?? []) {
    const isNew = !mesh.messages.has(row.id);
    mesh.messages.set(row.id, row);
    if (isNew && !begins && row.toPeer === mesh.me) say(`Message from ${flat(row.fromName)}`);
  }
  for (const id of mesh.messages.keys()) {
    if (mesh.messages.size <= KEPT.messages) break;
    mesh.messages.delete(id);
  }
  for (const part of begins ? Object.keys(PARTS) : parts(frame)) old.add(part);
  paintSoon();
}

function parts(frame) {
  const found = [];
  if (frame.peers || frame.left) found.push('agents', 'locks');
  if (frame.locks || frame.freed) found.push('locks');
  if (frame.messages) found.push('messages', 'lanes');
  if (frame.events) found.push('events', 'locks', 'state');
  return found;
}

/** What an event says of locks and state, without waiting for the rows. */
function follow(event) {
  const facts = event.payload ?? {};
  const key = `${facts.token} ${facts.filePath}`;
  if (event.type === 'file_locked' && !mesh.locks.has(key)) {
    mesh.locks.set(key, { ...facts, key, holder: event.emittedByName, lockedAt: event.createdAt, queue: [] });
  } else if (event.type === 'file_unlocked') {
    mesh.locks.delete(key);
  } else if (event.type === 'state_changed' || event.type === 'state_deleted') {
    remember(event);
    const name = `${facts.namespace} ${facts.key}`;
    if (event.type === 'state_deleted') mesh.entries.delete(name);
    else mesh.entries.set(name, { ...facts, updatedAt: event.createdAt, updatedByName: event.emittedByName });
  }
}

function remember(event) {
  const name = `${event.payload.namespace} ${event.payload.key}`;
  const list = mesh.history.get(name) ?? [];
  if (list.some((other) => other.seq === event.seq)) return;
  list.unshift(event);
  list.length = Math.min(list.length, KEPT.history);
  mesh.history.delete(name);
  mesh.history.set(name, list);
}

/** Whether any of these words has what is looked for. */
const fits = (...words) => {
  const wanted = $('filter').value.trim().toLowerCase();
  return !wanted || words.some((word) => String(word ?? '').toLowerCase().includes(wanted));
};
const project = (id) => mesh.peers.get(id)?.projectPath;

// ---- Painting -----------------------------------------------------------------------------------

const old = new Set();
/** What is much to paint is painted anew at most this often, ms; events and locks with every frame. */
const RESTS = { agents: 200, messages: 90, state: 90, lanes: 1000 };
const painted = {};
let painting = false;
let later = 0;

function paintSoon() {
  if (painting) return;
  painting = true;
  requestAnimationFrame(() => {
    painting = false;
    const time = performance.now();
    let rest = Infinity;
    for (const part of old) {
      const wait = (painted[part] ?? -Infinity) + (RESTS[part] ?? 0) - time;
      if (wait > 0) {
        rest = Math.min(rest, wait);
        continue;
      }
      old.delete(part);
      painted[part] = time;
      PARTS[part]();
    }
    clearTimeout(later);
    if (rest < Infinity) later = setTimeout(paintSoon, rest);
  });
}

/** Makes a list show these rows: what stays is filled anew and keeps its focus. */
function sync(list, rows, keyOf, make, fill) {
  const cells = list.cells ?? (list.cells = new Map());
  const wanted = new Set(rows.map(keyOf));
  for (const [key, cell] of cells) {
    if (wanted.has(key)) continue;
    cell.remove();
    cells.delete(key);
  }
  let next = list.firstElementChild;
  for (const row of rows) {
    const key = keyOf(row);
    let cell = cells.get(key);
    if (!cell) {
      cell = make(row);
      cells.set(key, cell);
      cell.row = undefined;
    }
    if (cell.row !== row || fill.always) {
      cell.row = row;
      fill(cell, row);
    }
    if (cell === next) next = next.nextElementSibling;
    else list.insertBefore(cell, next);
  }
}

const still = () => {};
const always = (fill) => Object.assign(fill, { always: true });

function empty(name, n) {
  $(`no-${name}`).hidden = n > 0;
}

// Agents

function lastPart(path) {
  return flat(path).replace(/\/+(\.git)?\/*$/, '').replace(/\.git$/, '').split('/').pop() || '/';
}

function paintAgents() {
  const rows = [...mesh.peers.values()].filter((row) => row.kind !== 'human' &&
    fits(row.name, row.agentType, row.projectPath, row.gitBranch, row.summary, row.host));
  const here = rows.filter((row) => row.status !== 'away');
  const away = rows.filter((row) => row.status === 'away').sort(byName);
  const machines = group(here, (row) => row.host || mesh.host);
  sync($('peers'), machines, (found) => found.key, makeGroup('machine', 'h3', 'div'), always((cell, found) => {
    put(cell.caption, flat(found.key) + (found.key === mesh.host ? ' · this machine' : ''));
    const places = group(found.rows, (row) => JSON.stringify([row.repo || row.gitRoot || row.projectPath, row.gitBranch || '']));
    sync(cell.list, places, (place) => place.key, makeGroup('place', 'h4', 'ul'), always((cell, place) => {
      const [path, branch] = JSON.parse(place.key);
      put(cell.caption, lastPart(path));
      cell.caption.title = tame(path);
      put(cell.branch, flat(branch));
      cell.branch.hidden = !branch;
      sync(cell.list, place.rows.sort(byName), (row) => row.id, makePeer, always(fillPeer));
    }));
  }));
  sync($('away-list'), away, (row) => row.id, makePeer, always(fillPeer));
  $('away').hidden = away.length === 0;
  put($('n-away'), String(away.length));
  put($('n-agents'), String(here.length));
  put($('more-peers'), mesh.more.peers ? `and ${mesh.more.peers} more that are away` : '');
  empty('agents', here.length);
  $('to-all').hidden = here.length === 0;
}

const byName = (a, b) => a.name.localeCompare(b.name);

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
  const cell = el('li');
  const parts = { dot: el('span', 'dot'), state: el('span', 'dim less'), mail: el('span', 'flag'), what: el('p', 'what') };
  parts.dot.setAttribute('aria-hidden', 'true');
  parts.what.dir = 'auto';
  const end = el('span', 'end', parts.mail, button('Write', `Write to ${flat(row.name)}`, () => write(cell.row)));
  cell.append(el('div', 'line', parts.dot, bdi('name', row.name), bdi('dim less', row.agentType), parts.state, end), parts.what);
  return Object.assign(cell, { parts });
}

function fillPeer(cell, row) {
  const idle = now() - row.activeAt;
  const isIdle = row.status === 'active' && idle >= 60e3;
  cell.parts.dot.className = `dot ${isIdle ? 'idle' : row.status}`;
  put(cell.parts.state, isIdle ? `idle ${span(idle)}` : flat(row.status));
  put(cell.parts.mail, row.unread > 0 ? `${row.unread} unread` : '');
  cell.parts.mail.hidden = !(row.unread > 0);
  const locks = row.locks?.length ? ` · holds ${row.locks.length} ${row.locks.length > 1 ? 'locks' : 'lock'}` : '';
  put(cell.parts.what, flat(row.summary) + locks.slice(row.summary ? 0 : 3));
}

// Locks

/** A path as people say it: inside its holder's project, with the project's name before it. */
function pathOf(path, holder) {
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
    const ask = button('Release', `Release ${flat(row.filePath)}`, () => release(cell.row));
    const line = el('div', 'line', path, el('span', 'end', parts.left, ask));
    cell.append(line, el('p', 'less', bdi('name', row.holder), ' ', parts.why), parts.queue);
    return Object.assign(cell, { parts });
  }, always((cell, row) => {
    put(cell.parts.left, row.expiresAt ? `${span(at(row.expiresAt) - now())} left` : '');
    put(cell.parts.why, flat(row.reason));
    const queue = (row.queue ?? []).map(flat);
    put(cell.parts.queue, queue.length ? `In line: ${queue.map((name, n) => `${n + 1}. ${name}`).join('  ')}` : '');
    cell.parts.queue.hidden = queue.length === 0;
  }));
  put($('n-locks'), String(mesh.locks.size + (mesh.more.locks || 0)));
  put($('more-locks'), mesh.more.locks ? `and ${mesh.more.locks} more` : '');
  empty('locks', rows.length);
}

// Messages

const shownMessages = () => [...mesh.messages.values()].filter((row) =>
  fits(row.fromName, row.toName, row.group, row.payload, project(row.fromPeer), project(row.toPeer)));

function paintMessages() {
  const rows = shownMessages();
  const talks = new Map();
  for (const row of rows) {
    const key = row.group ? `${row.fromPeer} ${row.group} ${row.createdAt}` : row.id;
    const known = talks.get(key);
    if (known) known.copies.push(row);
    else talks.set(key, { key, copies: [row], seq: row.seq });
  }
  const list = [...talks.values()].sort((a, b) => b.seq - a.seq).slice(0, SHOWN.messages);
  sync($('message-list'), list, (talk) => talk.key, makeTalk, always(fillTalk));
  const unread = [...mesh.messages.values()].filter(isForMe).length;
  put($('n-messages'), unread ? `${unread} for you` : '');
  empty('messages', list.length);
  $('more-messages').hidden = $('span').parentElement.hidden = list.length === 0;
}

const isForMe = (row) => row.toPeer === mesh.me && row.fromPeer !== mesh.me && ['accepted', 'offered'].includes(row.receipt);

function makeTalk(talk) {
  const [row] = talk.copies;
  const cell = el('li');
  const to = row.group ? `${row.group === 'all' ? 'everyone' : row.group}` : row.toName;
  const parts = { steps: el('span', 'steps'), body: el('div'), each: el('details', 'less'), acts: el('span', 'end') };
  parts.list = el('ul', 'each');
  parts.each.append(el('summary', '', parts.steps), parts.list);
  const arrow = el('span', 'arrow', '→');
  arrow.setAttribute('role', 'img');
  arrow.setAttribute('aria-label', 'to');
  const kind = row.type === 'text' ? '' : el('span', 'flag', flat(row.type));
  const line = el('div', 'line', clock(row.createdAt), bdi('name', row.fromName), arrow, bdi('name', to), kind, parts.each, parts.acts);
  cell.append(line, parts.body);
  return Object.assign(cell, { parts });
}

function fillTalk(cell, talk) {
  const print = talk.copies.map((row) => `${row.id}${row.receipt}${row.surface}${row.wakes?.length}`).join();
  if (cell.print === print) return;
  cell.print = print;
  const { steps, body, list, acts } = cell.parts;
  const isGroup = Boolean(talk.copies[0].group);
  const reached = (row, stage) => STAGES.indexOf(row.receipt) >= STAGES.indexOf(stage);
  if (talk.copies[0].receipt === 'expired' && !isGroup) steps.replaceChildren(el('span', '', 'expired unread'));
  else {
    steps.replaceChildren(...STAGES.map((stage) => {
      const n = talk.copies.filter((row) => reached(row, stage)).length;
      const made = el('span', n ? 'on' : 'off', WORDS[stage] + (isGroup && n ? ` ${stage === 'accepted' ? 'to ' : ''}${n}` : ''));
      if (!n) made.prepend(el('span', 'quiet', 'not '));
      return made;
    }));
  }
  cell.className = talk.copies.some(isForMe) ? 'mine' : '';
  const own = talk.copies.find((row) => row.toPeer === mesh.me) ?? talk.copies.find((row) => row.payload !== undefined);
  fillText(body, acts, own);
  list.replaceChildren(...talk.copies.map((row) => {
    const stages = [['sent', row.createdAt], ['offered', row.offeredAt], ['read', row.readAt], ['acked', row.ackedAt]];
    const words = stages.filter(([, when]) => when).flatMap(([word, when]) => [` ${word} `, clock(when)]);
    const by = row.surface ? ` through ${flat(row.surface)}` : '';
    return el('li', '', isGroup ? bdi('name', row.toName) : '', ...words, by);
  }));
}

function fillText(body, acts, own) {
  body.replaceChildren();
  acts.replaceChildren();
  if (!own) return;
  const isMine = own.toPeer === mesh.me && own.fromPeer !== mesh.me;
  const shown = el('div', 'text prose', tame(own.payload));
  shown.dir = 'auto';
  shown.tabIndex = 0;
  shown.setAttribute('role', 'group');
  shown.setAttribute('aria-label', `Text of the message from ${flat(own.fromName)}`);
  if (own.parts > 1) shown.append(`\n… the first of ${own.parts} parts: slm-mesh inbox shows all`);
  if (!isMine) return body.append(shown);
  acts.append(button('Reply', `Reply to ${flat(own.fromName)}`, () => write({ id: own.fromPeer, name: own.fromName }, own.id)));
  if (!isForMe(own)) return body.append(shown);
  const read = el('details', '', el('summary', '', el('span', 'flag', 'unread'), ' Read it'), shown);
  read.addEventListener('toggle', () => {
    if (read.open) ask('shown', { items: [own.parts ? `${own.id}@${own.upto}` : own.id] }).catch((error) => say(error.message));
  });
  body.append(read);
}

function svg(tag, facts, text) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(facts)) made.setAttribute(name, String(value));
  if (text !== undefined) made.textContent = text;
  return made;
}

/** A lane for each who talked of late; each message goes from its sender's lane to its recipient's. */
function paintLanes() {
  const box = $('lanes');
  const width = Math.max(300, box.clientWidth || 300);
  const end = now();
  const all = shownMessages().slice(-SHOWN.ways);
  // Of late: as far back as there are messages, so that few and many fill the picture.
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
  const busiest = [...counts].sort((a, b) => b[1] - a[1]).slice(0, SHOWN.lanes).map(([id]) => id);
  const lanes = busiest.sort((a, b) => names.get(a).localeCompare(names.get(b)));
  box.hidden = rows.length === 0;
  if (box.hidden) return box.replaceChildren();
  const left = Math.min(170, width * 0.34);
  const step = 24;
  const height = lanes.length * step + 22;
  const x = (time) => left + ((time - (end - length)) / length) * (width - left - 10);
  const y = (id) => lanes.indexOf(id) * step + 14;
  const picture = svg('svg', { viewBox: `0 0 ${width} ${height}`, height, role: 'img' });
  picture.setAttribute('aria-label', `${rows.length} messages among ${counts.size} in the last ${span(length)}; the list below has them`);
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
  picture.append(svg('text', { x: left, y: height - 2, class: 'axis' }, `${span(length)} ago`));
  picture.append(svg('text', { x: width - 2, y: height - 2, class: 'axis', 'text-anchor': 'end' }, 'now'));
  box.replaceChildren(picture);
}

// State

function paintState() {
  const rows = [...mesh.entries].filter(([, row]) => fits(row.key, row.namespace, row.value, row.updatedByName));
  rows.sort(([a], [b]) => (a < b ? -1 : 1));
  const gone = [...mesh.history].filter(([name, list]) => !mesh.entries.has(name) && fits(list[0].payload.key, list[0].payload.namespace));
  for (const [name, list] of gone) rows.push([name, { ...list[0].payload, updatedAt: list[0].createdAt, updatedByName: list[0].emittedByName, gone: true }]);
  sync($('state-list'), rows, ([name]) => name, ([, row]) => {
    const cell = el('li');
    const parts = { facts: el('span', 'end dim less'), value: el('div', 'text'), list: el('ul', 'each'), sum: el('summary') };
    parts.value.dir = 'auto';
    parts.past = el('details', 'less', parts.sum, parts.list);
    const space = row.namespace === 'default' ? '' : bdi('dim', `${row.namespace} /`);
    cell.append(el('div', 'line', space, bdi('name', row.key), parts.facts), parts.value, parts.past);
    return Object.assign(cell, { parts });
  }, always((cell, [name, row]) => {
    const past = mesh.history.get(name) ?? [];
    const print = `${row.version} ${row.gone} ${past.length} ${past[0]?.seq}`;
    if (cell.print === print) return;
    cell.print = print;
    const { facts, value, list, past: details, sum } = cell.parts;
    facts.replaceChildren(`version ${row.version} by `, bdi('', row.updatedByName), ' ', clock(row.updatedAt));
    put(value, row.gone ? 'deleted' : valueOf(row));
    value.classList.toggle('dim', Boolean(row.gone));
    details.hidden = past.length < 2;
    put(sum, `History: ${past.length} changes`);
    list.replaceChildren(...past.map((event) => {
      const said = event.type === 'state_deleted' ? 'deleted' : flat(valueOf(event.payload));
      return el('li', '', clock(event.createdAt), ` ${event.payload.version}. `, bdi('name', event.emittedByName), ' ', bdi('', said));
    }));
  }));
  put($('n-state'), String(mesh.entries.size));
  put($('more-state'), mesh.more.entries ? 'There are more entries: slm-mesh state list' : '');
  empty('state', rows.length);
}

const valueOf = (row) => (typeof row.value === 'string' ? tame(row.value) : `${row.bytes} bytes: slm-mesh state get`);

// Events

function paintEvents() {
  if ($('hold').getAttribute('aria-pressed') === 'true') return;
  const found = mesh.events.filter((event) => {
    const facts = event.payload ?? {};
    return fits(event.type, event.emittedByName, facts.filePath, facts.key, facts.name, project(event.emittedBy), project(facts.toPeer));
  });
  const rows = found.slice(-SHOWN.events).reverse();
  sync($('event-list'), rows, (event) => event.seq, (event) => {
    const line = el('div', 'line', clock(event.createdAt), bdi('type', event.type), bdi('name', event.emittedByName), bdi('less', factsOf(event)));
    return el('li', '', line);
  }, still);
  put($('n-events'), '');
  empty('events', rows.length);
}

function factsOf(event) {
  const facts = event.payload ?? {};
  const name = (id) => mesh.peers.get(id)?.name ?? String(id ?? '').slice(0, 8);
  switch (event.type) {
    case 'file_locked':
    case 'file_unlocked': return `${pathOf(facts.filePath ?? '', event.emittedBy).join('')} ${facts.reason ?? ''}`;
    case 'message_received': return facts.count === undefined ? `to ${name(facts.toPeer)}` : `to ${facts.toPeer} (${facts.count})`;
    case 'message_read': return `from ${name(facts.fromPeer)}`;
    case 'peer_joined': return `${facts.agentType ?? ''} ${facts.projectPath ?? ''}`;
    case 'peer_left': return facts.reason ?? '';
    case 'peer_updated': return facts.summary ?? '';
    case 'state_changed': return `${facts.key} = ${valueOf(facts)}`.slice(0, 200);
    case 'state_deleted': return facts.key ?? '';
    default: return JSON.stringify(facts).slice(0, 200);
  }
}

const PARTS = { agents: paintAgents, locks: paintLocks, messages: paintMessages, lanes: paintLanes, state: paintState, events: paintEvents };

function repaint(...names) {
  for (const name of names.length ? names : Object.keys(PARTS)) old.add(name);
  paintSoon();
}

// ---- What the human does ------------------------------------------------------------------------

let saying = 0;

function say(text) {
  put($('say'), text);
  clearTimeout(saying);
  saying = setTimeout(() => put($('say'), ''), 6000);
}

/** Asks the mesh for something, as the human. */
async function ask(method, params) {
  const answer = await post('/web/call', { method, params });
  const value = await answer.json();
  if (!answer.ok || value.ok === false) throw new Error(tame(value.error ?? answer.statusText));
  return value;
}

/** A dialog whose main button does something; it stays open, with the reason, where that fails. */
function dialog(id, act) {
  const box = $(id);
  const wrong = $(`${id}-wrong`);
  put(wrong, '');
  box.querySelector('form').onsubmit = async (event) => {
    event.preventDefault();
    const main = box.querySelector('.main');
    main.disabled = true;
    try {
      say(await act());
      box.close();
    } catch (error) {
      put(wrong, error.message);
    } finally {
      main.disabled = false;
    }
  };
  box.showModal();
}

function write(peer, replyTo) {
  put($('h-write'), `Write to ${flat(peer.name)}`);
  put($('write-note'), peer.status === 'away' ? 'Away: it waits in the mailbox.' : `You write as ${flat(mesh.name)}.`);
  const key = `web-${crypto.randomUUID()}`;
  dialog('write', async () => {
    const message = $('text').value;
    const sent = await ask('send', { to: peer.id, message, key, ...(replyTo && { replyTo }) });
    $('text').value = '';
    const all = sent.recipients ?? [];
    return all.length === 1 && all[0].here === false ? `Sent to ${flat(peer.name)}, who is away: it waits in the mailbox` : `Sent to ${flat(peer.name)}`;
  });
}

function release(row) {
  const own = row.lockedBy === mesh.me;
  put($('release-path'), tame(row.filePath));
  put($('release-note'), own ? 'It is yours.' : `${flat(row.holder)} holds it${row.reason ? `: ${flat(row.reason)}` : ''}. It is told that you took it away.`);
  dialog('release', async () => {
    await ask('lock.unlock', { filePath: row.filePath, token: row.token });
    return `Released ${flat(row.filePath)}`;
  });
}

// ---- The line to the broker -----------------------------------------------------------------------

const SAFE = { credentials: 'same-origin', cache: 'no-store', redirect: 'error', referrerPolicy: 'no-referrer' };

function post(path, body, signal) {
  const headers = { 'Content-Type': 'application/json', 'X-Mesh-Page': localStorage.getItem('slm-mesh') ?? '' };
  return fetch(path, { ...SAFE, method: 'POST', headers, body: JSON.stringify(body), signal });
}

/** The first page of a session is given its key. */
async function claim() {
  const answer = await fetch('/web/key', { ...SAFE, method: 'POST' });
  if (!answer.ok) return false;
  localStorage.setItem('slm-mesh', (await answer.json()).key);
  return true;
}

function show(state, text) {
  $('link').className = state;
  put($('link'), text);
  if (state === 'live' || state === 'shut') {
    $('door').hidden = state === 'live';
    $('mesh').hidden = $('tools').hidden = state !== 'live';
  }
}

/** Hears until the line breaks; false if we are not let in. */
async function listen() {
  const stop = new AbortController();
  if (!localStorage.getItem('slm-mesh') && !(await claim())) return false;
  let answer = await post('/web/events', {}, stop.signal);
  // The key may be one of an earlier session.
  if (answer.status === 401 && await claim()) answer = await post('/web/events', {}, stop.signal);
  if (answer.status === 401) return false;
  if (!answer.ok) throw new Error((await answer.json()).error);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  let timer = 0;
  for (;;) {
    // There is a sign of life each 20 s; without it the line is dead, as after a sleep.
    timer = setTimeout(() => stop.abort(), 50e3);
    const { value, done } = await reader.read();
    clearTimeout(timer);
    if (done) return true;
    const frames = (rest + value).split('\n\n');
    rest = frames.pop();
    for (const frame of frames) {
      if (!frame.startsWith('data: ')) continue;
      take(JSON.parse(frame.slice(6)));
      if ($('link').className !== 'live') {
        show('live', 'Live');
        put($('where'), `on ${flat(mesh.host)} · you are ${flat(mesh.name)}`);
        repaint();
      }
    }
  }
}

async function main() {
  if (location.hash === '#used') {
    put($('why'), 'That link was used before, or is older than a minute.');
    history.replaceState(null, '', '/');
  }
  for (let wait = 500; ; wait = Math.min(wait * 2, 5000)) {
    try {
      if (!(await listen())) return show('shut', 'Not connected');
      wait = 250;
      show('lost', 'The line broke; trying again');
    } catch (error) {
      show('lost', `No broker (${tame(error.message)}); waiting for it`);
    }
    await new Promise((go) => setTimeout(go, wait));
  }
}

clear();
$('to-all').addEventListener('click', () => write({ id: 'all', name: 'everyone' }));
$('filter').addEventListener('input', () => repaint());
$('span').addEventListener('change', () => repaint('lanes'));
$('hold').addEventListener('click', () => {
  const held = $('hold').getAttribute('aria-pressed') !== 'true';
  $('hold').setAttribute('aria-pressed', String(held));
  repaint('events');
});
$('text').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) $('write').querySelector('form').requestSubmit();
});
for (const close of document.querySelectorAll('[data-close]')) close.addEventListener('click', () => close.closest('dialog').close());
addEventListener('resize', () => repaint('lanes'));
// Clocks on the page go on by themselves; the broker is not asked.
setInterval(() => repaint('agents', 'locks'), 5000);
setInterval(() => repaint('lanes'), 10000);
main();
