// The state of the mesh as far as the page knows it. Each frame of the event stream updates this state.

import { $, flat } from '/page/dom.js';
import { showNotice } from '/page/dialogs.js';
import { repaint, repaintAll } from '/page/repaint_schedule.js';

/** How many rows of each kind the page keeps. The number for `history` applies to each entry. */
const KEPT = { messages: 400, events: 300, history: 20 };

export const mesh = {};

/** Resets the state. */
export function clear() {
  Object.assign(mesh, {
    me: '', name: '', host: '', hubs: null, ahead: 0, seq: 0, more: {},
    peers: new Map(), locks: new Map(), messages: new Map(), entries: new Map(), history: new Map(), events: [],
  });
}

/** A name that only this entry of the shared state has, because a namespace and a key may contain any character. */
const entryName = ({ namespace, key }) => JSON.stringify([namespace, key]);

/** The time of the broker, in ms. */
export const now = () => Date.now() + mesh.ahead;

/** Applies a frame of the event stream. */
export function applyFrame(frame) {
  const begins = Boolean(frame.hello);
  if (begins) {
    clear();
    Object.assign(mesh, frame.hello);
  }
  mesh.ahead = frame.now - Date.now();
  Object.assign(mesh.more, frame.more);
  for (const change of frame.changes ?? []) addToHistory(change);
  for (const event of frame.events ?? []) {
    if (event.seq <= mesh.seq) continue;
    mesh.seq = event.seq;
    mesh.events.push(event);
    if (!begins) applyEvent(event);
  }
  mesh.events.splice(0, mesh.events.length - KEPT.events);
  for (const row of frame.entries ?? []) mesh.entries.set(entryName(row), row);
  for (const row of frame.peers ?? []) mesh.peers.set(row.id, row);
  for (const id of frame.left ?? []) mesh.peers.delete(id);
  for (const row of frame.locks ?? []) mesh.locks.set(row.key, row);
  for (const key of frame.freed ?? []) mesh.locks.delete(key);
  for (const row of frame.messages ?? []) {
    const isNew = !mesh.messages.has(row.id);
    mesh.messages.set(row.id, row);
    if (isNew && !begins && row.toPeer === mesh.me) showNotice(`Message from ${flat(row.fromName)}`);
  }
  for (const id of mesh.messages.keys()) {
    if (mesh.messages.size <= KEPT.messages) break;
    mesh.messages.delete(id);
  }
  if (begins) repaintAll();
  else repaint(...changedSections(frame));
}

/** The sections that a frame changes. */
function changedSections(frame) {
  const found = [];
  if (frame.peers || frame.left) found.push('agents', 'locks', 'messages');
  if (frame.locks || frame.freed) found.push('locks');
  if (frame.messages) found.push('messages', 'lanes');
  if (frame.events) found.push('events', 'locks', 'state');
  return found;
}

/** Applies an event to the shared state or the locks. The complete rows of locks follow in a later frame. */
function applyEvent(event) {
  const facts = event.payload ?? {};
  const key = `${facts.token} ${facts.filePath}`;
  if (event.type === 'file_locked' && !mesh.locks.has(key)) {
    mesh.locks.set(key, { ...facts, key, holder: event.emittedByName, lockedAt: event.createdAt, queue: [] });
  } else if (event.type === 'file_unlocked') {
    mesh.locks.delete(key);
  } else if (event.type === 'state_changed' || event.type === 'state_deleted') {
    addToHistory(event);
    const name = entryName(facts);
    if (event.type === 'state_deleted') mesh.entries.delete(name);
    else mesh.entries.set(name, { ...facts, updatedAt: event.createdAt, updatedByName: event.emittedByName });
  }
}

/** Adds a change to the history of the entry. */
function addToHistory(event) {
  const name = entryName(event.payload);
  const list = mesh.history.get(name) ?? [];
  if (list.some((other) => other.seq === event.seq)) return;
  list.unshift(event);
  list.length = Math.min(list.length, KEPT.history);
  mesh.history.delete(name);
  mesh.history.set(name, list);
}

/** Whether any of these words contains the filter's text. A word from an event of a peer may be any JSON value. */
export const fits = (...words) => {
  const wanted = $('filter').value.trim().toLowerCase();
  const text = (word) => (typeof word === 'string' ? word : JSON.stringify(word));
  return !wanted || words.some((word) => (word ?? '') !== '' && text(word).toLowerCase().includes(wanted));
};
/** The directory of a peer's project. */
export const project = (id) => mesh.peers.get(id)?.projectPath;
