// The push connection of a client of slm-mesh 1.3: node listen.mjs URL SECRET. A line on standard input is sent as it
// is if it is JSON; otherwise, it is the peer id of a hello. Each message that arrives is printed unchanged.
import { createInterface } from "node:readline";
import WebSocket from "ws";

const [url, secret] = process.argv.slice(2);
const socket = new WebSocket(url, { headers: { Authorization: `Bearer ${secret}` } });
socket.on("message", (data, isBinary) => console.log(isBinary ? "binary" : data.toString()));
socket.on("close", (code) => console.log(JSON.stringify({ closed: code })));
socket.on("error", (error) => console.log(JSON.stringify({ error: error.message })));
socket.on("open", () => {
  console.log(JSON.stringify({ open: true }));
  const lines = createInterface({ input: process.stdin });
  lines.on("line", (line) => socket.send(line.startsWith("{") ? line : JSON.stringify({ type: "hello", peerId: line })));
  lines.on("close", () => socket.close());
});
