// Two agents at work, as in scenario.py, for the clients in JavaScript. An agent has tools(),
// call(name, arguments, {signal, onprogress}) that answers {value, isError}, and close(). Nothing
// here sleeps.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";

const TOOLS = ["peers", "summary", "send", "inbox", "state", "lock", "events", "status"].map((noun) => `mesh_${noun}`);
const LIMIT_MS = 60_000;

/** The variables that a client must pass on, because an SDK does not pass its own environment to a server. */
export function meshEnv() {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => name.startsWith("SLM_MESH_")));
}

/** Where an agent works. */
export function folder(name) {
  const path = join(process.cwd(), name);
  mkdirSync(path, { recursive: true });
  return path;
}

/** The JSON in a result, and whether it is an error. A result consists of one text. */
export function readResult(result) {
  assert.equal(result.content.length, 1);
  assert.equal(result.content[0].type, "text");
  return { value: JSON.parse(result.content[0].text), isError: result.isError === true };
}

/** Runs the scenario, which fails if it takes too long. */
export async function run(start) {
  const timer = setTimeout(() => {
    console.error("not done in time");
    process.exit(1);
  }, LIMIT_MS);
  const [a, b] = [await start("alpha"), await start("beta")];
  await play(a, b);
  await a.close();
  await b.close();
  clearTimeout(timer);
  console.log("passed");
}

async function ok(agent, name, args = {}) {
  const { value, isError } = await agent.call(name, args);
  assert.ok(!isError, `${name} ${JSON.stringify(args)}: ${JSON.stringify(value)}`);
  return value;
}

async function play(a, b) {
  const names = await findEachOther(a, b);
  await talk(a, b, names);
  await share(a, b);
  await contend(a, b, names);
  await watch(a, b);
  await cancel(a, b, names);
  await goWrong(a);
}

async function findEachOther(a, b) {
  for (const agent of [a, b]) {
    assert.deepEqual(await agent.tools(), TOOLS);
    await ok(agent, "mesh_status");
  }
  await ok(b, "mesh_summary", { summary: "writing the parser" });
  const seen = {};
  for (const [agent, other] of [[a, "beta"], [b, "alpha"]]) {
    const peers = await ok(agent, "mesh_peers", { scope: "machine" });
    const found = peers.peers.filter((peer) => peer.projectPath === folder(other));
    assert.equal(found.length, 1, JSON.stringify(peers));
    assert.notEqual(found[0].id, peers.you.id);
    seen[other] = found[0];
  }
  assert.equal(seen.beta.summary, "writing the parser");
  return { alpha: seen.alpha.name, beta: seen.beta.name };
}

async function talk(a, b, names) {
  const text = "which port? \u2013 \u00fc \u{1f980}";
  const sent = await ok(a, "mesh_send", { to: names.beta, message: text });
  const inbox = await ok(b, "mesh_inbox", { waitSeconds: 20 });
  assert.equal(inbox.messages.length, 1);
  assert.equal(inbox.messages[0].payload, text);
  assert.equal(inbox.messages[0].fromName, names.alpha);
  assert.equal(inbox.messages[0].id, sent.messageId);
  const receipt = async () => {
    const rows = (await ok(a, "mesh_inbox", { filter: "sent" })).messages;
    return rows.find((row) => row.id === sent.messageId).receipt;
  };
  while ((await receipt()) !== "read");
  await ok(b, "mesh_send", { to: names.alpha, message: "7899", replyTo: sent.messageId });
  assert.equal(await receipt(), "acked");
  const [reply] = (await ok(a, "mesh_inbox")).messages;
  assert.equal(reply.payload, "7899");
  assert.equal(reply.replyTo, sent.messageId);
}

