// The section of messages: conversations with folded replies, and the text and the receipts of each message.

import { $, always, bdi, button, clock, clockDay, el, flat, setText, showEmpty, sync, tame } from '/page/dom.js';
import { callMesh } from '/page/calls_and_event_stream.js';
import { openWriteDialog, showNotice } from '/page/dialogs.js';
import { fits, mesh, project } from '/page/mesh_state.js';
import { addSection } from '/page/repaint_schedule.js';
import { showConversation } from '/page/message_search.js';

const SHOWN_MAX = 120;
const STAGES = ['accepted', 'offered', 'read', 'acked'];
const WORDS = { accepted: 'sent', offered: 'offered', read: 'read', acked: 'acked', expired: 'expired' };

/** The messages that fit the filter. */
export const shownMessages = () => [...mesh.messages.values()].filter((row) =>
  fits(row.fromName, row.toName, row.group, row.payload, project(row.fromPeer), project(row.toPeer)));

function paintMessages() {
  const list = threadsOf(talksOf(shownMessages())).sort((a, b) => b.seq - a.seq).slice(0, SHOWN_MAX);
  sync($('message-list'), list, (thread) => thread.key, makeThread, always(fillThread));
  // The page may not have all unread messages, so it shows the broker's count of them.
  const unread = mesh.peers.get(mesh.me)?.unread ?? 0;
  setText($('n-messages'), unread ? `${unread} for you` : '');
  showEmpty('messages', list.length);
  $('more-messages').hidden = $('span').parentElement.hidden = list.length === 0;
}

/** The sent messages, each with its copies: one copy, or several if the message went to a group. */
function talksOf(rows) {
  const talks = new Map();
  for (const row of rows) {
    const key = row.group ? `${row.fromPeer} ${row.group} ${row.createdAt}` : row.id;
    const known = talks.get(key);
    if (known) known.copies.push(row);
    else talks.set(key, { key, copies: [row] });
  }
  for (const talk of talks.values()) talk.copies.sort((a, b) => a.seq - b.seq);
  return [...talks.values()];
}

/** The conversations. Each has its first message, if the page has that message, and the replies, oldest first. */
function threadsOf(talks) {
  const threads = new Map();
  for (const talk of talks.sort((a, b) => a.copies[0].seq - b.copies[0].seq)) {
    const [first] = talk.copies;
    const key = first.thread ?? first.id;
    if (!threads.has(key)) threads.set(key, { key, replies: [] });
    const thread = threads.get(key);
    if (key === first.id) thread.head = talk;
    else thread.replies.push(talk);
    thread.seq = first.seq;
  }
  return [...threads.values()];
}

function makeThread() {
  const cell = el('li', 'thread');
  const parts = { head: el('div'), count: el('span'), flag: el('span', 'flag', 'unread'), list: el('ul', 'rows replies') };
  parts.fold = el('details', 'less', el('summary', '', parts.count, ' ', parts.flag), parts.list);
  cell.append(parts.head, parts.fold);
  return Object.assign(cell, { parts });
}

function fillThread(cell, thread) {
  const { head, count, flag, fold, list } = cell.parts;
  const heads = thread.head ? [thread.head] : [];
  sync(head, heads, (talk) => talk.key, (talk) => makeTalk(talk, 'div'), always(fillTalk));
  sync(list, thread.replies, (talk) => talk.key, (talk) => makeTalk(talk, 'li'), always(fillTalk));
  fold.hidden = thread.replies.length === 0;
  cell.classList.toggle('mine', Boolean(thread.head?.copies.some(isForMe)));
  if (fold.hidden) return;
  const last = thread.replies.at(-1).copies[0];
  const n = `${thread.replies.length} ${thread.replies.length === 1 ? 'reply' : 'replies'}`;
  setText(count, `${n}${thread.head ? '' : ' to an earlier message'}, the last from ${flat(last.fromName)}`);
  flag.hidden = !thread.replies.some((talk) => talk.copies.some(isForMe));
}

/** Whether a message waits for the user to read it. */
const isForMe = (row) => row.toPeer === mesh.me && row.fromPeer !== mesh.me && ['accepted', 'offered'].includes(row.receipt);

function makeTalk(talk, tag) {
  const [row] = talk.copies;
  const cell = el(tag);
  const parts = { steps: el('span', 'steps'), body: el('div'), each: el('details', 'less'), acts: el('span', 'end') };
  parts.list = el('ul', 'each');
  parts.each.append(el('summary', '', parts.steps), parts.list);
  const line = routeLine(row, clockDay(row.createdAt));
  line.append(parts.each, parts.acts);
  cell.append(line, parts.body);
  return Object.assign(cell, { parts });
}

/** The first line of a message: the time, the sender and the recipient. */
export function routeLine(row, time) {
  const to = row.group ? (row.group === 'all' ? 'everyone' : row.group) : row.toName;
  const arrow = el('span', 'arrow', '→');
  arrow.setAttribute('role', 'img');
  arrow.setAttribute('aria-label', 'to');
  const kind = row.type === 'text' ? '' : el('span', 'flag', flat(row.type));
  return el('div', 'line', time, bdi('name', row.fromName), arrow, bdi('name', to), kind);
}

/** The text of a message, in a box that can be scrolled with the keyboard. */
export function textBox(row) {
  const shown = el('div', 'text prose', tame(row.payload));
  shown.dir = 'auto';
  shown.tabIndex = 0;
  shown.setAttribute('role', 'group');
  shown.setAttribute('aria-label', `Text of the message from ${flat(row.fromName)}`);
  return shown;
}

function fillTalk(cell, talk) {
  const print = talk.copies.map((row) => `${row.id}${row.receipt}${row.channel}${row.reason}${row.wakes?.length}`).join();
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
  cell.classList.toggle('mine', cell.tagName === 'LI' && talk.copies.some(isForMe));
  const own = talk.copies.find((row) => row.toPeer === mesh.me) ?? talk.copies.find((row) => row.payload !== undefined);
  fillText(body, acts, own);
  list.replaceChildren(...talk.copies.map((row) => {
    const stages = [['sent', row.createdAt], ['offered', row.offeredAt], ['read', row.readAt], ['acked', row.ackedAt]];
    const words = stages.filter(([, when]) => when).flatMap(([word, when]) => [` ${word} `, clock(when)]);
    const why = row.reason ? `: ${flat(row.reason)}` : '';
    const by = row.channel ? ` through ${flat(row.channel)}${why}` : '';
    return el('li', '', isGroup ? bdi('name', row.toName) : '', ...words, by);
  }));
}

/** Shows the text of a message. */
function fillText(body, acts, own) {
  body.replaceChildren();
  acts.replaceChildren();
  if (!own) return;
  const isMine = own.toPeer === mesh.me && own.fromPeer !== mesh.me;
  const shown = textBox(own);
  if (own.parts > 1) {
    shown.append('\n…');
    acts.append(button('Show all', `Show all of the message from ${flat(own.fromName)}`, () => showConversation(own.id)));
  }
  if (!isMine) return body.append(shown);
  acts.append(button('Reply', `Reply to ${flat(own.fromName)}`, () => openWriteDialog({ id: own.fromPeer, name: own.fromName }, own.id)));
  if (!isForMe(own)) return body.append(shown);
  const read = el('details', '', el('summary', '', el('span', 'flag', 'unread'), ' Read it'), shown);
  read.addEventListener('toggle', () => {
    if (read.open) callMesh('inbox.mark_read', { items: [own.parts ? `${own.id}@${own.upto}` : own.id] }).catch((error) => showNotice(error.message));
  });
  body.append(read);
}

addSection('messages', paintMessages);
