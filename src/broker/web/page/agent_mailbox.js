// The mailbox of one agent, as that agent sees it. Opening the mailbox here marks nothing as read.

import { $, el, flat, setText } from '/page/dom.js';
import { callMesh } from '/page/calls_and_event_stream.js';
import { foundRow } from '/page/message_search.js';

/** Opens the mailbox of a peer. */
export async function openMailbox(peer) {
  const box = $('mailbox');
  setText($('h-mailbox'), `Mailbox of ${flat(peer.name)}`);
  setText($('mailbox-note'), 'Loading …');
  $('mailbox-list').replaceChildren();
  if (!box.open) box.showModal();
  try {
    const look = (filter, limit) => callMesh('inbox', { filter, limit }, peer.id);
    const [unread, all] = [await look('unread', 100), await look('all', 40)];
    const read = all.messages.filter((row) => ['read', 'acked'].includes(row.receipt)).reverse();
    const n = unread.messages.length + unread.remaining;
    setText($('mailbox-note'), `${n} unread, oldest first. Reading messages here changes nothing for ${flat(peer.name)} or for the senders.`);
    const show = (rows) => rows.map((row) => foundRow({ ...row, toName: peer.name }, false));
    const note = (css, text) => el('li', css, text);
    $('mailbox-list').replaceChildren(
      ...show(unread.messages),
      ...(unread.remaining > 0 ? [note('dim', `${unread.remaining} more unread`)] : []),
      ...(read.length ? [note('caption', 'Read, newest first'), ...show(read)] : []),
      ...(all.more ? [note('dim', `For older messages, run slm-mesh inbox --as ${flat(peer.name)} --filter all --after 0`)] : []),
    );
  } catch (error) {
    setText($('mailbox-note'), error.message);
  }
}
