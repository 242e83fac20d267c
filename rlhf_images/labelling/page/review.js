// The annotator's own votes as a grid. Choosing one opens it on the labelling page, to be answered again.

import { Api, call } from "./api.js";
import { element } from "./figures.js";
import { identify } from "./who.js";

const ROWS = 300; // fetched at a time
const CHOICES = { left: "left better", right: "right better", tie: "both good", both_bad: "both bad" };
const FILTERS = {
  all: ["All", () => true],
  flagged: ["Flagged", (card) => card.flagged],
  fast: ["Fast", (card) => card.fast],
  disagrees: ["Disagreeing", (card) => card.disagrees],
};

const at = (id) => document.getElementById(id);
const cards = new Map(); // pair as shown → its newest answer, with the comments on it
let filter = location.hash.slice(1) in FILTERS ? location.hash.slice(1) : "all";
let oldest;

function take(rows) {
  for (const row of rows) {
    oldest = row.id;
    const card = cards.get(row.pair) ?? { comments: [], tags: [] };
    cards.set(row.pair, card);
    if (row.type === "comment") card.comments.push(row.text);
    else if (row.type === "flag") Object.assign(card, { ...row, ...card, flagged: true });
    else if (!card.answered) Object.assign(card, row, { answered: true, flagged: row.flagged || card.flagged });
  }
}

function drawn(card) {
  const item = element("li");
  const open = element("a");
  open.href = `/?pair=${encodeURIComponent(card.pair)}`;
  open.dataset.choice = card.choice ?? "skip";
  const pictures = element("div", "", "pictures");
  for (const side of ["left", "right"]) {
    const image = new Image();
    image.loading = "lazy";
    image.decoding = "async";
    image.alt = `the ${side} picture`;
    image.addEventListener("load", () => image.classList.toggle("crisp", image.naturalWidth < 64));
    image.src = `/i/${card[side]}`;
    pictures.append(image);
  }
  const prompt = element("bdi", card.prompt, "prompt");
  prompt.dir = "auto";
  const marks = element("p", "", "marks");
  const much = card.strength === 2 ? "much " : "";
  marks.append(element("span", card.choice ? much + CHOICES[card.choice] : "skipped", "choice"));
  const said = { flagged: card.flagged, fast: card.fast, disagrees: card.disagrees, "came twice": card.pair.endsWith("~again") };
  for (const [mark, holds] of Object.entries(said)) if (holds) marks.append(element("span", mark, "mark"));
  for (const tag of card.tags ?? []) marks.append(element("span", tag, "mark"));
  open.append(pictures, prompt, marks, ...card.comments.map((text) => element("q", text)));
  item.append(open);
  return item;
}

function draw() {
  const known = [...cards.values()].filter((card) => card.left);
  at("filters").replaceChildren(...Object.entries(FILTERS).map(([name, [words, holds]]) => {
    const button = element("button", `${words} ${known.filter(holds).length}`);
    button.type = "button";
    button.dataset.filter = name;
    button.setAttribute("aria-pressed", String(name === filter));
    button.addEventListener("click", () => {
      filter = name;
      history.replaceState(null, "", `#${name}`);
      draw();
      document.querySelector(`[data-filter="${name}"]`).focus();
    });
    return button;
  }));
  const shown = known.filter(FILTERS[filter][1]);
  at("grid").replaceChildren(...shown.map(drawn));
  at("told").textContent = shown.length ? "Choose one to answer it again; the new answer counts." : filter === "all" ? "You have not voted yet." : "None of your votes is here.";
}

const me = await identify(await call("/api/me"));
const api = new Api(me.annotator, me.round);

async function more() {
  const { events, more: left } = await api.history(ROWS, oldest, { compare: 1 });
  take(events);
  at("more").hidden = !left;
  draw();
}

at("more").addEventListener("click", more);
await more();
