// Random lives of a client and a gateway: cut connections, duplicate events, lost events, history
// that overtakes events, restarts, reloads of the page, refusals. At any time nothing stands there
// twice; in the end each line was taken once, in order, and has each of its answers once.
import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./load.mjs";

const { Client } = await load("client.js");
const RUNS = Number(process.env.PAGE_MODEL_RUNS ?? 400);
const STEPS = 300;

/// mulberry32: a failure is told by its seed, and can be run again.
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

class World {
  constructor(seed) {
    this.random = random(seed);
    this.now = 0;
    this.saved = [];
    this.typed = [];
    // What the gateway has on disk.
    this.messages = [];
    this.replies = [];
    this.up = true;
    this.backAt = 0;
    this.socket = null;
    this.newPage();
  }

  newPage() {
    this.socket = null;
    this.client = new Client({ token: "t", outbox: this.saved, random: this.random });
    this.client.handleStart(this.now);
    this.act();
  }

  act() {
    for (const action of this.client.poll()) {
      if (action.do === "save") this.saved = action.outbox;
      if (action.do === "close") this.socket = null;
      if (action.do === "connect") {
        this.socket = { toGateway: [], responses: [], events: [], seq: 0 };
        if (this.up) this.event("connect.challenge", { nonce: "n" });
        else this.socket.closed = 1006;
      }
      if (action.do === "send" && this.socket) this.socket.toGateway.push(action.frame);
    }
    this.check();
  }

  event(event, payload, seq) {
    this.socket?.events.push({ type: "event", event, payload, seq });
  }

  chat(payload) {
    if (!this.socket?.hello) return;
    this.socket.seq += 1;
    // Lost on its way: the next one shows the gap.
    if (this.random() < 0.1) return;
    this.event("chat", { sessionKey: "main", ...payload }, this.socket.seq);
    if (this.random() < 0.2) this.event("chat", { sessionKey: "main", ...payload }, this.socket.seq);
  }

  /// The gateway reads one frame.
  gatewayReads(fair) {
    const frame = this.socket?.toGateway.shift();
    if (!frame) return;
    const answer = (payload) => this.socket.responses.push({ type: "res", id: frame.id, ok: true, payload });
    const refuse = (error) => this.socket.responses.push({ type: "res", id: frame.id, ok: false, error });
    const { params } = frame;
    if (frame.method === "connect") {
      if (!fair && this.random() < 0.1) {
        refuse({ code: "UNAVAILABLE", retryable: true, retryAfterMs: 500 });
        this.socket.closing = 1013;
        return;
      }
      this.socket.hello = true;
      const lastReplyId = this.replies.at(-1)?.replyId ?? 0;
      answer({ snapshot: { lastReplyId }, policy: { maxPayload: 4096, tickIntervalMs: 1e9 } });
    } else if (frame.method === "chat.history") {
      answer({ messages: this.history(params) });
    } else if (frame.method === "chat.send") {
      if (!fair && this.random() < 0.15) {
        refuse({ code: "UNAVAILABLE", message: "draining", retryable: true, retryAfterMs: 300 });
        return;
      }
      let message = this.messages.find((other) => other.key === params.idempotencyKey);
      const status = message ? "duplicate" : "accepted";
      if (!message) {
        message = { messageId: this.messages.length + 1, key: params.idempotencyKey, text: params.message };
        this.messages.push(message);
      }
      answer({ runId: message.key, status, messageId: message.messageId });
    }
  }

  history({ limit, afterReplyId = 0 }) {
    const replies = this.replies.filter((reply) => reply.replyId > afterReplyId);
    const shown = replies.map((reply) => ({ role: "assistant", ...reply }));
    if (limit === undefined) return shown;
    const last = (reply) => reply.answers.at(-1);
    return this.messages.flatMap(({ key, text, messageId }) => [
      { role: "user", idempotencyKey: key, text, messageId },
      ...shown.filter((reply) => last(reply) === key),
    ]);
  }

  /// The agent answers the oldest messages that have no answer: one, or some at once.
  agentAnswers(fair) {
    const done = new Set(this.replies.flatMap((reply) => reply.answers));
    const open = this.messages.filter((message) => !done.has(message.key));
    if (open.length === 0) return;
    const answers = open.slice(0, fair ? 1 : 1 + Math.floor(this.random() * 3)).map(({ key }) => key);
    const runId = answers.at(-1);
    for (const text of ["ans", "wer"]) this.chat({ runId, answers, state: "delta", text });
    if (!fair && this.random() < 0.1) {
      this.chat({ runId, answers, state: "error", text: "it will be asked again" });
      return;
    }
    const reply = { replyId: this.replies.length + 1, text: `to ${answers}`, answers };
    this.replies.push(reply);
    this.chat({ runId, state: "final", ...reply });
  }

  /// The client reads one frame. Events keep their order, responses too; which goes first is open.
  clientReads() {
    const { responses, events } = this.socket;
    const from = responses.length > 0 && (events.length === 0 || this.random() < 0.5) ? responses : events;
    const frame = from.shift();
    if (frame) this.client.handleFrame(this.now, frame);
    else if (this.socket.closing) this.close(this.socket.closing);
    this.act();
  }

