// The page itself: elements, socket, clock and storage around `Client`. What others said gets into
// the page as text alone (`textContent`), never as markup.

import { Client } from "./client.js";
import { connection, figures, line } from "./words.js";

const $ = (id) => document.getElementById(id);
const page = {
  alert: $("alert"),
  connection: $("connection"),
  chat: $("chat"),
  lines: $("lines"),
  empty: $("empty"),
  compose: $("compose"),
  text: $("text"),
  toggle: $("toggle"),
  status: $("status"),
  figures: $("figures"),
  signIn: $("sign-in"),
  token: $("token"),
  wrong: $("wrong"),
};
const TOKEN = "lockkeeper.token";
const OUTBOX = "lockkeeper.outbox";
/// Does not jump when the clock is set.
const now = () => performance.now();

let token = takeToken() ?? stored(TOKEN);
const client = new Client({ token, outbox: storedOutbox() });
let socket = null;
let timer = null;
/// Elements of what is shown, by id.
const shown = new Map();

// --- Facts.

page.compose.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = page.text.value;
  if (text.trim() === "") return;
  page.text.value = "";
  grow();
  client.handleTyped(now(), newKey(), text);
  act();
  scrollToEnd();
});

page.text.addEventListener("keydown", (event) => {
  // Enter also ends the choice of a word in an input method: that is not sent.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  page.compose.requestSubmit();
});
page.text.addEventListener("input", grow);

page.lines.addEventListener("click", (event) => {
  const { act: what, key } = event.target.dataset;
  if (what === "retry") client.handleRetry(now(), key);
  if (what === "discard") client.handleDiscard(key);
  if (what === undefined) return;
  act();
  page.text.focus();
});

page.signIn.addEventListener("submit", (event) => {
  event.preventDefault();
  signIn(page.token.value.trim());
  page.token.value = "";
});

page.toggle.addEventListener("click", () => {
  page.status.hidden = !page.status.hidden;
  page.toggle.ariaExpanded = String(!page.status.hidden);
  client.handleStatusShown(now(), !page.status.hidden);
  act();
});

// A link with another token that is opened in this very tab does not load the page anew.
window.addEventListener("hashchange", () => signIn(takeToken()));
// There is no use in what `offline` says: the gateway may well be on this machine.
window.addEventListener("online", woken);
window.addEventListener("pageshow", woken);
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") woken();
});

client.handleStart(now());
act();

function woken() {
  client.handleWoken(now());
  act();
}

function signIn(newToken) {
  if (!newToken) return;
  token = newToken;
  client.handleToken(now(), token);
  act();
  page.text.focus();
}

// --- Actions.

function act() {
  for (const action of client.poll()) {
    switch (action.do) {
      case "connect":
        connect();
        break;
      case "close":
        disconnect();
        break;
      case "send":
        if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(action.frame));
        break;
      case "save":
        store(OUTBOX, JSON.stringify(action.outbox));
        break;
    }
  }
  show();
  wake();
}

