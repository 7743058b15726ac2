// The page: it connects to the broker, and shows agents, messages, locks, state and events.

import '/page/agents.js';
import '/page/message_timeline.js';
import '/page/locks.js';
import '/page/messages.js';
import '/page/message_search.js';
import '/page/agent_mailbox.js';
import '/page/shared_key_value_list.js';
import '/page/events_list.js';
import { $, setText, tame } from '/page/dom.js';
import { listen, showState } from '/page/calls_and_event_stream.js';
import { openWriteDialog } from '/page/dialogs.js';
import { clear } from '/page/mesh_state.js';
import { repaint, repaintAll } from '/page/repaint_schedule.js';

async function main() {
  if (location.hash === '#used') {
    setText($('why'), 'That link was used before, or is older than a minute.');
    history.replaceState(null, '', '/');
  }
  for (let wait = 500; ; wait = Math.min(wait * 2, 5000)) {
    try {
      if (!(await listen())) return showState('shut', 'Not connected');
      wait = 250;
      showState('lost', 'The connection was lost; trying again');
    } catch (error) {
      showState('lost', `No broker (${tame(error.message)}); waiting for one`);
    }
    await new Promise((go) => setTimeout(go, wait));
  }
}

clear();
$('to-all').addEventListener('click', () => openWriteDialog({ id: 'all', name: 'everyone' }));
$('filter').addEventListener('input', () => repaintAll());
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
// Updates the times on the page, which needs no call to the broker.
setInterval(() => repaint('agents', 'locks'), 5000);
setInterval(() => repaint('lanes'), 10000);
main();
