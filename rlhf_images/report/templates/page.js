"use strict";
{
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.title = "Switch between light and dark";
  theme.hidden = false;
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    label();
  });
  system.addEventListener("change", label);
  label();
}
{
  // Holding the button or B lays each base picture over its tuned one: what differs then moves before the eye.
  const flip = document.getElementById("flip");
  const show = (base) => {
    if (base && !document.querySelector(".over")) {
      for (const pair of document.querySelectorAll(".pair")) {
        const over = pair.querySelector(".base img").cloneNode();
        over.className = "over";
        over.alt = "";
        pair.querySelector(".slot.tuned").append(over);
      }
    }
    document.documentElement.classList.toggle("flipped", base);
    for (const tag of document.querySelectorAll(".slot.tuned .tag")) tag.textContent = base ? "base" : "tuned";
  };
  if (flip) {
    flip.hidden = document.getElementById("flip-hint").hidden = false;
    const plain = (event) => !(event.ctrlKey || event.metaKey || event.altKey || event.repeat);
    const holds = (event) =>
      event.key.toLowerCase() === "b" || (event.target === flip && (event.key === " " || event.key === "Enter"));
    flip.addEventListener("pointerdown", (event) => { flip.setPointerCapture(event.pointerId); show(true); });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) flip.addEventListener(end, () => show(false));
    flip.addEventListener("contextmenu", (event) => event.preventDefault());
    addEventListener("keydown", (event) => { if (plain(event) && holds(event)) show(true); });
    addEventListener("keyup", () => show(false));
    addEventListener("blur", () => show(false));
  }
}
