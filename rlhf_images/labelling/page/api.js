// The server's API. Every call names the annotator and the round, so no vote can land under another name or folder.

export class Refused extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

export class Api {
  constructor(annotator, round) {
    this.annotator = annotator;
    this.round = round;
  }

  next(n) { return call("/api/next", { ...this.#who, n }); }
  history(n, before, more = {}) { return call("/api/history", { ...this.#who, n, ...(before && { before }), ...more }); }
  stats() { return call("/api/stats", this.#who, undefined, 120_000); }
  send(events) { return call("/api/events", this.#who, events); }

  get #who() { return { annotator: this.annotator, round: this.round }; }
}

// Throws `Refused` when the server says no, TypeError or a timeout when it cannot be reached.
export async function call(path, query = {}, body = undefined, patience = 20_000) {
  const post = body === undefined
    ? {}
    : { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, keepalive: true };
  const address = `${path}?${new URLSearchParams(query)}`;
  const response = await fetch(address, { ...post, signal: AbortSignal.timeout(patience) });
  const answer = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
  if (!response.ok) throw new Refused(response.status, answer.error);
  return answer;
}

// Like crypto.randomUUID, which browsers offer on https and loopback only, and a team may label over plain http.
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

export const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });

// Run `work` once the screen shows what was changed until now; soon, where nothing is painted.
export function afterPaint(work) {
  let waits = true;
  const once = () => {
    if (waits) work();
    waits = false;
  };
  requestAnimationFrame(() => setTimeout(once, 0));
  setTimeout(once, 100);
}
