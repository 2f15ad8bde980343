// What the page knows, and what it does next. No page, no socket, no clock in here: facts go in
// (`handle...`, with the time in milliseconds), what is to be done comes out (`poll`), and the
// owner calls `handleTimeout` when `timeout()` is reached.
//
//            token                    hello-ok
//   locked ────────▶ connecting ─────────────────▶ connected
//     ▲                │     ▲                        │
//     └─ UNAUTHORIZED ─┤     │ time, or woken         │ closed
//                      ▼     │                        ▼
//                   closed ──┴── waiting ◀────────────┘
//
// A line that was typed is in the outbox until the gateway has it: sent one at a time, so that the
// order stays, and under its own key, so that it may be sent again. An answer is known by its
// `replyId`. That is why nothing here counts how often it hears of something.

/// Facts in, actions out: `{do: "connect"}`, `{do: "close"}`, `{do: "send", frame}`,
/// `{do: "save", outbox}`.
export class Client {
  #token;
  #session;
  #random;
  #actions = [];

  #phase = "locked";
  #attempt = 0;
  #lockedWhy = null;
  /// Why the gateway is away, and when it is back: `{reason, backAt}`, `backAt: null` for never.
  #leaving = null;
  #drain = null;
  /// What the gateway asked us to wait before the next attempt.
  #retryAfter = null;

  /// key -> `{key, text, state, note, messageId, born}`.
  #lines = new Map();
  #born = 0;
  /// replyId -> `{replyId, text, answers, after}`.
  #replies = new Map();
  /// Keys of the lines that have an answer.
  #answered = new Set();
  /// runId -> `{runId, text, answers, cut}`: answers that are being written.
  #drafts = new Map();

  /// The keys of the lines that are to be sent, in order. The first may be in flight.
  #outbox = [];
  /// Request id -> `{method, key, late}`.
  #requests = new Map();
  #lastId = 0;
  #lastSeq = 0;
  #maxPayload = Infinity;
  /// Nothing is sent before the history tells what the gateway already has.
  #synced = false;
  #history = "idle";

  #statusOpen = false;
  #status = null;

  #patience = PATIENCE;
  /// All deadlines: `retry` the connection, `connect` at most until, `silence` of the gateway,
  /// `resend` of a refused line, `history` again, `status` again.
  #deadlines = { retry: null, connect: null, silence: null, resend: null, history: null, status: null };

  /// `outbox`: what an earlier life of the page has saved. `random`: 0 to 1, for the jitter.
  constructor({ token = null, outbox = [], session = "main", random = Math.random } = {}) {
    this.#token = token;
    this.#session = session;
    this.#random = random;
    for (const { key, text, refused } of outbox) {
      const line = this.#newLine(key, text);
      if (refused == null) this.#outbox.push(key);
      else Object.assign(line, { state: "refused", note: refused });
    }
  }

  /// What is to be done, in order.
  poll() {
    return this.#actions.splice(0);
  }

