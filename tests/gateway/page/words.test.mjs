// What people read.
import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./load.mjs";

const { connection, duration, figures, line } = await load("words.js");
const calm = { phase: "connected", attempt: 0, retryAt: null, leaving: null, drain: null };

test("each state of the connection is told in words", () => {
  for (const [state, word, more] of [
    [{}, "Connected", null],
    [{ phase: "locked" }, "Not signed in", null],
    [{ phase: "connecting", attempt: 1 }, "Connecting", null],
    [{ phase: "connecting", attempt: 3 }, "Offline", "Offline. Attempt 3."],
    [{ phase: "waiting", attempt: 4, retryAt: 3200 }, "Offline", "Offline. Attempt 4 failed, next in 3 s."],
    [{ drain: "waiting for 2 turns" }, "Connected", "Draining: waiting for 2 turns."],
    [{ leaving: { backAt: 2500 } }, "Restarting", "Restarting, back in about 2 s."],
    [{ leaving: { backAt: 900 } }, "Restarting", "Restarting, back any moment."],
    [{ leaving: { backAt: null } }, "Stopped", "Stopped, and not expected back."],
    [
      { phase: "waiting", attempt: 2, retryAt: 1400, leaving: { backAt: 500 }, drain: null },
      "Restarting",
      "Restarting, back any moment. Attempt 2 failed, next in 1 s.",
    ],
  ]) {
    const told = connection({ ...calm, ...state }, 1000);
    assert.deepEqual([told.word, told.more], [word, more]);
  }
});

test("each line tells its state, and why", () => {
  assert.deepEqual(line({ state: "sending", note: "draining" }), { word: "sending", more: "draining" });
  assert.deepEqual(line({ state: "accepted", note: null }), { word: "accepted", more: null });
  assert.deepEqual(line({ state: "answered", note: null }), { word: "answered", more: null });
  assert.deepEqual(line({ state: "refused", note: "no" }), { word: "refused", more: "no" });
});

test("durations have their two largest parts", () => {
  const told = [5, 999, 1000, 75_000, 3_600_000, 90_061_000].map(duration);
  assert.deepEqual(told, ["5 ms", "999 ms", "1 s", "1 min 15 s", "1 h", "1 d 1 h"]);
});

test("any status becomes a list of figures", () => {
  const status = {
    generation: 3,
    uptimeMs: 75_000,
    channels: [
      { name: "chat", ready: true, reason: null },
      { name: "telegram", ready: false, reason: "409" },
      { name: "other", ready: true, sent: 1200 },
    ],
    queues: { chat: { waiting: 2 }, "chat:main": 1 },
    journal: {},
    lastError: null,
    list: [1, 2],
    drain: "waiting",
  };
  assert.deepEqual(figures(status), [
    { label: "Generation", text: "3" },
    { label: "Uptime", text: "1 min 15 s" },
    {
      label: "Channels",
      rows: [
        { label: "chat", text: "ready" },
        { label: "telegram", text: "not ready: 409" },
        { label: "other", rows: [{ label: "Ready", text: "yes" }, { label: "Sent", text: "1,200" }] },
      ],
    },
    { label: "Queues", rows: [{ label: "Chat", rows: [{ label: "Waiting", text: "2" }] }, { label: "chat:main", text: "1" }] },
    { label: "Journal", text: "none" },
    { label: "Last error", text: "none" },
    { label: "List", text: "1, 2" },
    { label: "Drain", text: "waiting" },
  ]);
  assert.deepEqual(figures(null), []);
});