  close(code) {
    if (!this.socket) return;
    this.socket = null;
    this.client.handleClosed(this.now, code);
    this.act();
  }

  step() {
    const dice = this.random();
    if (this.socket?.closed) this.close(this.socket.closed);
    if (!this.up && this.now >= this.backAt) this.up = true;
    if (dice < 0.08) {
      const key = `key ${this.typed.length}`;
      this.typed.push(key);
      this.client.handleTyped(this.now, key, `text of ${key}`);
      this.act();
    } else if (dice < 0.3) this.gatewayReads();
    else if (dice < 0.66 && this.socket) this.clientReads();
    else if (dice < 0.78 && this.up) this.agentAnswers();
    else if (dice < 0.795) this.close(1006);
    else if (dice < 0.805) this.newPage();
    else if (dice < 0.82 && this.up) this.restart();
    else if (dice < 0.83) {
      this.client.handleWoken(this.now);
      this.act();
    } else this.pass(this.random() * 2000);
  }

  restart() {
    const restartExpectedMs = this.random() < 0.8 ? 800 : null;
    if (this.random() < 0.8) {
      const frame = { type: "event", event: "shutdown", payload: { restartExpectedMs } };
      this.client.handleFrame(this.now, frame);
      this.act();
    }
    this.up = false;
    this.backAt = this.now + this.random() * 3000;
    this.close(1012);
  }

  pass(ms) {
    this.now += ms;
    if (!this.up && this.now >= this.backAt) this.up = true;
    const at = this.client.timeout();
    if (at !== null && at <= this.now) this.client.handleTimeout(this.now);
    this.act();
  }

  /// Nothing goes wrong any more.
  settle() {
    for (let turn = 0; turn < 10_000; turn += 1) {
      if (this.socket?.closed) this.close(this.socket.closed);
      this.gatewayReads("fair");
      if (this.up) this.agentAnswers("fair");
      const idle = !this.socket || this.socket.responses.length + this.socket.events.length === 0;
      if (!idle || this.socket?.closing) this.clientReads();
      else if (this.settled()) return;
      else {
        if (this.socket?.hello) this.event("tick", { ts: this.now });
        this.pass(100);
      }
    }
    assert.fail(`not settled: ${JSON.stringify(this.client.view())}`);
  }

  settled() {
    const { phase, items } = this.client.view();
    const unanswered = items.some((item) => item.kind === "line" && item.state !== "answered");
    const answers = items.filter((item) => item.kind === "reply").length;
    return phase === "connected" && !unanswered && answers === this.replies.length;
  }

  /// At any time.
  check() {
    const { items } = this.client.view();
    assert.equal(new Set(items.map((item) => item.id)).size, items.length, "an item stands there twice");
    const keys = this.messages.map((message) => message.key);
    for (const item of items.filter((item) => item.kind === "line")) {
      if (item.state === "sending") continue;
      assert.ok(keys.includes(item.key), `${item.key} is ${item.state}, and the gateway has it not`);
    }
    for (const { text } of items.filter((item) => item.kind === "draft")) {
      assert.match(text, /^(ans|answer)$| \.\.\.$/, `a draft is whole so far, or says that it is not: ${text}`);
      assert.notEqual(this.socket, null, "a draft goes with the connection that brought it");
    }
    for (const { key } of this.saved) assert.ok(this.typed.includes(key));
    const kept = (key) => keys.includes(key) || this.saved.some((line) => line.key === key);
    for (const key of this.typed) assert.ok(kept(key), `${key} is lost if the page is loaded anew`);
  }

  checkEnd() {
    const { items } = this.client.view();
    assert.deepEqual(this.messages.map((message) => message.key), this.typed, "taken once, in order");
    const lines = items.filter((item) => item.kind === "line").map((item) => item.key);
    assert.deepEqual(lines, this.typed, "each line is shown once, in order");
    const answers = items.filter((item) => item.kind === "reply").flatMap((item) => item.answers);
    assert.deepEqual(answers, this.typed, "each line has one answer, in order");
    assert.ok(items.every((item) => item.kind !== "draft"), "no draft is left beside its answer");
    assert.deepEqual(this.saved, []);
    for (const [place, item] of items.entries()) {
      if (item.kind !== "reply") continue;
      const above = items.slice(0, place).findLast((other) => other.kind === "line");
      assert.equal(above.key, item.answers.at(-1), "an answer stands below what it answers");
    }
  }
}

test("whatever happens each line is taken once and each answer is seen once", () => {
  const first = Number(process.env.PAGE_MODEL_SEED ?? 1);
  for (let seed = first; seed < first + RUNS; seed += 1) {
    try {
      const world = new World(seed);
      for (let step = 0; step < STEPS; step += 1) world.step();
      world.settle();
      world.checkEnd();
    } catch (error) {
      error.message = `seed ${seed}: ${error.message}`;
      throw error;
    }
  }
});
