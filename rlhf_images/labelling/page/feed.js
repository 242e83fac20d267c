// The pairs to come: the next four are fetched and decoded while the one before is looked at.

import { Pair } from "./pair.js";
import { Refused, pause } from "./api.js";

const AHEAD = 4;

export class Feed {
  #api;
  #outbox;
  #told;
  #asking = false;
  #again = false;
  #clock = 0;
  #answered = new Map(); // pair → when it was answered here
  ahead = [];
  over = false; // the server has nothing more for this annotator
  fault = null;

  // `told(answer)` is called with each answer of the server, after the new pairs are queued.
  constructor(api, outbox, told) {
    this.#api = api;
    this.#outbox = outbox;
    this.#told = told;
  }

  take(answered) {
    if (answered) this.#answered.set(answered.pair, (this.#clock += 1));
    return this.ahead.shift() ?? null;
  }

  // Show `pair` again before all others.
  putBack(pair) {
    this.ahead = [pair, ...this.ahead.filter((other) => other.pair !== pair.pair)];
  }

  drop(id) { this.ahead = this.ahead.filter((pair) => pair.pair !== id); }

  async refill(current) {
    if (this.#asking) {
      this.#again = true;
      return;
    }
    this.#asking = true;
    let wait = 250;
    do {
      this.#again = false;
      const asked = this.#clock;
      const unsaved = this.#outbox.pairs;
      try {
        const answer = await this.#api.next(AHEAD + 1);
        this.fault = null;
        this.#queue(answer.pairs, asked, unsaved, current());
        this.over = answer.pairs.length === 0 && this.#outbox.size === 0;
        this.#told(answer);
        wait = 250;
      } catch (error) {
        this.fault = error;
        this.#told(null);
        if (error instanceof Refused && error.status !== 401 && error.status < 500) break;
        await pause(wait);
        wait = Math.min(wait * 2, 4000);
        this.#again = true;
      }
    } while (this.#again);
    this.#asking = false;
  }

  // What was answered after the question was asked, or was not saved by then, the server did not know of.
  #queue(pairs, asked, unsaved, current) {
    const here = new Set([current?.pair, ...this.ahead.map((pair) => pair.pair)]);
    for (const shown of pairs) {
      const late = (this.#answered.get(shown.pair) ?? 0) > asked || unsaved.has(shown.pair);
      if (!late && !here.has(shown.pair) && this.ahead.length < AHEAD + (current ? 0 : 1)) this.ahead.push(new Pair(shown));
    }
  }
}
