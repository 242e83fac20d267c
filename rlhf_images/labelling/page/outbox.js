// Events on their way to the server's disk. Each lies in the browser's own storage until the server has said "saved", so
// a closed page, a dead server or a lost network costs nothing: they are sent again, in order, and stored once by id.

import { Refused, afterPaint, pause } from "./api.js";

const ROOM = 50; // events a request: well under the 64 kB that a request may carry past the end of a page
const REFUSALS = new Set([400, 404, 413, 415, 422]); // an answer about the event itself; anything else may pass

export class Outbox {
  #api;
  #changed;
  #prefix;
  #waiting = new Map(); // storage key → event, in order
  #last = 0;
  #running = false;
  state = "saved"; // saved | saving | offline | unknown (the token) | elsewhere (another round)
  refused = []; // [{event, reason}]
  kept = true; // whether the browser's storage takes them

  constructor(api, changed) {
    this.#api = api;
    this.#changed = changed;
    this.#prefix = `rlhf-images/outbox/${api.round}/${encodeURIComponent(api.annotator)}/`;
    this.#recall();
    if (this.#waiting.size) this.state = "saving";
    addEventListener("online", () => this.flush());
  }

  get size() { return this.#waiting.size; }

  get pairs() { return new Set([...this.#waiting.values()].map((event) => event.pair)); }

  // Wait until all is saved; throw after `ms`.
  async empty(ms) {
    for (const end = Date.now() + ms; this.size; await pause(20)) if (Date.now() > end) throw new Error("not sent yet");
  }

  add(event) {
    this.#last = Math.max(this.#last + 1, Date.now());
    const key = `${this.#prefix}${String(this.#last).padStart(15, "0")}/${event.id}`;
    this.#waiting.set(key, event);
    try {
      localStorage.setItem(key, JSON.stringify(event));
    } catch {
      this.kept = false;
    }
    this.#become("saving");
    afterPaint(() => this.flush());
  }

  async flush() {
    if (this.#running) return;
    this.#running = true;
    let room = ROOM;
    let wait = 250;
    while (this.#waiting.size) {
      const batch = [...this.#waiting].slice(0, room);
      try {
        const { saved } = await this.#api.send(batch.map(([, event]) => event));
        const done = new Set(saved);
        for (const [key, event] of batch) {
          if (done.has(event.id)) this.#forget(key);
          else this.#refuse(key, event, "the server holds another event of this id");
        }
        wait = 250;
        this.#become(this.#waiting.size ? "saving" : "saved");
      } catch (error) {
        if (error instanceof Refused && REFUSALS.has(error.status)) {
          if (batch.length === 1) this.#refuse(batch[0][0], batch[0][1], error.message);
          else room = 1; // find the one it is about
          continue;
        }
        this.#become(error.status === 401 ? "unknown" : error.status === 409 ? "elsewhere" : "offline");
        if (this.state === "elsewhere") break;
        await pause(wait);
        wait = Math.min(wait * 2, 4000);
      }
    }
    this.#running = false;
    this.#changed(this);
  }

  #become(state) {
    this.state = state;
    this.#changed(this);
  }

  #forget(key) {
    this.#waiting.delete(key);
    try { localStorage.removeItem(key); } catch { /* it was never there */ }
  }

  #refuse(key, event, reason) {
    this.refused.push({ event, reason });
    this.#forget(key);
    try { localStorage.setItem(key.replace("/outbox/", "/refused/"), JSON.stringify({ event, reason })); } catch { /* shown */ }
    this.#changed(this);
  }

  #recall() {
    try {
      const keys = Object.keys(localStorage).filter((key) => key.startsWith(this.#prefix));
      for (const key of keys.sort()) this.#waiting.set(key, JSON.parse(localStorage.getItem(key)));
    } catch {
      this.kept = false;
    }
  }
}
