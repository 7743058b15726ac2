// The mailbox of one agent, as that agent sees it. To look marks nothing as read.

import { $, el, flat, setText } from '/page/dom.js';
import { callMesh } from '/page/connection.js';
import { foundRow } from '/page/search.js';

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
    setText($('mailbox-note'), `${n} unread, oldest first. Looking changes nothing for ${flat(peer.name)} and the senders.`);
    const rest = unread.remaining > 0 ? [el('li', 'dim', `${unread.remaining} more unread`)] : [];
    const title = (text) => el('li', 'caption', text);
    $('mailbox-list').replaceChildren(
      ...unread.messages.map((row) => foundRow({ ...row, toName: peer.name }, false)), ...rest,
      ...(read.length ? [title('Read, newest first')] : []),
      ...read.map((row) => foundRow({ ...row, toName: peer.name }, false)),
    );
  } catch (error) {
    setText($('mailbox-note'), error.message);
  }
}
