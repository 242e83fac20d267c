// The end of a round for this annotator.

import { command, element, gain, percent, share } from "./figures.js";

export function over(stats, annotator) {
  const card = element("div", "", "card");
  const you = stats.annotators.find((person) => person.annotator === annotator);
  if (!you) {
    card.append(element("h2", "Nothing to do here"), element("p", "Every pair has been handed to enough people."));
    return card;
  }
  const facts = element("dl", "", "facts");
  const fact = (name, value, note) => {
    const words = element("dd");
    words.append(typeof value === "string" ? element("span", value, "value") : value);
    if (note) words.append(element("small", note));
    facts.append(element("dt", name), words);
  };
  const twice = you.repeats ? `; ${you.repeats} more on pairs that came twice` : "";
  fact("Votes", String(you.votes), `${you.left + you.right} decided, ${you.tie} both good, ${you.both_bad} both bad${twice}`);
  fact("Votes a minute", you.votes_per_minute === null ? "–" : you.votes_per_minute.toFixed(0));
  fact("You agree with yourself", share(you.self_agreement), you.ceiling ? ceiling(you.ceiling) : "no pair came twice");
  fact("You chose the left side", share(you.left_share, true));
  fact("More labels", gain(stats));
  card.append(element("h2", stats.over ? "What came of it" : "So far"), facts);
  if (stats.next) card.append(element("p", "Next, in the terminal:"), command(stats.next));
  return card;
}

const ceiling = ([best, low, high]) => `no reward model can agree with you on more than ${percent(best)} (${percent(low)} to ${percent(high)})`;
