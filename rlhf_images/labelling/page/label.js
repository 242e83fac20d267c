// The labelling page: what an answer does, what undo does, and what the annotator is told. The parts know nothing of each
// other; here they meet. An answer first changes the screen, then travels: nothing on the way to the disk is waited for.

import { Api, call, uuid } from "./api.js";
import { Dialogs } from "./dialogs.js";
import { Feed } from "./feed.js";
import { Keys, sign } from "./keys.js";
import { Last } from "./last.js";
import { Outbox } from "./outbox.js";
import { Pair } from "./pair.js";
import { Stage } from "./stage.js";
import { over } from "./over.js";
import { identify } from "./who.js";

const HISTORY = 40; // answers fetched at a time, for undo
const FAST = 600; // ms

const WORDS = {
  saved: () => "saved ✓",
  saving: () => "saving …",
  offline: (n) => `${n} unsent, trying again`,
  unknown: (n) => `${n} unsent: open the address with the token again`,
  elsewhere: (n) => `${n} unsent: this address now serves another round`,
};

const at = (id) => document.getElementById(id);
const button = (action) => document.querySelector(`[data-action="${action}"]`);

class Page {
  current = null;
  answers = []; // those that stand, oldest first: {id, type, choice, pair: {pair, prompt, left, right}}
  older = true; // whether the server may know of earlier ones
  oldest; // id of the earliest event known here
  done = 0;
  total = 0;
  seen = 0; // ms on screen
  since = 0;
  back = ""; // the page from which one pair was opened, to be answered again
  leaving = false; // that was done

