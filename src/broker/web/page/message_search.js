// The search in all messages, and the view of one conversation. Both appear above the list of messages.

import { $, button, clockDay, el, flat, setText } from '/page/dom.js';
import { callMesh } from '/page/calls_and_event_stream.js';
import { routeLine, textBox } from '/page/messages.js';

/** How many messages one search shows. */
const FOUND_MAX = 60;
/** Maximum number of steps that a search takes. In each step, the broker looks at a thousand messages. */
const STEPS_MAX = 200;

/** The number of the newest search or view. An older search that is still running stops when this has changed. */
let running = 0;

/** Shows messages that contain all these words, the latest first. */
async function search(words) {
  const own = ++running;
  const found = [];
  let before;
  let more = true;
  show(`Searching for “${flat(words)}” …`, found);
  for (let step = 0; more && found.length < FOUND_MAX && step < STEPS_MAX; step += 1) {
    const page = await callMesh('log', { search: words, limit: FOUND_MAX - found.length, ...(before && { before }) });
    if (own !== running) return;
    found.push(...page.messages.reverse());
    ({ before, more } = page);
  }
  const n = found.length === 1 ? '1 message' : `${found.length} messages`;
  show(`${more ? `The latest ${n}` : n} with “${flat(words)}”`, found, true);
}

/** Shows a message and the replies to it, oldest first. */
async function openThread(id) {
  running += 1;
  const page = await callMesh('log', { thread: id, after: 0, limit: 100 });
  show(page.more ? 'The beginning of this conversation' : 'The whole conversation', page.messages, false);
}

/** Shows the conversation of a message above the list, with the whole text of each message. */
export function showConversation(id) {
  openThread(id).then(() => $('found').scrollIntoView({ block: 'nearest' })).catch(failed);
}

function show(title, rows, canOpen) {
  $('found').hidden = false;
  setText($('found-title'), title);
  $('found-list').replaceChildren(...rows.map((row) => foundRow(row, canOpen)));
}

/** A row that shows a message, in a list that does not change by itself. */
export function foundRow(row, canOpen) {
  const line = routeLine(row, clockDay(row.createdAt));
  const receipts = row.receipts ? Object.entries(row.receipts).map(([word, n]) => `${n} ${word}`).join(', ') : row.receipt;
  line.append(el('span', 'dim less', flat(receipts)));
  if (canOpen) {
    const open = () => showConversation(row.thread ?? row.id);
    line.append(el('span', 'end', button('Conversation', `The conversation of the message from ${flat(row.fromName)}`, open)));
  }
  return el('li', row.thread && !canOpen ? 'reply' : '', line, textBox(row));
}

function failed(error) {
  show(`The search failed: ${error.message}`, []);
}

function close() {
  running += 1;
  $('found').hidden = true;
  $('words').value = '';
  $('words').focus();
}

$('search').addEventListener('submit', (event) => {
  event.preventDefault();
  const words = $('words').value.trim();
  if (words) search(words).catch(failed);
  else close();
});
$('found-close').addEventListener('click', close);
