"use strict";
// A classic script in the head: it runs before the first paint, so the page never flashes in the wrong theme.
{
  const KEY = "rlhf-images/theme";
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const stored = (() => { try { return localStorage.getItem(KEY); } catch { return null; } })();
  if (stored === "dark" || stored === "light") root.dataset.theme = stored;
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.('[data-action="theme"]')) return;
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem(KEY, root.dataset.theme); } catch { /* then it lasts as long as the page */ }
  });
}