  constructor(me) {
    this.me = me;
    this.api = new Api(me.annotator, me.round);
    this.outbox = new Outbox(this.api, ({ state }) => {
      this.#told();
      if (state !== "saved") return;
      if (this.leaving) location.assign(this.back);
      else this.feed.refill(() => this.current);
    });
    this.feed = new Feed(this.api, this.outbox, (answer) => this.#fed(answer));
    this.stage = new Stage(at("stage"), {
      picked: (side) => this.press(side),
      swiped: (direction) => this.press({ left: "left", right: "right", up: "tie", down: "bad" }[this.#turned(direction)]),
      changed: () => this.#named(),
    });
    this.keys = new Keys({
      pressed: (action) => this.press(action),
      released: (action) => { if (action === "flip") this.stage.flip(false); },
      changed: () => this.#print(),
    });
    this.last = new Last(at("last"), (answer) => this.again(answer));
    this.dialogs = new Dialogs(this);
    this.actions = {
      left: () => this.vote("left", 1),
      right: () => this.vote("right", 1),
      "much-left": () => this.vote("left", 2),
      "much-right": () => this.vote("right", 2),
      tie: () => this.vote("tie", 1),
      bad: () => this.vote("both_bad", 1),
      skip: () => this.answer({ type: "skip" }),
      undo: () => this.undo(),
      zoom: () => this.stage.zoomStep(),
      reset: () => this.stage.zoomReset(),
      layout: () => this.stage.nextLayout(),
      flag: () => this.flag(),
      comment: () => this.dialogs.comment(),
      tags: () => this.dialogs.tags(),
      help: () => this.dialogs.help(),
    };
    at("me").textContent = me.annotator;
    this.#listen();
    this.#print();
    this.#told();
  }

  async begin() {
    const wanted = new URLSearchParams(location.search).get("pair");
    if (wanted) this.back = "/review"; // one pair to answer again, and nothing else
    history.replaceState(null, "", "/"); // no token and no name stay in the address
    this.outbox.flush();
    await this.#recall().catch(() => {});
    this.last.show(this.answers);
    if (!wanted) return;
    const { events } = await this.api.history(1, undefined, { pair: wanted });
    if (events.length) return this.again({ pair: events[0] });
    this.back = "";
    await this.feed.refill(() => this.current);
  }

  press(action) {
    if (action === "flip") this.stage.flip(true);
    else button(action).click();
  }

  vote(choice, strength) {
    if (!this.current) return;
    if (this.current.failed) this.say("One of the pictures cannot be shown: skip this pair, or flag it");
    else if (!this.current.decoded) this.say("One moment: the pictures are still on their way");
    else if (this.stage.flipped) this.say("The pictures are flipped: let go first");
    else this.answer({ type: "vote", choice, strength });
  }

  // Send a vote or a skip, and go on.
  answer(fields) {
    const pair = this.current;
    if (!pair) return;
    const ms = Math.round(this.#looked());
    const event = { id: uuid(), pair: pair.pair, ...fields };
    this.oldest ??= event.id;
    if (fields.type === "vote") Object.assign(event, { ms, left: pair.left });
    if (pair.tags.size) event.tags = [...pair.tags];
    const { prompt, left, right } = pair;
    const before = this.answers.some((answer) => answer.pair.pair === pair.pair && answer.type === "vote");
    this.answers.push({ id: event.id, type: event.type, choice: event.choice ?? "skip", fast: ms < FAST, pair: { pair: pair.pair, prompt, left, right } });
    if (fields.type === "vote" && !before) this.done += 1;
    this.leaving = Boolean(this.back);
    this.#show(this.leaving ? null : this.feed.take(pair));
    this.outbox.add(event);
    this.last.show(this.answers);
  }

  // Take back the last answer that stands, and put its pair on the screen again.
  async undo() {
    if (!this.answers.length && this.older) {
      try {
        await this.#recall();
      } catch {
        return this.say("What came before is on the server, which does not answer");
      }
    }
    const answer = this.answers.pop();
    if (!answer) return this.say("There is nothing left to take back");
    if (answer.type === "vote" && !this.answers.some((other) => other.pair.pair === answer.pair.pair && other.type === "vote")) this.done -= 1;
    this.#instead(answer.pair);
    this.outbox.add({ id: uuid(), type: "undo", pair: answer.pair.pair, undoes: answer.id });
    this.last.show(this.answers);
    this.say("Taken back");
  }

  // Show an answered pair once more; a new vote on it counts instead of the old one.
  again(answer) {
    this.#instead(answer.pair);
    this.say("Your new answer on this pair will count instead of the one before");
  }

  flag() {
    const pair = this.current;
    if (!pair) return;
    if (pair.flag) {
      this.outbox.add({ id: uuid(), type: "undo", pair: pair.pair, undoes: pair.flag });
      pair.flag = null;
    } else {
      pair.flag = uuid();
      this.outbox.add({ id: pair.flag, type: "flag", pair: pair.pair });
    }
    this.say(pair.flag ? "Flagged; it can still be voted on" : "No longer flagged");
    this.#marks();
  }

  comment(text) {
    this.outbox.add({ id: uuid(), type: "comment", pair: this.current.pair, text });
    this.say("Comment kept");
  }

  say(text) {
    at("notice").textContent = text;
    clearTimeout(this.silence);
    this.silence = setTimeout(() => { at("notice").textContent = ""; }, 2400);
  }

  #instead({ pair, prompt, left, right }) {
    const shown = { pair, prompt, left, right };
    this.feed.drop(shown.pair);
    if (this.current && this.current.pair !== shown.pair) this.feed.putBack(this.current);
    this.#show(new Pair(shown));
  }

  #show(pair) {
    this.current = pair;
    this.stage.show(pair);
    const prompt = at("prompt");
    prompt.textContent = pair?.prompt ?? "";
    prompt.dataset.length = prompt.textContent.length > 420 ? "longest" : prompt.textContent.length > 130 ? "long" : "";
    prompt.scrollTop = 0;
    at("over").hidden = true;
    this.#marks();
    this.#count();
    this.seen = 0;
    this.since = Infinity;
    pair?.ready.then(() => {
      if (this.current !== pair) return;
      this.since = performance.now();
      if (pair.failed) this.say(`A picture of this pair cannot be shown (${pair.failed}); skip or flag it`);
    });
    if (!pair) this.#ended();
  }

  // The ms for which the pair has been in sight; time with the page hidden does not count.
  #looked() {
    return this.seen + Math.max(0, performance.now() - this.since);
  }

  // Fetch earlier answers. Asked again meanwhile, it is the same fetch: no answer comes in twice.
  #recall() {
    this.recalling ??= this.#fetchEarlier().finally(() => { this.recalling = null; });
    return this.recalling;
  }

