// Makes and changes elements of the page.
//
// Invariant: text that others wrote is shown as text and never becomes markup. Elements are created by name, texts go
// in as text nodes, and characters that would mislead a reader (control and direction marks) become visible signs.

export const $ = (id) => document.getElementById(id);

const MARKS = {
  0x07: 'BEL', 0x08: 'BS', 0x0d: 'CR', 0x1b: 'ESC', 0x7f: 'DEL', 0x9b: 'CSI',
  0x61c: 'ALM', 0x200e: 'LRM', 0x200f: 'RLM', 0x202a: 'LRE', 0x202b: 'RLE', 0x202c: 'PDF', 0x202d: 'LRO', 0x202e: 'RLO',
  0x2066: 'LRI', 0x2067: 'RLI', 0x2068: 'FSI', 0x2069: 'PDI', 0x2028: 'LS', 0x2029: 'PS', 0xfeff: 'BOM',
};

/** Replaces invisible characters with visible signs; line breaks stay. */
export function tame(text) {
  return String(text ?? '').replace(/[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g, (mark) => {
    const code = mark.codePointAt(0);
    return `\u27e8${MARKS[code] ?? `U+${code.toString(16).padStart(4, '0').toUpperCase()}`}\u27e9`;
  });
}

/** Replaces invisible characters as `tame` does, and puts the text on one line. */
export const flat = (text) => tame(text).replace(/\s+/g, ' ').trim();

/** Makes an element with a class and children; strings become text nodes. */
export function el(tag, css, ...children) {
  const made = document.createElement(tag);
  if (css) made.className = css;
  made.append(...children);
  return made;
}

export const bdi = (css, text) => el('bdi', css, flat(text));

/** Sets the text of a node, if it differs. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Makes a button with a visible label and a longer name for screen readers. */
export function button(label, name, act) {
  const made = el('button', 'small', label);
  made.type = 'button';
  made.setAttribute('aria-label', name);
  made.addEventListener('click', act);
  return made;
}

/** Makes a list show these rows. If a row is still in the list, its cell is kept, and so is the focus in that cell. */
export function sync(list, rows, keyOf, make, fill) {
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

export const still = () => {};
export const always = (fill) => Object.assign(fill, { always: true });

/** Shows the note that a section is empty, if it has no rows. */
export function showEmpty(name, n) {
  $(`no-${name}`).hidden = n > 0;
}

/** Makes an SVG element. */
export function svg(tag, facts, text) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(facts)) made.setAttribute(name, String(value));
  if (text !== undefined) made.textContent = text;
  return made;
}

/** A time as milliseconds. */
export const at = (iso) => Date.parse(iso) || 0;

/** Makes an element that shows the time of day. */
export function clock(iso) {
  const date = new Date(iso);
  const made = el('time', 'dim', date.toLocaleTimeString([], { hour12: false }));
  made.dateTime = String(iso);
  made.title = date.toLocaleString();
  return made;
}

/** Makes an element that shows the time of day, and also the day if that is not today. */
export function clockDay(iso) {
  const made = clock(iso);
  const date = new Date(iso);
  if (date.toDateString() !== new Date().toDateString()) {
    made.textContent = `${date.toLocaleDateString([], { month: 'short', day: 'numeric' })} ${made.textContent}`;
  }
  return made;
}

/** Formats a duration, for example as `5 min`. */
export function span(ms) {
  if (ms < 90e3) return `${Math.max(0, Math.round(ms / 1e3))} s`;
  if (ms < 90 * 60e3) return `${Math.round(ms / 60e3)} min`;
  return ms < 48 * 3600e3 ? `${Math.round(ms / 3600e3)} h` : `${Math.round(ms / 86400e3)} d`;
}

/** The last part of a path, without .git. */
export function lastPart(path) {
  return flat(path).replace(/\/+(\.git)?\/*$/, '').replace(/\.git$/, '').split('/').pop() || '/';
}