  /// When `handleTimeout` is to be called, or null.
  timeout() {
    const late = [...this.#requests.values()].map((request) => request.late);
    const all = [...Object.values(this.#deadlines).filter((at) => at !== null), ...late];
    return all.length === 0 ? null : Math.min(...all);
  }

  /// The page is there.
  handleStart(now) {
    if (this.#token) this.#connect(now);
  }

  handleToken(now, token) {
    this.#token = token;
    if (this.#phase === "connecting" || this.#phase === "connected") this.#do({ do: "close" });
    this.#forgetConnection();
    this.#attempt = 0;
    this.#lockedWhy = null;
    this.#connect(now);
  }

  /// Somebody typed a line. `key` is new.
  handleTyped(now, key, text) {
    this.#newLine(key, text);
    this.#outbox.push(key);
    this.#save();
    this.#pump(now);
  }

  /// A refused line is to be sent again, as the last.
  handleRetry(now, key) {
    const line = this.#lines.get(key);
    if (line?.state !== "refused") return;
    Object.assign(line, { state: "sending", note: null, born: this.#born++ });
    this.#outbox.push(key);
    this.#save();
    this.#pump(now);
  }

  /// A refused line is not wanted any more.
  handleDiscard(key) {
    if (this.#lines.get(key)?.state !== "refused") return;
    this.#lines.delete(key);
    this.#save();
  }

  /// The tab is looked at again, or the network is back.
  handleWoken(now) {
    if (this.#phase === "waiting") this.#connect(now);
    else this.handleTimeout(now);
  }

  handleStatusShown(now, shown) {
    this.#statusOpen = shown;
    this.#deadlines.status = null;
    if (shown) this.#askStatus(now);
  }

  /// The socket is closed. `code` as in the close frame.
  handleClosed(now, code) {
    this.#lose(now, code);
  }

  handleTimeout(now) {
    const due = (name) => {
      const at = this.#deadlines[name];
      if (at === null || now < at) return false;
      this.#deadlines[name] = null;
      return true;
    };
    const late = [...this.#requests.values()].some((request) => now >= request.late);
    if (due("connect") || due("silence") || late) {
      // A connection that nobody ends: a sleeping laptop, a dead link. Its end may take minutes to
      // be noticed by the browser.
      this.#do({ do: "close" });
      this.#lose(now, 1006);
      return;
    }
    if (due("retry")) this.#connect(now);
    if (due("resend")) this.#pump(now);
    if (due("history")) this.#readHistory(now);
    if (due("status")) this.#askStatus(now);
  }

  /// A frame, parsed. What is not understood is passed over: a newer gateway may say more.
  handleFrame(now, frame) {
    if (this.#phase !== "connecting" && this.#phase !== "connected") return;
    if (this.#phase === "connected") this.#deadlines.silence = now + this.#patience;
    if (frame?.type === "res") this.#handleResponse(now, frame);
    if (frame?.type === "event") this.#handleEvent(now, frame);
  }

  /// What there is to be seen.
  view() {
    return {
      phase: this.#phase,
      attempt: this.#attempt,
      retryAt: this.#deadlines.retry,
      lockedWhy: this.#lockedWhy,
      leaving: this.#leaving,
      drain: this.#drain,
      status: this.#status,
      items: this.#items(),
    };
  }

  // --- The connection.

  #connect(now) {
    this.#phase = "connecting";
    this.#attempt += 1;
    this.#retryAfter = null;
    this.#deadlines.retry = null;
    this.#deadlines.connect = now + CONNECT_LIMIT;
    this.#do({ do: "connect" });
  }

  #lose(now, code) {
    const inFlight = [...this.#requests.values()].find((request) => request.method === "chat.send");
    this.#forgetConnection();
    if (this.#phase === "locked") return;
    // Sent again, it would end each connection again.
    if (code === TOO_LONG && inFlight) this.#refuse(inFlight.key, "it is longer than the gateway takes");
    this.#phase = "waiting";
    this.#deadlines.retry = now + this.#delay(now, code);
  }

  #delay(now, code) {
    const back = this.#leaving?.backAt ?? 0;
    // Later than it said, it is waited for as any other: else we would knock without a pause.
    if (code === SERVICE_RESTART && back > now) return back - now;
    const base = Math.min(BACKOFF_MOST, BACKOFF_FIRST * BACKOFF_FACTOR ** this.#attempt);
    const jittered = Math.min(BACKOFF_MOST, base * (0.8 + 0.4 * this.#random()));
    return Math.max(jittered, this.#retryAfter ?? 0);
  }

  /// Of a connection that is over nothing counts any more, save what the gateway has told us.
  #forgetConnection() {
    for (const name of Object.keys(this.#deadlines)) this.#deadlines[name] = null;
    this.#requests.clear();
    this.#drafts.clear();
    this.#lastSeq = 0;
    this.#synced = false;
    this.#history = "idle";
    this.#drain = null;
  }

  #lock(why) {
    this.#do({ do: "close" });
    this.#forgetConnection();
    this.#phase = "locked";
    this.#token = null;
    this.#lockedWhy = why;
  }

  #hello(now, hello) {
    this.#phase = "connected";
    this.#attempt = 0;
    this.#leaving = null;
    this.#maxPayload = hello.policy?.maxPayload ?? Infinity;
    // Three ticks, lest one that is late ends a good connection.
    this.#patience = 3 * (hello.policy?.tickIntervalMs ?? PATIENCE / 3);
    this.#deadlines.connect = null;
    this.#deadlines.silence = now + this.#patience;
    if ((hello.snapshot?.lastReplyId ?? Infinity) < this.#lastReplyId()) this.#forgetHistory();
    this.#readHistory(now);
    if (this.#statusOpen) this.#askStatus(now);
  }

  // --- Frames.

  #request(now, method, params, key = null) {
    const id = String(++this.#lastId);
    this.#requests.set(id, { method, key, late: now + ANSWER_LIMIT });
    this.#do({ do: "send", frame: { type: "req", id, method, params } });
  }

  #handleResponse(now, { id, ok, ...rest }) {
    const payload = rest.payload ?? {};
    const error = rest.error ?? {};
    const request = this.#requests.get(id);
    if (!request) return;
    this.#requests.delete(id);
    switch (request.method) {
      case "connect":
        if (ok) this.#hello(now, payload);
        else if (error.code === "UNAUTHORIZED") this.#lock(error.message ?? "the token is wrong");
        // The gateway closes the connection, too; when to come back is told here alone.
        else this.#retryAfter = error.retryAfterMs ?? null;
        break;
      case "chat.history":
        this.#handleHistory(now, ok, payload, error);
        break;
      case "chat.send":
        this.#handleSent(now, request.key, ok, payload, error);
        break;
      case "status":
        // Without it, the figures of before stay: a gateway may be too busy to tell.
        if (ok) this.#status = payload;
        if (this.#statusOpen) this.#deadlines.status = now + STATUS_EVERY;
        break;
    }
  }

  #handleEvent(now, { event, seq, ...rest }) {
    const payload = rest.payload ?? {};
    switch (event) {
      case "connect.challenge":
        if (this.#phase !== "connecting") break;
        this.#request(now, "connect", {
          minProtocol: 1,
          maxProtocol: 4,
          client: { id: "webchat", version: "0.1.0", platform: "web", mode: "webchat" },
          auth: { token: this.#token },
          sessionKey: this.#session,
        });
        break;
      case "chat":
        this.#handleChat(now, payload, seq);
        break;
      case "shutdown": {
        const expected = payload.restartExpectedMs ?? null;
        const backAt = expected === null ? null : now + expected;
        this.#leaving = { reason: payload.reason ?? null, backAt };
        break;
      }
      case "resumed":
        this.#leaving = null;
        this.#drain = null;
        this.#pump(now);
        break;
      case "drain":
        this.#drain = payload.step ?? null;
        break;
      case "tick":
        // An event that was lost as the last shows no gap.
        if (this.#isAnswerDue()) this.#readHistory(now);
        break;
    }
  }

  #handleChat(now, { sessionKey, runId, answers, state, text = "", replyId }, seq) {
    if (sessionKey !== undefined && sessionKey !== this.#session) return;
    let cut = false;
    if (seq !== undefined) {
      if (seq <= this.#lastSeq) return;
      if (seq > this.#lastSeq + 1) {
        cut = true;
        for (const draft of this.#drafts.values()) draft.cut = true;
        this.#readHistory(now);
      }
      this.#lastSeq = seq;
    }
    const keys = answers ?? [runId];
    switch (state) {
      case "delta": {
        // The answer itself is here already, by the history.
        if (keys.some((key) => this.#answered.has(key))) break;
        const draft = this.#drafts.get(runId) ?? { runId, text: "", answers: keys, cut };
        draft.text += text;
        this.#drafts.set(runId, draft);
        break;
      }
      case "final":
        this.#drafts.delete(runId);
        this.#learnReply({ replyId, text, answers: keys }, this.#lastMessageId());
        // Somebody answers what was typed elsewhere.
        if (!keys.every((key) => this.#lines.has(key))) this.#readHistory(now);
        this.#pump(now);
        break;
      case "aborted":
      case "error":
        this.#drafts.delete(runId);
        for (const key of keys) {
          const line = this.#lines.get(key);
          if (line) line.note = state === "error" ? `the agent failed: ${text}` : `aborted: ${text}`;
        }
        break;
    }
  }

  // --- What was said.

  #newLine(key, text) {
    const line = { key, text, state: "sending", note: null, messageId: null, born: this.#born++ };
    this.#lines.set(key, line);
    return line;
  }

  #pump(now) {
    if (this.#phase !== "connected" || !this.#synced || this.#deadlines.resend !== null) return;
    if ([...this.#requests.values()].some((request) => request.method === "chat.send")) return;
    while (this.#outbox.length > 0) {
      const line = this.#lines.get(this.#outbox[0]);
      const params = { sessionKey: this.#session, message: line.text, idempotencyKey: line.key };
      if (sizeOf(params) <= this.#maxPayload) {
        this.#request(now, "chat.send", params, line.key);
        return;
      }
      this.#refuse(line.key, `it is longer than the gateway takes, ${this.#maxPayload} bytes`);
    }
  }

  #handleSent(now, key, ok, payload, error) {
    if (ok) {
      this.#accept(key, payload.messageId ?? null);
    } else if (error.retryable) {
      const line = this.#lines.get(key);
      if (line?.state === "sending") line.note = error.message ?? null;
      this.#deadlines.resend = now + Math.max(RESEND_LEAST, error.retryAfterMs ?? 0);
    } else {
      this.#refuse(key, error.message ?? "refused");
    }
    this.#pump(now);
  }

  /// The gateway has it.
  #accept(key, messageId) {
    const line = this.#lines.get(key);
    if (!line) return;
    line.messageId ??= messageId;
    if (line.state === "accepted") return;
    Object.assign(line, { state: "accepted", note: null });
    this.#outbox = this.#outbox.filter((other) => other !== key);
    this.#save();
  }

  #refuse(key, why) {
    const line = this.#lines.get(key);
    if (line?.state !== "sending") return;
    Object.assign(line, { state: "refused", note: why });
    this.#outbox = this.#outbox.filter((other) => other !== key);
    this.#save();
  }

  #learnReply({ replyId, text, answers = [] }, after) {
    if (replyId == null || this.#replies.has(replyId)) return;
    this.#replies.set(replyId, { replyId, text, answers, after });
    for (const key of answers) {
      this.#answered.add(key);
      const line = this.#lines.get(key);
      if (line) line.note = null;
      // The acknowledgement may have been lost, or come later than the answer.
      this.#accept(key, null);
    }
  }

  // --- The history.

  /// At once, or after the one under way, which may have been read too early.
  #readHistory(now) {
    if (this.#phase !== "connected") return;
    this.#deadlines.history = null;
    if (this.#history !== "idle") {
      this.#history = "again";
      return;
    }
    this.#history = "reading";
    this.#request(now, "chat.history", { sessionKey: this.#session, limit: HISTORY });
    const afterReplyId = this.#lastReplyId();
    // Replies that are more than a whole page of history behind.
    if (afterReplyId > 0) this.#request(now, "chat.history", { sessionKey: this.#session, afterReplyId });
  }

  #handleHistory(now, ok, payload, error) {
    if (ok) this.#merge(payload.messages ?? []);
    if ([...this.#requests.values()].some((request) => request.method === "chat.history")) return;
    const again = this.#history === "again";
    this.#history = "idle";
    if (again) {
      this.#readHistory(now);
      return;
    }
    if (!ok && error.retryable) {
      this.#deadlines.history = now + Math.max(RESEND_LEAST, error.retryAfterMs ?? 0);
      return;
    }
    this.#synced = true;
    this.#pump(now);
  }

  #merge(messages) {
    let after = null;
    for (const message of messages) {
      if (message.role === "user") {
        const key = message.idempotencyKey ?? `message ${message.messageId}`;
        if (!this.#lines.has(key)) this.#newLine(key, message.text);
        this.#accept(key, message.messageId);
        after = message.messageId;
      } else if (message.role === "assistant") {
        this.#learnReply(message, after ?? this.#lastMessageId());
      }
    }
    for (const [runId, draft] of this.#drafts) {
      if (draft.answers.some((key) => this.#answered.has(key))) this.#drafts.delete(runId);
    }
  }

  #isAnswerDue() {
    return [...this.#lines].some(([key, { state }]) => state === "accepted" && !this.#answered.has(key));
  }

  #lastReplyId() {
    return Math.max(0, ...this.#replies.keys());
  }

  #lastMessageId() {
    return Math.max(0, ...[...this.#lines.values()].map((line) => line.messageId ?? 0));
  }

  /// The journal is another one: its ids begin anew, and would be taken for those that we know.
  #forgetHistory() {
    this.#replies.clear();
    this.#answered.clear();
    for (const [key, line] of this.#lines) if (line.state === "accepted") this.#lines.delete(key);
  }

  // --- The rest.

  #askStatus(now) {
    if (this.#phase !== "connected") return;
    if ([...this.#requests.values()].some((request) => request.method === "status")) return;
    this.#request(now, "status", {});
  }

  #do(action) {
    this.#actions.push(action);
  }

  #save() {
    const unsent = [...this.#lines.values()].filter((line) => line.state !== "accepted");
    unsent.sort((one, other) => one.born - other.born);
    const outbox = unsent.map(({ key, text, state, note }) => ({
      key,
      text,
      refused: state === "refused" ? note : null,
    }));
    this.#do({ do: "save", outbox });
  }

  /// Lines as the gateway has taken them, then those that it has not; an answer stands below the
  /// last line that it answers. So the order is the same by whichever way things came in.
  #items() {
    const rank = (line) => line.messageId ?? Infinity;
    const byTime = (one, other) => {
      // Two that are not numbered yet: `Infinity - Infinity` is no number.
      if (rank(one) !== rank(other)) return rank(one) - rank(other);
      return one.born - other.born;
    };
    const lines = [...this.#lines.values()].sort(byTime);
    const places = new Map(lines.map((line, place) => [line.key, place]));
    const placeOf = ({ answers, after }) => {
      const known = answers.map((key) => places.get(key)).filter((place) => place !== undefined);
      if (known.length > 0) return Math.max(...known);
      return lines.findLastIndex((line) => after === undefined || rank(line) <= after);
    };
    const below = new Map();
    const put = (said, item) => {
      const place = placeOf(said);
      below.set(place, [...(below.get(place) ?? []), item]);
    };
    const replies = [...this.#replies.values()].sort((one, other) => one.replyId - other.replyId);
    for (const reply of replies) {
      put(reply, { kind: "reply", id: `reply ${reply.replyId}`, text: reply.text, answers: reply.answers });
    }
    for (const draft of this.#drafts.values()) {
      const text = draft.cut ? `${draft.text} ...` : draft.text;
      put(draft, { kind: "draft", id: `draft ${draft.runId}`, text, answers: draft.answers });
    }
    const shown = lines.map(({ key, text, state, note }, place) => [
      { kind: "line", id: `line ${key}`, key, text, note, state: this.#answered.has(key) ? "answered" : state },
      ...(below.get(place) ?? []),
    ]);
    return [...(below.get(-1) ?? []), ...shown.flat()];
  }
}

/// Bytes of a `chat.send` frame, at most.
function sizeOf(params) {
  return new TextEncoder().encode(JSON.stringify(params)).length + FRAME;
}

/// What a frame is around its parameters, at most.
const FRAME = 128;
const BACKOFF_FIRST = 250;
const BACKOFF_FACTOR = 1.6;
const BACKOFF_MOST = 10_000;
const CONNECT_LIMIT = 15_000;
const ANSWER_LIMIT = 30_000;
const RESEND_LEAST = 250;
const STATUS_EVERY = 5_000;
const PATIENCE = 45_000;
const HISTORY = 200;
const SERVICE_RESTART = 1012;
const TOO_LONG = 1009;
