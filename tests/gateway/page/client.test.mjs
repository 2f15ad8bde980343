// What the client does in each single case.
import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./load.mjs";

const { Client } = await load("client.js");

/// A client whose jitter is none, and what it wants.
function start(options = {}) {
  const client = new Client({ token: "t", random: () => 0.5, ...options });
  client.handleStart(0);
  return client;
}

const sent = (client) => client.poll().filter((action) => action.do === "send").map(({ frame }) => frame);
const event = (client, now, name, payload, seq) =>
  client.handleFrame(now, { type: "event", event: name, payload, seq });
const answer = (client, now, frame, payload) =>
  client.handleFrame(now, { type: "res", id: frame.id, ok: true, payload });
const refuse = (client, now, frame, error) =>
  client.handleFrame(now, { type: "res", id: frame.id, ok: false, error });

/// As far as `connected`, with an empty history.
function greet(client, now, hello = {}, messages = []) {
  event(client, now, "connect.challenge", { nonce: "n" });
  answer(client, now, sent(client)[0], hello);
  for (const frame of sent(client)) answer(client, now, frame, { messages });
}

function connected(options, hello, messages) {
  const client = start(options);
  greet(client, 0, hello, messages);
  return client;
}

const lines = (client) => client.view().items.filter((item) => item.kind === "line");

test("without a token it asks for one and does not connect", () => {
  const client = start({ token: null });
  assert.deepEqual(client.poll(), []);
  assert.equal(client.view().phase, "locked");
  client.handleToken(0, "t");
  assert.deepEqual(client.poll(), [{ do: "connect" }]);
});

test("the token goes into connect alone, after the challenge", () => {
  const client = start();
  assert.deepEqual(sent(client), []);
  event(client, 0, "connect.challenge", { nonce: "n" });
  const [frame] = sent(client);
  assert.equal(frame.method, "connect");
  assert.equal(frame.params.auth.token, "t");
  assert.equal(frame.params.sessionKey, "main");
});

test("a wrong token is asked for again and never tried again", () => {
  const client = start();
  event(client, 0, "connect.challenge", {});
  refuse(client, 0, sent(client)[0], { code: "UNAUTHORIZED", message: "wrong", retryable: false });
  assert.equal(client.view().lockedWhy, "wrong");
  client.handleClosed(0, 1008);
  assert.equal(client.timeout(), null);
});

test("the backoff grows from 250 ms by 1.6 to 10 s", () => {
  const client = start();
  const waits = [];
  let now = 0;
  greet(client, now);
  for (let turn = 0; turn < 12; turn += 1) {
    client.handleClosed(now, 1006);
    const at = client.timeout();
    waits.push(Math.round(at - now));
    now = at;
    client.handleTimeout(now);
  }
  assert.deepEqual(waits, [250, 400, 640, 1024, 1638, 2621, 4194, 6711, 10000, 10000, 10000, 10000]);
});

test("the jitter is a fifth up or down and never above 10 s", () => {
  for (const [random, wait] of [[0, 200], [0.5, 250], [1, 300]]) {
    const client = connected({ random: () => random });
    client.handleClosed(0, 1006);
    assert.equal(Math.round(client.timeout()), wait);
  }
});

test("after 1012 it comes back when the time that was told is over", () => {
  const client = connected();
  event(client, 1000, "shutdown", { reason: "gateway restarting", restartExpectedMs: 5000 });
  client.handleClosed(2000, 1012);
  assert.equal(client.timeout(), 6000);
  client.handleTimeout(6000);
  client.handleClosed(6000, 1012);
  assert.ok(client.timeout() > 6000, "and does not knock without a pause when it is not there yet");
});

test("while the gateway starts it waits as long as it was told", () => {
  const client = start();
  event(client, 0, "connect.challenge", {});
  refuse(client, 0, sent(client)[0], { code: "UNAVAILABLE", retryable: true, retryAfterMs: 3000 });
  client.handleClosed(0, 1013);
  assert.equal(client.timeout(), 3000);
});

