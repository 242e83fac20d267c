// Which key does what. Every key presses a real button of the page, so that keys and buttons cannot drift apart.

const STORE = "rlhf-images/keys";

// action → what it does, its keys; the first is printed on its button
export const ACTIONS = {
  left: ["Left is better", "ArrowLeft", "1"],
  right: ["Right is better", "ArrowRight", "2"],
  "much-left": ["Left is much better", "Shift+ArrowLeft"],
  "much-right": ["Right is much better", "Shift+ArrowRight"],
  tie: ["Both good", "ArrowUp", "3"],
  bad: ["Both bad", "ArrowDown", "4"],
  skip: ["Skip; it comes back at the end", "Space"],
  undo: ["Take the last answer back", "Backspace", "U", "Ctrl+Z"],
  flip: ["Hold: each picture in the other's place", "X"],
  zoom: ["Zoom in on both; also wheel and drag", "Z"],
  reset: ["Whole pictures again", "0"],
  layout: ["Side by side, stacked, wipe", "V"],
  flag: ["Flag: should not be in the round", "F"],
  comment: ["Write a comment", "C"],
  tags: ["Say why: reason tags", "T"],
  help: ["Keys and help", "?"],
  theme: ["Dark or light", "D"],
};

const SIGNS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Backspace: "⌫", "Shift+ArrowLeft": "⇧ ←", "Shift+ArrowRight": "⇧ →" };

export const sign = (key) => SIGNS[key] ?? key.replace(/^Shift\+/, "⇧ ").replace(/^Ctrl\+/, "Ctrl ");

// What a key press is called: characters by the character they make, others with their Shift.
export function nameOf(event) {
  const control = event.ctrlKey || event.metaKey ? "Ctrl+" : "";
  if (event.key === " ") return `${control}Space`;
  if ([...event.key].length === 1) return control + event.key.toUpperCase();
  return control + (event.shiftKey ? "Shift+" : "") + event.key;
}

export class Keys {
  #bound = new Map(Object.entries(ACTIONS).map(([action, [, ...keys]]) => [action, keys]));
  #held = new Set();
  single = true; // keys without Ctrl

  constructor({ pressed, released, changed }) {
    this.changed = changed;
    this.#recall();
    addEventListener("keydown", (event) => this.#down(event, pressed));
    addEventListener("keyup", (event) => this.#up(event, released));
    addEventListener("blur", () => this.#letGo(released));
  }

  of(action) { return this.#bound.get(action); }

  // Give `key` to `action` in place of `former`; whichever action had it loses it, and is returned.
  bind(action, former, key) {
    const loser = [...this.#bound.keys()].find((other) => other !== action && this.of(other).includes(key)) ?? null;
    if (loser) this.#bound.set(loser, this.of(loser).filter((other) => other !== key));
    const keys = this.of(action).map((other) => (other === former ? key : other));
    this.#bound.set(action, [...new Set(former ? keys : [...keys, key])]);
    this.#keep();
    return loser;
  }

  useSingle(on) {
    this.single = on;
    this.#keep();
  }

  restore() {
    this.#bound = new Map(Object.entries(ACTIONS).map(([action, [, ...keys]]) => [action, keys]));
    this.single = true;
    this.#keep();
  }

  #actionOf(name) {
    if (!this.single && !name.startsWith("Ctrl+")) return null;
    return [...this.#bound.keys()].find((action) => this.of(action).includes(name)) ?? null;
  }

  #down(event, pressed) {
    if (event.defaultPrevented || event.isComposing || event.altKey) return;
    let target = event.target;
    if (target.closest?.("dialog:not([open])")) { // closed, but the browser takes its focus away a frame later only
      target.blur();
      target = document.body;
    }
    const onButton = target.closest?.("button, a, summary") && (event.key === "Enter" || event.key === " ");
    if (onButton) {
      if (event.repeat) event.preventDefault(); // a held key presses a button once
      return;
    }
    if (target.closest?.("input, textarea, select") || document.querySelector("dialog[open]")) return;
    const action = this.#actionOf(nameOf(event));
    if (!action) return;
    event.preventDefault();
    if (event.repeat) return;
    this.#held.add(action);
    pressed(action);
  }

  #up(event, released) {
    const name = nameOf(event);
    for (const action of this.#held) {
      if (this.of(action).some((key) => key === name || key.endsWith(`+${name}`) || name.endsWith(`+${key}`))) {
        this.#held.delete(action);
        released(action);
      }
    }
  }

  #letGo(released) {
    for (const action of this.#held) released(action);
    this.#held.clear();
  }

  #keep() {
    try {
      localStorage.setItem(STORE, JSON.stringify({ single: this.single, bound: [...this.#bound] }));
    } catch { /* then they last as long as the page */ }
    this.changed();
  }

  #recall() {
    try {
      const { single, bound } = JSON.parse(localStorage.getItem(STORE)) ?? { single: true, bound: [] };
      this.single = single !== false;
      for (const [action, keys] of bound) if (action in ACTIONS && Array.isArray(keys)) this.#bound.set(action, keys.map(String));
    } catch { /* unreadable: the keys as printed */ }
  }
}
