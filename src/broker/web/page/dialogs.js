// Notices, and the dialogs in which the user writes a message or releases a lock.

import { $, flat, setText, tame } from '/page/dom.js';
import { callMesh } from '/page/calls_and_event_stream.js';
import { mesh } from '/page/mesh_state.js';

let noticeTimer = 0;

/** Shows a notice for a few seconds. */
export function showNotice(text) {
  setText($('say'), text);
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => setText($('say'), ''), 6000);
}

/** Opens a dialog whose main button runs `act`. If `act` fails, the dialog stays open and shows why. */
function openDialog(id, act) {
  const box = $(id);
  const wrong = $(`${id}-wrong`);
  setText(wrong, '');
  box.querySelector('form').onsubmit = async (event) => {
    event.preventDefault();
    const main = box.querySelector('.main');
    main.disabled = true;
    try {
      showNotice(await act());
      box.close();
    } catch (error) {
      setText(wrong, error.message);
    } finally {
      main.disabled = false;
    }
  };
  box.showModal();
}

/** Asks for the text of a message, and sends it. */
export function openWriteDialog(peer, replyTo) {
  setText($('h-write'), `Write to ${flat(peer.name)}`);
  setText($('write-note'), peer.status === 'away' ? 'This agent is away. The message will wait in its mailbox.' : `You write as ${flat(mesh.name)}.`);
  const key = `web-${crypto.randomUUID()}`;
  openDialog('write', async () => {
    const message = $('text').value;
    const sent = await callMesh('send', { to: peer.id, message, key, ...(replyTo && { replyTo }) });
    $('text').value = '';
    const all = sent.recipients ?? [];
    return all.length === 1 && all[0].here === false ? `Sent to ${flat(peer.name)}, who is away; the message waits in the mailbox` : `Sent to ${flat(peer.name)}`;
  });
}

/** Asks whether to release a lock, and releases it. */
export function openReleaseDialog(row) {
  const own = row.lockedBy === mesh.me;
  setText($('release-path'), tame(row.filePath));
  setText($('release-note'), own ? 'You hold this lock.' : `${flat(row.holder)} holds this lock${row.reason ? `: ${flat(row.reason)}` : ''}. The holder will be notified.`);
  openDialog('release', async () => {
    await callMesh('lock.unlock', { filePath: row.filePath, token: row.token });
    return `Released ${flat(row.filePath)}`;
  });
}
