// The section of events.

import { $, bdi, clockDay, el, setText, showEmpty, still, sync } from '/page/dom.js';
import { pathOf } from '/page/locks.js';
import { fits, mesh, project } from '/page/mesh_state.js';
import { addSection } from '/page/repaint_schedule.js';
import { valueOf } from '/page/shared_key_value_list.js';

const SHOWN_MAX = 120;

function paintEvents() {
  if ($('hold').getAttribute('aria-pressed') === 'true') return;
  const found = mesh.events.filter((event) => {
    const facts = event.payload ?? {};
    return fits(event.type, event.emittedByName, facts.filePath, facts.key, facts.name, project(event.emittedBy), project(facts.toPeer));
  });
  const rows = found.slice(-SHOWN_MAX).reverse();
  sync($('event-list'), rows, (event) => event.seq, (event) => {
    const line = el('div', 'line', clockDay(event.createdAt), bdi('type', event.type), bdi('name', event.emittedByName), bdi('less', factsOf(event)));
    return el('li', '', line);
  }, still);
  setText($('n-events'), '');
  showEmpty('events', rows.length);
}

/** What an event says, in a few words. */
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

addSection('events', paintEvents);