  async #fetchEarlier() {
    await this.outbox.empty(5000); // until then the server does not know what was taken back
    const { events, more } = await this.api.history(HISTORY, this.oldest);
    const found = events.filter(({ type }) => type === "vote" || type === "skip").reverse();
    this.answers.unshift(...found.map(({ id, type, choice, fast, pair, prompt, left, right }) => ({ id, type, choice: choice ?? "skip", fast, pair: { pair, prompt, left, right } })));
    this.oldest = events.at(-1)?.id ?? this.oldest;
    this.older = more;
    if (more && !found.length) await this.#fetchEarlier();
  }

  #fed(answer) {
    if (answer && this.outbox.size === 0) {
      this.done = answer.done;
      this.total = answer.total;
    } else if (answer && !this.total) this.total = answer.total;
    if (!this.current && !this.back && this.feed.ahead.length) this.#show(this.feed.take());
    this.#count();
    if (!this.current) this.#ended();
    this.#told();
  }

  async #ended() {
    if (!this.feed.over || this.outbox.size) return;
    const element = at("over");
    at("prompt").textContent = "That was the last pair. Thank you!";
    try {
      const stats = await this.api.stats();
      if (this.current || !this.feed.over) return;
      element.replaceChildren(over(stats, this.me.annotator));
      element.hidden = false;
    } catch { /* told by the outbox's state; asked again after the next answer of the server */ }
  }

  #told() {
    const { state, size, refused, kept } = this.outbox;
    const text = [size || !this.feed.fault ? WORDS[state](size) : "no answer from the server, trying again"];
    if (this.feed.fault?.status) text[0] = this.feed.fault.message;
    if (refused.length) text.push(`${refused.length} refused: ${refused.at(-1).reason}`);
    if (!kept && size) text.push("keep this page open: this browser stores nothing");
    const saved = at("saved");
    if (saved.textContent !== text.join(" · ")) saved.textContent = text.join(" · ");
    saved.dataset.state = this.feed.fault ? "offline" : state;
    this.last.saved(this.outbox.pairs);
  }

  #count() {
    at("count").textContent = this.total ? `${Math.max(0, this.done)} / ${this.total}` : "";
    at("bar").style.setProperty("--share", this.total ? Math.min(1, this.done / this.total) : 0);
  }

  #marks() {
    button("flag").setAttribute("aria-pressed", String(Boolean(this.current?.flag)));
    button("tags").setAttribute("aria-pressed", String(Boolean(this.current?.tags.size)));
  }

  // In the stacked layout the first picture is the upper one, and a swipe upwards goes towards it.
  #turned(direction) {
    if (this.stage.layout !== "stacked") return direction;
    return { up: "left", down: "right", right: "up", left: "down" }[direction];
  }

  #named() {
    const names = this.stage?.layout === "stacked" || at("stage").dataset.layout === "stacked" ? ["Upper", "Lower"] : ["Left", "Right"];
    document.querySelectorAll(".which").forEach((element, i) => { element.textContent = names[i]; });
    button("much-left").setAttribute("aria-label", `${names[0]} is much better`);
    button("much-right").setAttribute("aria-label", `${names[1]} is much better`);
  }

  #print() {
    for (const element of document.querySelectorAll("body > :not(dialog) [data-action]")) {
      const key = this.keys?.of(element.dataset.action)?.[0];
      const shown = element.querySelector("kbd");
      if (shown) shown.textContent = key && (this.keys.single || key.startsWith("Ctrl+")) ? sign(key) : "";
    }
  }

  #listen() {
    document.addEventListener("click", (event) => {
      const pressed = event.target.closest?.("[data-action]");
      if (!pressed) return;
      if (event.detail > 0) pressed.blur(); // a mouse leaves no focus behind, or the next Space would press it again
      this.actions[pressed.dataset.action]?.();
    });
    const flip = button("flip");
    flip.addEventListener("pointerdown", (event) => {
      flip.setPointerCapture(event.pointerId);
      this.stage.flip(true);
    });
    flip.addEventListener("contextmenu", (event) => event.preventDefault());
    flip.addEventListener("keydown", (event) => { if (event.key === " " || event.key === "Enter") this.stage.flip(true); });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture", "keyup", "blur"]) flip.addEventListener(end, () => this.stage.flip(false));
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) {
        this.seen = this.#looked();
        this.since = Infinity;
      } else if (this.current?.decoded) this.since = performance.now();
    });
  }
}

const me = await identify(await call("/api/me", Object.fromEntries(new URLSearchParams(location.search))));
const page = new Page(me);
await page.begin();
