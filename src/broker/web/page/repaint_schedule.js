// Decides when each section of the page is painted again.

/** The shortest time between two paintings of a section, in ms; 0 for sections that are not listed. */
const PAUSES = { agents: 200, messages: 90, state: 90, lanes: 1000 };

/** The functions that paint the sections. */
const painters = {};
/** The sections that have changed and must be painted again. */
const dirty = new Set();
/** When each section was last painted. */
const painted = {};
let isScheduled = false;
let timer = 0;

/** Adds a section, and the function that paints it. */
export function addSection(name, paint) {
  painters[name] = paint;
}

/** Schedules these sections to be painted again. */
export function repaint(...names) {
  for (const name of names) dirty.add(name);
  schedule();
}

/** Schedules all sections to be painted again. */
export function repaintAll() {
  repaint(...Object.keys(painters));
}

function schedule() {
  if (isScheduled) return;
  isScheduled = true;
  requestAnimationFrame(() => {
    isScheduled = false;
    const time = performance.now();
    let pause = Infinity;
    for (const name of dirty) {
      const wait = (painted[name] ?? -Infinity) + (PAUSES[name] ?? 0) - time;
      if (wait > 0) {
        pause = Math.min(pause, wait);
        continue;
      }
      dirty.delete(name);
      painted[name] = time;
      painters[name]();
    }
    clearTimeout(timer);
    if (pause < Infinity) timer = setTimeout(schedule, pause);
  });
}
