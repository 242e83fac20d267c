// The last five answers as pairs of thumbnails. They are drawn when the browser has nothing better to do: never between a
// key press and the next pair.

const SHOWN = 5;
const SIZE = 60; // pixels; shown at 30
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

  // Show the newest of `answers`; `images` are those of the newest, where they are at hand.
  show(answers, images) {
    requestIdleCallback(() => this.#draw(answers.slice(-SHOWN), images), { timeout: 400 });
  }

  saved(unsaved) {
    this.#unsaved = unsaved;
    for (const item of this.#root.children) this.#mark(item.firstElementChild);
  }

  #draw(answers, images) {
    const wanted = new Set(answers.map((answer) => answer.id));
    for (const id of this.#drawn.keys()) if (!wanted.has(id)) this.#drawn.delete(id);
    const newest = answers.at(-1);
    for (const answer of answers) {
      if (!this.#drawn.has(answer.id)) this.#drawn.set(answer.id, this.#item(answer, answer === newest ? images : undefined));
    }
    this.#root.replaceChildren(...answers.map((answer) => this.#drawn.get(answer.id)));
  }

  #item(answer, images) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.choice = answer.choice;
    button.dataset.pair = answer.pair.pair;
    const words = `${WORDS[answer.choice]}${answer.fast && answer.type === "vote" ? ", fast" : ""}`;
    button.title = `${words}: ${answer.pair.prompt.slice(0, 200)}`;
    button.setAttribute("aria-label", `Answer again: ${button.title}`);
    button.append(thumbnail(answer.pair.left, images?.left), thumbnail(answer.pair.right, images?.right));
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

function thumbnail(id, image) {
  const canvas = document.createElement("canvas");
  canvas.width = SIZE;
  canvas.height = SIZE;
  if (image?.complete && image.naturalWidth) draw(canvas, image);
  else {
    const fetched = new Image();
    fetched.src = `/i/${id}`;
    fetched.decode().then(() => draw(canvas, fetched), () => {});
  }
  return canvas;
}

function draw(canvas, image) {
  const { naturalWidth: width, naturalHeight: height } = image;
  const side = Math.min(width, height);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = side > SIZE / 2;
  context.imageSmoothingQuality = "medium";
  context.drawImage(image, (width - side) / 2, (height - side) / 2, side, side, 0, 0, SIZE, SIZE);
}
