// The scenario with npm @modelcontextprotocol/client: node_v2.mjs PROGRAM MODE, MODE being default,
// auto or a version to pin.

import { Client } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";
import assert from "node:assert/strict";
import process from "node:process";
import { folder, meshEnv, readResult, run } from "./scenario.mjs";

const [program, mode] = process.argv.slice(2);
const options = {
  default: {},
  auto: { versionNegotiation: { mode: "auto" } },
}[mode] ?? { versionNegotiation: { mode: { pin: mode } } };

await run(async (name) => {
  const client = new Client({ name: "node-v2", version: "1" }, options);
  await client.connect(new StdioClientTransport({ command: program, env: meshEnv(), cwd: folder(name) }));
  assert.equal(client.getNegotiatedProtocolVersion(), mode === "default" ? "2025-11-25" : "2026-07-28");
  return {
    tools: async () => (await client.listTools()).tools.map((tool) => tool.name),
    call: async (tool, args, options) => readResult(await client.callTool({ name: tool, arguments: args }, options)),
    close: () => client.close(),
  };
});
