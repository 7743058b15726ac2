// The scenario with npm @modelcontextprotocol/sdk: node_v1.mjs PROGRAM.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import process from "node:process";
import { folder, meshEnv, readResult, run } from "./scenario.mjs";

await run(async (name) => {
  const client = new Client({ name: "node-v1", version: "1" });
  await client.connect(new StdioClientTransport({ command: process.argv[2], env: meshEnv(), cwd: folder(name) }));
  return {
    tools: async () => (await client.listTools()).tools.map((tool) => tool.name),
    call: async (tool, args, options) =>
      readResult(await client.callTool({ name: tool, arguments: args }, undefined, options)),
    close: () => client.close(),
  };
});
