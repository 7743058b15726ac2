// The connection to the broker: the session, the event stream, and calls.

import { $, flat, setText, tame } from '/page/dom.js';
import { applyFrame, mesh } from '/page/mesh_state.js';
import { repaintAll } from '/page/repaint_schedule.js';

/** Calls an operation as the person at this machine. With `as`, looks at the mailbox of the peer with this id. */
export async function callMesh(method, params, as) {
  const answer = await post('/web/call', { method, params, ...(as && { as }) });
  const value = await answer.json();
  if (!answer.ok || value.ok === false) throw new Error(tame(value.error ?? answer.statusText));
  return value;
}

const FETCH_OPTIONS = { credentials: 'same-origin', cache: 'no-store', redirect: 'error', referrerPolicy: 'no-referrer' };

function post(path, body, signal) {
  const headers = { 'Content-Type': 'application/json', 'X-Mesh-Page': localStorage.getItem('slm-mesh') ?? '' };
  return fetch(path, { ...FETCH_OPTIONS, method: 'POST', headers, body: JSON.stringify(body), signal });
}

/** Gets the key of the session. The broker gives the key only to the first page that asks for it. */
async function claimKey() {
  const answer = await fetch('/web/key', { ...FETCH_OPTIONS, method: 'POST' });
  if (!answer.ok) return false;
  localStorage.setItem('slm-mesh', (await answer.json()).key);
  return true;
}

/** Shows the state of the connection. */
export function showState(state, text) {
  $('link').className = state;
  setText($('link'), text);
  if (state === 'live' || state === 'shut') {
    $('door').hidden = state === 'live';
    $('mesh').hidden = $('tools').hidden = state !== 'live';
  }
}

/** Reads the event stream until it breaks. Returns false if the broker does not admit this page. */
export async function listen() {
  const stop = new AbortController();
  if (!localStorage.getItem('slm-mesh') && !(await claimKey())) return false;
  let answer = await post('/web/events', {}, stop.signal);
  // The stored key may belong to an earlier session, so the page requests the key of this session.
  if (answer.status === 401 && await claimKey()) answer = await post('/web/events', {}, stop.signal);
  if (answer.status === 401) return false;
  if (!answer.ok) throw new Error((await answer.json()).error);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  let timer = 0;
  for (;;) {
    // The broker sends a keep-alive every 20 s. If none arrives for 50 s, the connection is dead, for example because
    // the computer slept.
    timer = setTimeout(() => stop.abort(), 50e3);
    const { value, done } = await reader.read();
    clearTimeout(timer);
    if (done) return true;
    const frames = (rest + value).split('\n\n');
    rest = frames.pop();
    for (const frame of frames) {
      if (!frame.startsWith('data: ')) continue;
      applyFrame(JSON.parse(frame.slice(6)));
      if ($('link').className !== 'live') {
        showState('live', 'Live');
        const hubs = mesh.hubs ? ` · hub ${flat(mesh.hubs.leader)} leads, ${mesh.hubs.standbys.length} on standby` : '';
        setText($('where'), `on ${flat(mesh.host)} · you are ${flat(mesh.name)}${hubs}`);
        repaintAll();
      }
    }
  }
}
