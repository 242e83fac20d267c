// The end of a round, and the figures of it: made from the server's statistics, always as text.

const percent = (share) => `${(100 * share).toFixed(0)} %`;

export function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

export function over(stats) {
  return element("div", JSON.stringify(stats));
}