async function share(a, b) {
  const set = (agent, value, expect) => agent.call("mesh_state", { action: "set", key: "port", value, expect });
  const first = await set(a, "1", 0);
  assert.ok(!first.isError);
  const again = await set(b, "2", 0);
  assert.ok(again.isError && again.value.kind === "conflict", JSON.stringify(again));
  const second = await set(b, "2", first.value.version);
  assert.ok(!second.isError && second.value.version > first.value.version, JSON.stringify(second));
  const late = await set(a, "3", first.value.version);
  assert.ok(late.isError && late.value.kind === "conflict", JSON.stringify(late));
  const { entry } = await ok(a, "mesh_state", { action: "get", key: "port" });
  assert.deepEqual([entry.value, entry.version], ["2", second.value.version]);
}

async function contend(a, b, names) {
  const filePath = join(process.cwd(), "shared.rs");
  const held = await ok(a, "mesh_lock", { action: "lock", filePath, reason: "refactoring" });
  const refused = await b.call("mesh_lock", { action: "lock", filePath });
  assert.ok(refused.isError && refused.value.kind === "held", JSON.stringify(refused));
  for (const word of [filePath, names.alpha, "refactoring"]) {
    assert.ok(refused.value.error.includes(word), refused.value.error);
  }
  // The first progress notification comes after ten seconds; the file is unlocked only then.
  let granted;
  const progress = await new Promise((alive, failed) => {
    granted = b.call("mesh_lock", { action: "lock", filePath, waitSeconds: 50 }, { onprogress: alive });
    granted.then((early) => failed(new Error(`it ended before it was given back: ${JSON.stringify(early)}`)), failed);
  });
  assert.ok(progress.progress > 0);
  const query = await ok(a, "mesh_lock", { action: "query", filePath });
  assert.ok(JSON.stringify(query.locks[0].queue).includes(names.beta), JSON.stringify(query));
  await ok(a, "mesh_lock", { action: "unlock", filePath });
  const grant = await granted;
  assert.ok(!grant.isError && grant.value.token > held.token, JSON.stringify(grant));
  await ok(b, "mesh_lock", { action: "unlock", filePath });
}

async function watch(a, b) {
  const after = (await ok(a, "mesh_events", { limit: 1 })).seq;
  const news = ok(a, "mesh_events", { after, types: ["build.done"], waitSeconds: 20 });
  await ok(a, "mesh_status");
  await ok(b, "mesh_state", { action: "set", key: "done", value: "yes" });
  await ok(b, "mesh_events", { action: "emit", type: "build.done", payload: { commit: "abc" } });
  assert.deepEqual((await news).events[0].payload, { commit: "abc" });
  const types = (await ok(a, "mesh_events", { after })).events.map((event) => event.type);
  const [changed, done] = [types.indexOf("state_changed"), types.indexOf("build.done")];
  assert.ok(changed >= 0 && changed < done, types.join());
}

async function cancel(a, b, names) {
  const control = new AbortController();
  const waiting = b.call("mesh_inbox", { waitSeconds: 50 }, { signal: control.signal });
  const given_up = assert.rejects(waiting);
  // Calls arrive in the order in which they are written. So once these are answered, the first call is waiting.
  await ok(b, "mesh_status");
  await ok(b, "mesh_status");
  control.abort("changed my mind");
  await given_up;
  await ok(b, "mesh_status");
  await ok(a, "mesh_send", { to: names.beta, message: "still there?" });
  const { messages } = await ok(b, "mesh_inbox");
  assert.equal(messages.length, 1);
  assert.equal(messages[0].payload, "still there?");
  assert.equal(messages[0].redelivered, undefined);
}

async function goWrong(a) {
  await assert.rejects(a.call("mesh_teleport", {}), (error) => {
    assert.equal(error.code, -32602);
    assert.match(error.message, /mesh_teleport/);
    return true;
  });
  for (const args of [{ to: "x" }, { to: "x", message: 7 }, { to: "x", message: "y", mesage: "z" }]) {
    const { value, isError } = await a.call("mesh_send", args);
    assert.ok(isError && value.kind === "usage" && value.error.includes("mes"), JSON.stringify(value));
  }
}
