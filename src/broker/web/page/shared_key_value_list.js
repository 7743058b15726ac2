// The section of shared state, with the history of each entry.

import { $, always, bdi, clockDay, el, flat, setText, showEmpty, sync, tame } from '/page/dom.js';
import { fits, mesh } from '/page/mesh_state.js';
import { addSection } from '/page/repaint_schedule.js';

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
    facts.replaceChildren(`version ${row.version} by `, bdi('', row.updatedByName), ' ', clockDay(row.updatedAt));
    setText(value, row.gone ? 'deleted' : valueOf(row));
    value.classList.toggle('dim', Boolean(row.gone));
    details.hidden = past.length < 2;
    setText(sum, `History: ${past.length} changes`);
    list.replaceChildren(...past.map((event) => {
      const said = event.type === 'state_deleted' ? 'deleted' : flat(valueOf(event.payload));
      return el('li', '', clockDay(event.createdAt), ` ${event.payload.version}. `, bdi('name', event.emittedByName), ' ', bdi('', said));
    }));
  }));
  setText($('n-state'), String(mesh.entries.size));
  setText($('more-state'), mesh.more.entries ? 'To see more entries, run slm-mesh state list' : '');
  showEmpty('state', rows.length);
}

/** The value of an entry, or how to read a long one. When an entry is deleted, its events lose the value. */
export const valueOf = ({ value, bytes }) => {
  if (typeof value === 'string') return tame(value);
  return bytes === undefined ? '(deleted since)' : `a value of ${bytes} bytes; to read it, run slm-mesh state get`;
};

addSection('state', paintState);