function connect() {
  disconnect();
  const url = new URL("ws", location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  url.hash = "";
  const mine = new WebSocket(url);
  socket = mine;
  // Of a socket that was given up nothing is heard any more.
  const hear = (what) => (event) => {
    if (socket !== mine) return;
    what(event);
    act();
  };
  mine.addEventListener("message", hear((event) => client.handleFrame(now(), parsed(event.data))));
  mine.addEventListener("close", hear((event) => client.handleClosed(now(), event.code)));
}

function disconnect() {
  const old = socket;
  socket = null;
  old?.close();
}

/// Wakes the client in time, and the countdown each second.
function wake() {
  clearTimeout(timer);
  const at = client.timeout() ?? Infinity;
  const { leaving, phase } = client.view();
  const counting = leaving !== null || phase === "waiting" ? 1000 : Infinity;
  const wait = Math.min(at - now(), counting);
  if (wait === Infinity) return;
  timer = setTimeout(() => {
    client.handleTimeout(now());
    act();
  }, Math.max(0, wait));
}

// --- What is to be seen.

function show() {
  const view = client.view();
  const locked = view.phase === "locked";
  store(TOKEN, locked ? null : token);
  const { tone, word, more } = connection(view, now());
  set(page.connection, word);
  page.connection.dataset.tone = tone;
  set(page.alert, more ?? "");
  page.alert.hidden = more === null;
  if (page.signIn.hidden === locked) {
    page.signIn.hidden = !locked;
    page.compose.hidden = locked;
    if (locked) page.token.focus();
  }
  set(page.wrong, view.lockedWhy ?? "");
  page.wrong.hidden = view.lockedWhy === null;
  page.chat.hidden = locked && view.items.length === 0;
  showLines(view.items);
  if (!page.status.hidden) showFigures(view.status);
}

function showLines(items) {
  const atEnd = page.chat.scrollHeight - page.chat.scrollTop - page.chat.clientHeight < 48;
  page.empty.hidden = items.length > 0;
  const wanted = new Set(items.map((item) => item.id));
  for (const [id, element] of shown) {
    if (wanted.has(id)) continue;
    element.remove();
    shown.delete(id);
  }
  let before = page.lines.firstElementChild;
  for (const item of items) {
    let element = shown.get(item.id);
    if (!element) {
      element = newItem(item);
      shown.set(item.id, element);
    }
    // Moved only if it must be: a screen reader says again what was moved.
    if (element === before) before = before.nextElementSibling;
    else page.lines.insertBefore(element, before);
    update(element, item);
  }
  if (atEnd) scrollToEnd();
}

function newItem({ kind, key }) {
  const element = document.createElement("li");
  element.className = kind;
  // Each piece of an answer would be said; the answer is, when it is whole.
  if (kind === "draft") element.ariaHidden = "true";
  const who = child(element, "span", "who");
  set(who, kind === "line" ? "You:" : "Gateway:");
  child(element, "p", "text");
  if (kind === "line") {
    element.dataset.key = key;
    child(element, "p", "state");
  }
  return element;
}

function update(element, item) {
  set(element.querySelector(".text"), item.text);
  if (item.kind !== "line") {
    element.dataset.answers = item.answers.join(" ");
    return;
  }
  const { word, more } = line(item);
  const state = element.querySelector(".state");
  const said = more === null ? word : `${word}: ${more}`;
  if (element.dataset.state === item.state && state.dataset.said === said) return;
  element.dataset.state = item.state;
  state.dataset.said = said;
  state.textContent = said;
  if (item.state === "refused") state.append(button("Retry", "retry", item.key), button("Discard", "discard", item.key));
}

function button(label, what, key) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = label;
  element.dataset.act = what;
  element.dataset.key = key;
  return element;
}

function showFigures(status) {
  if (status === null) return;
  const text = JSON.stringify(status);
  if (page.figures.dataset.text === text) return;
  page.figures.dataset.text = text;
  page.figures.replaceChildren(...figureRows(figures(status)));
}

function figureRows(rows) {
  return rows.flatMap(({ label, text, rows: inner }) => {
    const term = document.createElement("dt");
    term.textContent = label;
    const figure = document.createElement("dd");
    if (inner === undefined) {
      figure.textContent = text;
    } else {
      const list = child(figure, "dl", "");
      list.append(...figureRows(inner));
    }
    return [term, figure];
  });
}

function child(parent, tag, name) {
  const element = document.createElement(tag);
  if (name !== "") element.className = name;
  parent.append(element);
  return element;
}

/// Text that is the same is not set again: it would be read out again.
function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function scrollToEnd() {
  page.chat.scrollTop = page.chat.scrollHeight;
}

/// The input is as high as what is in it, up to what the style allows.
function grow() {
  page.text.rows = Math.min(8, page.text.value.split("\n").length);
}

// --- The address, the storage, the rest of the world.

/// The token from the address, which is rid of it at once.
function takeToken() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (location.hash !== "") history.replaceState(null, "", location.pathname + location.search);
  return found;
}

function storedOutbox() {
  const outbox = parsed(stored(OUTBOX) ?? "[]");
  return Array.isArray(outbox) ? outbox : [];
}

/// A browser may forbid it: the page works all the same, until it is reloaded.
function stored(name) {
  try {
    return sessionStorage.getItem(name);
  } catch {
    return null;
  }
}

function store(name, text) {
  try {
    if (text === null) sessionStorage.removeItem(name);
    else sessionStorage.setItem(name, text);
  } catch {
    // As above.
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/// `crypto.randomUUID` is there only on HTTPS and on this machine.
function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
