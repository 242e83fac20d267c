// The dialogs: keys and help, a comment, reason tags.

import { ACTIONS, nameOf, sign } from "./keys.js";

const at = (id) => document.getElementById(id);

export class Dialogs {
  #page;
  #waiting = null; // the binding that waits for its new key: {action, key, button}

  constructor(page) {
    this.#page = page;
    at("single").addEventListener("change", (event) => page.keys.useSingle(event.target.checked));
    at("restore").addEventListener("click", () => {
      page.keys.restore();
      at("single").checked = true;
      this.#list();
    });
    at("help").addEventListener("keydown", (event) => this.#rebind(event));
    at("help").addEventListener("close", () => { this.#waiting = null; });
    at("comment").addEventListener("close", () => {
      const text = at("comment-text").value.trim();
      if (at("comment").returnValue === "save" && text) page.comment(text);
    });
    at("comment-text").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("comment").close("save");
    });
    at("tags").addEventListener("keydown", (event) => this.#tagged(event));
  }

  help() {
    at("single").checked = this.#page.keys.single;
    this.#list();
    at("help").showModal();
  }

  comment() {
    if (!this.#page.current) return;
    at("comment-text").value = "";
    at("comment").returnValue = "";
    at("comment").showModal();
  }

  tags() {
    const pair = this.#page.current;
    if (!pair) return;
    const buttons = this.#page.me.tags.map((tag, i) => {
      const button = element("button", tag[0].toUpperCase() + tag.slice(1));
      button.type = "button";
      button.dataset.tag = tag;
      button.setAttribute("aria-pressed", String(pair.tags.has(tag)));
      button.append(element("kbd", String(i + 1)));
      button.addEventListener("click", () => {
        if (!pair.tags.delete(tag)) pair.tags.add(tag);
        button.setAttribute("aria-pressed", String(pair.tags.has(tag)));
        document.querySelector('[data-action="tags"]').setAttribute("aria-pressed", String(pair.tags.size > 0));
      });
      return button;
    });
    at("tag-list").replaceChildren(...buttons);
    at("tags").showModal();
  }

  #tagged(event) {
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    const button = at("tag-list").children[Number(event.key) - 1];
    if (button) button.click();
    else if (event.key === "Enter" || event.key.toUpperCase() === "T") at("tags").close();
    else return;
    event.preventDefault();
  }

  #list() {
    const rows = Object.entries(ACTIONS).flatMap(([action, [words]]) => {
      const keys = element("span");
      const bound = this.#page.keys.of(action);
      for (const key of bound.length ? bound : [""]) keys.append(this.#binding(action, key, words));
      return [element("span", words), keys];
    });
    at("bindings").replaceChildren(...rows);
  }

  #binding(action, key, words) {
    const button = element("button");
    button.type = "button";
    button.dataset.binds = action;
    button.setAttribute("aria-label", `${words}: ${key ? `key ${sign(key)}` : "no key"}; change it`);
    button.append(element("kbd", key ? sign(key) : "none"));
    button.addEventListener("click", () => {
      this.#list();
      const fresh = [...at("bindings").querySelectorAll(`[data-binds="${action}"]`)].find((other) => other.textContent === button.textContent);
      fresh.dataset.waiting = "";
      fresh.firstElementChild.textContent = "press a key";
      fresh.focus();
      this.#waiting = { action, key };
    });
    return button;
  }

  #rebind(event) {
    if (!this.#waiting || ["Shift", "Control", "Alt", "Meta", "Tab"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    const { action, key } = this.#waiting;
    this.#waiting = null;
    const loser = event.key === "Escape" ? null : this.#page.keys.bind(action, key, nameOf(event));
    this.#list();
    at("bindings").querySelector(`[data-binds="${action}"]`).focus();
    if (loser) this.#page.say(`That key no longer does: ${ACTIONS[loser][0]}`);
  }
}

function element(name, text = "") {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}
