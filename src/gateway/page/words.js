// How what the client knows is said to people. Pure: the time is an argument, in milliseconds.

/// The connection, in a word and, if there is more to say, in a sentence: `{tone, word, more}`.
export function connection({ phase, attempt, retryAt, leaving, drain }, now) {
  if (phase === "locked") return { tone: "off", word: "Not signed in", more: null };
  const progress = drain === null ? "" : ` Draining: ${drain}.`;
  const again = attempts(phase, attempt, retryAt, now);
  if (leaving !== null && leaving.backAt === null) {
    return { tone: "off", word: "Stopped", more: `Stopped, and not expected back.${progress}${again}` };
  }
  if (leaving !== null) {
    const left = leaving.backAt - now;
    const when = left > 0 ? `back in about ${seconds(left)}` : "back any moment";
    return { tone: "busy", word: "Restarting", more: `Restarting, ${when}.${progress}${again}` };
  }
  if (phase === "connected") {
    return { tone: drain === null ? "on" : "busy", word: "Connected", more: progress.trim() || null };
  }
  if (phase === "connecting" && attempt <= 1) {
    return { tone: "busy", word: "Connecting", more: null };
  }
  return { tone: "off", word: "Offline", more: `Offline.${again}` };
}

/// What a person should know about a line that was typed: `{word, more}`.
export function line({ state, note }) {
  switch (state) {
    case "sending":
      return { word: "sending", more: note };
    case "accepted":
      return { word: "accepted", more: note };
    case "refused":
      return { word: "refused", more: note };
    default:
      return { word: "answered", more: null };
  }
}

/// Anything as JSON can hold it, as rows of a list: `{label, text}` or `{label, rows}`.
export function figures(value) {
  return Object.entries(value ?? {}).map(([key, inner]) => row(label(key), key, inner));
}

/// 75000 -> "1 min 15 s": the two largest parts.
export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const parts = [];
  let left = Math.floor(ms / 1000);
  for (const [unit, size] of [["d", 86_400], ["h", 3_600], ["min", 60], ["s", 1]]) {
    if (left >= size) parts.push(`${Math.floor(left / size)} ${unit}`);
    left %= size;
  }
  return parts.slice(0, 2).join(" ");
}

function attempts(phase, attempt, retryAt, now) {
  if (phase === "connecting") return ` Attempt ${attempt}.`;
  if (phase !== "waiting" || attempt === 0) return "";
  return ` Attempt ${attempt} failed, next in ${seconds(Math.max(0, retryAt - now))}.`;
}

/// Rounded up: a countdown ends at 1 s, not at 0.
function seconds(ms) {
  return duration(Math.ceil(ms / 1000) * 1000 || 1000);
}

function row(name, key, value) {
  if (value === null || value === undefined) return { label: name, text: "none" };
  if (typeof value === "boolean") return { label: name, text: value ? "yes" : "no" };
  if (typeof value === "number") {
    return { label: name, text: key.endsWith("Ms") ? duration(value) : value.toLocaleString("en") };
  }
  if (typeof value !== "object") return { label: name, text: String(value) };
  const entries = Object.entries(value);
  if (entries.length === 0) return { label: name, text: "none" };
  if (!Array.isArray(value)) return { label: name, rows: figures(value) };
  if (value.every((item) => typeof item !== "object")) return { label: name, text: value.join(", ") };
  return { label: name, rows: value.map((item, place) => part(item, place)) };
}

/// Of a list: by its name where it has one, else by its number.
function part(item, place) {
  const { name, ...rest } = item ?? {};
  const title = name ?? String(place + 1);
  // The commonest of all, in one line: who is ready, and why not.
  if (typeof rest.ready === "boolean" && Object.keys(rest).every((key) => key === "ready" || key === "reason")) {
    const why = rest.reason ? `: ${rest.reason}` : "";
    return { label: title, text: rest.ready ? "ready" : `not ready${why}` };
  }
  return row(title, "", name === undefined ? item : rest);
}

/// "uptimeMs" -> "Uptime", "lastReplyId" -> "Last reply id". Names that are no such words stay.
function label(key) {
  if (!/^[a-z][a-zA-Z0-9]*$/.test(key)) return key;
  const words = key.replace(/Ms$/, "").replace(/([A-Z])/g, (letter) => ` ${letter.toLowerCase()}`);
  return words[0].toUpperCase() + words.slice(1);
}
