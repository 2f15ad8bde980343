// A gateway that loses nothing in a restart: a web server whose answers take their time.
//
//     lockkeeper run --config gateway.toml -- node examples/node/gateway.mjs
//     curl --data hello http://127.0.0.1:8080/ada & lockkeeper restart --wait
//
// with `restart.handler = "ready"` in gateway.toml: until this program has a handler for SIGUSR1,
// Node has one of its own, which would start the debugger.
//
// It speaks all of docs/contract.md with Node alone. Node cannot send a Unix datagram, so it does
// not use NOTIFY_SOCKET; the control socket takes the same lines. PORT is where it listens (0: at
// any free port, which its status tells), THINK_SECONDS is how long an answer takes.

import http from "node:http";
import net from "node:net";

const THINK_MS = 1000 * Number(process.env.THINK_SECONDS ?? 2);

const inFlight = new Map(); // what was accepted and is not answered
let served = 0;
let phase = null; // of the drain

// The supervisor; nobody, where none is or where it has died.
const control = process.env.LOCKKEEPER_CONTROL
  ? net.connect(process.env.LOCKKEEPER_CONTROL)
  : null;
control?.on("error", () => {});
control?.resume(); // its answers

let notes = 0;
function notify(...lines) {
  const note = { v: 1, id: String(++notes), verb: "notify", text: lines.join("\n") };
  control?.write(JSON.stringify(note) + "\n");
}

// How much is in flight, and how far the drain is.
function tell() {
  const names = [...inFlight.values()];
  const lines = [`STATUS=port ${port}, ${names.length} in flight`];
  if (phase) {
    const drain = { phase, left: { requests: names.length }, blockers: names.slice(0, 8) };
    lines.push("X_LOCKKEEPER_DRAIN=" + JSON.stringify(drain));
  }
  notify(...lines);
}

const server = http.createServer((request, response) => {
  const id = ++served;
  inFlight.set(id, `${request.method} ${request.url}`);
  tell();
  response.on("close", () => {
    inFlight.delete(id);
    tell();
  });
  let said = "";
  request.setEncoding("utf8").on("data", (part) => (said += part));
  request.on("end", () => setTimeout(() => {
    response.setHeader("Connection", "close"); // a drain does not wait for what may be asked next
    response.end(`${process.pid}: ${said}`);
  }, THINK_MS));
});

// Finishes what was accepted; then nothing is left to do, and Node exits with this code.
function leave(code) {
  if (phase) return; // told twice: somebody is in a hurry
  process.exitCode = code;
  phase = "finish";
  tell();
  server.close(() => control?.end());
}
process.on("SIGTERM", () => leave(0)); // stop
process.on("SIGUSR1", () => leave(75)); // restart: a fresh process, please

let port;
server.listen(Number(process.env.PORT ?? 8080), "127.0.0.1", () => {
  port = server.address().port;
  notify("READY=1");
  tell();
});
