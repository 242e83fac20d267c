// The last five answers as pairs of thumbnails. They are drawn when the browser has nothing better to do: never between a
// key press and the next pair.

const SHOWN = 5;
const WORDS = { left: "left was better", right: "right was better", tie: "both good", both_bad: "both bad", skip: "skipped" };

export class Last {
  #root;
  #chosen;
  #drawn = new Map(); // answer id → list item
  #unsaved = new Set();

  constructor(root, chosen) {
    this.#root = root;
    this.#chosen = chosen;
  }

  // Show the newest of `answers`.
  show(answers) {
    requestIdleCallback(() => this.#draw(answers.slice(-SHOWN)), { timeout: 400 });
  }

  saved(unsaved) {
    this.#unsaved = unsaved;
    for (const item of this.#root.children) this.#mark(item.firstElementChild);
  }

  #draw(answers) {
    const wanted = new Set(answers.map((answer) => answer.id));
    for (const id of this.#drawn.keys()) if (!wanted.has(id)) this.#drawn.delete(id);
    for (const answer of answers) if (!this.#drawn.has(answer.id)) this.#drawn.set(answer.id, this.#item(answer));
    this.#root.replaceChildren(...answers.map((answer) => this.#drawn.get(answer.id)));
  }

  #item(answer) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.choice = answer.choice;
    button.dataset.pair = answer.pair.pair;
    const words = `${WORDS[answer.choice]}${answer.fast && answer.type === "vote" ? ", fast" : ""}`;
    button.title = `${words}: ${answer.pair.prompt.slice(0, 200)}`;
    button.setAttribute("aria-label", `Answer again: ${button.title}`);
    button.append(thumbnail(answer.pair.left), thumbnail(answer.pair.right));
    button.addEventListener("click", () => this.#chosen(answer));
    this.#mark(button);
    const item = document.createElement("li");
    item.append(button);
    return item;
  }

  #mark(button) {
    button.dataset.saved = String(!this.#unsaved.has(button.dataset.pair));
  }
}

// A picture that the browser has already, made small off the main thread.
function thumbnail(id) {
  const image = new Image();
  image.decoding = "async";
  image.alt = "";
  image.src = `/i/${id}`;
  return image;
}
