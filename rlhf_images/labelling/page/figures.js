// The figures of a round in words. Everything becomes text: nothing from the server is ever read as HTML.

export function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

export const percent = (share) => `${(100 * share).toFixed(0)} %`;

const range = ({ low, high }) => `${percent(low)} to ${percent(high)}`;

// A share with its interval: a bar on a scale from 0 to 100 %, and the same in words.
export function share(found, even = false) {
  if (!found) return element("span", "–", "muted");
  const cell = element("div", "", "share");
  const scale = element("div", "", "scale");
  const bar = element("span", "", "range");
  bar.style.left = `${100 * found.low}%`;
  bar.style.width = `${100 * (found.high - found.low)}%`;
  const point = element("span", "", "point");
  point.style.left = `${100 * found.value}%`;
  if (even) scale.append(element("span", "", "even"));
  scale.append(bar, point);
  cell.append(element("span", percent(found.value), "value"), scale, element("small", `${range(found)}, ${found.count} of ${found.n}`));
  return cell;
}

// What has been asked for so far is enough to see such a win rate, and what more would show.
export function gain({ decided, detectable, votes_needed: needed }) {
  const now = detectable < 1
    ? `${decided} decided votes tell a win rate of ${percent(detectable)} or more from chance.`
    : `${decided} decided votes do not yet tell any win rate from chance.`;
  const more = Object.entries(needed)
    .map(([rate, votes]) => [percent(rate), votes - decided])
    .filter(([, votes]) => votes > 0)
    .reverse();
  return more.length ? `${now} ${more[0][1]} more would tell ${more[0][0]}.` : now;
}

// A command to paste, with a button that copies it.
export function command(text) {
  const row = element("div", "", "command");
  const code = element("code", text);
  const copy = element("button", "Copy");
  copy.type = "button";
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    } catch { // plain http offers no clipboard
      getSelection().selectAllChildren(code);
      copy.textContent = "Selected";
    }
  });
  row.append(code, copy);
  return row;
}