test("a tab that is looked at again connects at once", () => {
  const client = connected();
  client.handleClosed(0, 1006);
  client.poll();
  client.handleWoken(1);
  assert.deepEqual(client.poll(), [{ do: "connect" }]);
});

test("a connection on which nothing is heard for three ticks is given up", () => {
  const client = connected({}, { policy: { tickIntervalMs: 1000 } });
  event(client, 2000, "tick", {});
  client.handleTimeout(4999);
  assert.equal(client.view().phase, "connected");
  client.handleTimeout(5000);
  assert.deepEqual(client.poll(), [{ do: "close" }]);
  assert.equal(client.view().phase, "waiting");
});

test("lines are sent one at a time, in order, each under its own key", () => {
  const client = connected();
  client.handleTyped(0, "a", "first");
  client.handleTyped(0, "b", "second");
  const [first, ...none] = sent(client);
  assert.deepEqual(first.params, { sessionKey: "main", message: "first", idempotencyKey: "a" });
  assert.deepEqual(none, []);
  answer(client, 0, first, { runId: "a", status: "accepted", messageId: 1 });
  assert.equal(sent(client)[0].params.idempotencyKey, "b");
});

test("what the gateway has not taken is saved, and sent again under the same key", () => {
  const client = connected();
  client.handleTyped(0, "a", "first");
  const { outbox } = client.poll().find((action) => action.do === "save");
  assert.deepEqual(outbox, [{ key: "a", text: "first", refused: null }]);
  const next = connected({ outbox });
  assert.equal(lines(next)[0].state, "sending");
});

test("an unsent line is sent only after the history told what the gateway has", () => {
  const client = start({ outbox: [{ key: "a", text: "first", refused: null }] });
  const history = [{ role: "user", text: "first", idempotencyKey: "a", messageId: 7 }];
  greet(client, 0, {}, history);
  assert.deepEqual(sent(client), []);
  assert.equal(lines(client)[0].state, "accepted");
});

test("a line that is refused for now stays first and is sent again", () => {
  const client = connected();
  client.handleTyped(0, "a", "first");
  client.handleTyped(0, "b", "second");
  const error = { code: "UNAVAILABLE", message: "draining", retryable: true, retryAfterMs: 700 };
  refuse(client, 0, sent(client)[0], error);
  assert.deepEqual(sent(client), []);
  assert.deepEqual([lines(client)[0].state, lines(client)[0].note], ["sending", "draining"]);
  assert.equal(client.timeout(), 700);
  client.handleTimeout(700);
  assert.equal(sent(client)[0].params.idempotencyKey, "a");
});

test("a line that is refused for good says why and waits for a retry", () => {
  const client = connected();
  client.handleTyped(0, "a", "first");
  client.handleTyped(0, "b", "second");
  refuse(client, 0, sent(client)[0], { code: "INVALID_REQUEST", message: "no", retryable: false });
  assert.deepEqual([lines(client)[0].state, lines(client)[0].note], ["refused", "no"]);
  const actions = client.poll();
  const { outbox } = actions.find((action) => action.do === "save");
  assert.deepEqual(outbox[0], { key: "a", text: "first", refused: "no" });
  const [second] = actions.filter((action) => action.do === "send");
  answer(client, 0, second.frame, { status: "accepted", messageId: 1 });
  client.handleRetry(0, "a");
  assert.equal(sent(client)[0].params.idempotencyKey, "a");
});

test("a refused line can be discarded", () => {
  const client = connected({ outbox: [{ key: "a", text: "first", refused: "no" }] });
  client.handleDiscard("a");
  assert.deepEqual(lines(client), []);
  assert.deepEqual(client.poll().at(-1), { do: "save", outbox: [] });
});

test("a line that is too long is refused here and does not end each connection", () => {
  const client = connected({}, { policy: { maxPayload: 1000 } });
  client.handleTyped(0, "a", "x".repeat(1000));
  assert.deepEqual(sent(client), []);
  assert.match(lines(client)[0].note, /longer than the gateway takes, 1000 bytes/);
  client.handleTyped(0, "b", "short");
  client.handleClosed(0, 1009);
  assert.equal(lines(client)[1].state, "refused");
});

