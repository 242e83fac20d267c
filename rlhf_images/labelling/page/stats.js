// The round in numbers: how far it is, who voted how, how far to trust it, and what more votes would tell.

import { Api, call } from "./api.js";
import { command, element, gain, percent, share } from "./figures.js";
import { identify } from "./who.js";

const root = document.getElementById("stats");
let stats;
try {
  const me = await identify(await call("/api/me"));
  stats = await new Api(me.annotator, me.round).stats();
} catch (error) {
  root.replaceChildren(element("p", `The figures cannot be had: ${error.message}. Reload to try again.`));
  throw error;
}

function card(heading, ...content) {
  const made = element("section", "", "card");
  made.append(element("h2", heading), ...content);
  return made;
}

function table(headings, rows) {
  const made = element("table");
  const head = made.createTHead().insertRow();
  for (const heading of headings) head.append(Object.assign(element("th", heading), { scope: "col" }));
  const body = made.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    row.forEach((cell, i) => {
      const made_ = i ? element("td") : Object.assign(element("th"), { scope: "row" });
      made_.append(cell);
      line.append(made_);
    });
  }
  const scroll = element("div", "", "scroll");
  scroll.append(made);
  return scroll;
}

const figure = (value, words) => {
  const made = element("div", "", "figure");
  made.append(element("strong", value), element("span", words));
  return made;
};

const top = element("div", "", "figures");
top.append(
  figure(String(stats.votes), "votes that count"),
  figure(`${stats.labelled} / ${stats.pairs}`, "pairs with a vote"),
  figure(String(stats.annotators.length), stats.annotators.length === 1 ? "person" : "people"),
  figure(stats.alpha === null ? "–" : stats.alpha.toFixed(2), "agreement between people (α; 1 is perfect)"),
);

const outcomes = (person) => {
  const parts = { decided: person.left + person.right, tie: person.tie, both_bad: person.both_bad };
  const bar = element("div", "", "outcomes");
  for (const [name, count] of Object.entries(parts)) {
    const part = element("span", "", name);
    part.style.width = `${(100 * count) / Math.max(1, person.votes)}%`;
    bar.append(part);
  }
  const words = element("small", `${parts.decided} · ${parts.tie} · ${parts.both_bad}`);
  const cell = element("div");
  cell.append(bar, words);
  return cell;
};

const people = table(
  ["", "votes", "decided · both good · both bad", "a minute", "left of the screen", "agrees with self", "fast", "flagged", "skipped"],
  stats.annotators.map((person) => [
    person.annotator,
    String(person.votes),
    outcomes(person),
    person.votes_per_minute?.toFixed(0) ?? "–",
    share(person.left_share, true),
    share(person.self_agreement),
    String(person.fast),
    String(person.flagged),
    String(person.skipped),
  ]),
);

const needed = table(
  ["true win rate", "votes that tell it from chance", "still to go"],
  Object.entries(stats.votes_needed).map(([rate, votes]) => [percent(rate), String(votes), stats.decided >= votes ? "enough ✓" : String(votes - stats.decided)]),
);

needed.classList.add("narrow");

const cards = [top, card("Who voted how", people), card("What more votes would tell", element("p", gain(stats)), needed, element("small", "Decided votes, for left or right; with 80 % power, at the 5 % level."))];
if (stats.comparison) {
  const { before, after, win_rate: rate, decided } = stats.comparison;
  const words = element("p", `${after} was preferred to ${before} in:`);
  cards.push(card("The comparison", words, share({ ...rate, count: "ties count half", n: `${rate.n} votes` }, true), element("p", decided ? `Of the decided votes alone: ${percent(decided.value)} (${percent(decided.low)} to ${percent(decided.high)}).` : "")));
}
if (Object.keys(stats.ranking).length) cards.push(card("Ranking", table(["", "Elo"], Object.entries(stats.ranking).map(([name, elo]) => [name, elo.toFixed(0)]))));
if (stats.next) cards.push(card("Next, in the terminal", command(stats.next)));
else cards.push(element("p", "Whose pictures win is shown when you have voted on all of yours.", "muted"));
root.replaceChildren(...cards);