test("the pieces of an answer are shown and replaced by the whole", () => {
  const client = connected();
  client.handleTyped(0, "a", "first");
  answer(client, 0, sent(client)[0], { status: "accepted", messageId: 1 });
  const chat = { sessionKey: "main", runId: "a", answers: ["a"] };
  event(client, 0, "chat", { ...chat, state: "delta", text: "so " }, 1);
  event(client, 0, "chat", { ...chat, state: "delta", text: "far" }, 2);
  assert.equal(client.view().items[1].text, "so far");
  event(client, 0, "chat", { ...chat, state: "final", text: "so far, so good", replyId: 4 }, 3);
  const said = client.view().items.map(({ kind, text, state }) => [kind, text, state]);
  assert.deepEqual(said, [["line", "first", "answered"], ["reply", "so far, so good", undefined]]);
});

test("what was typed elsewhere is read from the history when its answer comes", () => {
  const client = connected();
  const chat = { sessionKey: "main", runId: "x", answers: ["x"], state: "final", text: "hi", replyId: 1 };
  event(client, 0, "chat", chat, 1);
  const [frame] = sent(client);
  assert.equal(frame.method, "chat.history");
  const messages = [{ role: "user", text: "hello", idempotencyKey: "x", messageId: 1 }];
  answer(client, 0, frame, { messages });
  assert.deepEqual(client.view().items.map((item) => item.text), ["hello", "hi"]);
});

test("a notice that answers nothing stands after what was said before it", () => {
  const client = connected({}, {}, [
    { role: "user", text: "one", idempotencyKey: "a", messageId: 1 },
    { role: "assistant", text: "notice", replyId: 1, answers: [] },
    { role: "user", text: "two", idempotencyKey: "b", messageId: 2 },
  ]);
  assert.deepEqual(client.view().items.map((item) => item.text), ["one", "notice", "two"]);
});

test("of a failed or aborted turn the line tells", () => {
  const client = connected({}, {}, [{ role: "user", text: "one", idempotencyKey: "a", messageId: 1 }]);
  event(client, 0, "chat", { runId: "a", answers: ["a"], state: "error", text: "no model" }, 1);
  assert.equal(lines(client)[0].note, "the agent failed: no model");
  event(client, 0, "chat", { runId: "a", answers: ["a"], state: "aborted", text: "by you" }, 2);
  assert.equal(lines(client)[0].note, "aborted: by you");
});

test("with another journal the conversation of the old one is gone and nothing is mistaken", () => {
  const client = connected({}, {}, [
    { role: "user", text: "old", idempotencyKey: "a", messageId: 1 },
    { role: "assistant", text: "old answer", replyId: 1, answers: ["a"] },
  ]);
  client.handleClosed(0, 1006);
  client.handleTimeout(1000);
  greet(client, 1000, { snapshot: { lastReplyId: 0 } }, [
    { role: "user", text: "new", idempotencyKey: "b", messageId: 1 },
    { role: "assistant", text: "new answer", replyId: 1, answers: ["b"] },
  ]);
  assert.deepEqual(client.view().items.map((item) => item.text), ["new", "new answer"]);
});

test("the status is asked for at once and every 5 s while it is shown", () => {
  const client = connected();
  client.handleStatusShown(0, true);
  answer(client, 100, sent(client)[0], { generation: 3 });
  assert.deepEqual(client.view().status, { generation: 3 });
  assert.equal(client.timeout(), 5100);
  client.handleTimeout(5100);
  assert.equal(sent(client)[0].method, "status");
  client.handleStatusShown(5200, false);
  assert.deepEqual(sent(client), []);
});

test("a frame of another kind or of nonsense changes nothing", () => {
  const client = connected();
  const before = client.view();
  for (const frame of [null, 1, "x", [], {}, { type: "res" }, { type: "event" }, { type: "event", event: "new" }, { type: "event", event: "drain", payload: null }]) {
    client.handleFrame(0, frame);
  }
  assert.deepEqual(client.view(), before);
});
