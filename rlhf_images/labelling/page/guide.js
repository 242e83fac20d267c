// The guidelines: rendered by the server, edited here as Markdown, and the same for everyone in the round.

import { call } from "./api.js";

const at = (id) => document.getElementById(id);
let version;

function edits(on) {
  at("guide").hidden = on;
  at("editor").hidden = !on;
  at("edit").hidden = on;
}

at("edit").addEventListener("click", async () => {
  const found = await call("/api/guide");
  version = found.version;
  at("text").value = found.text;
  at("told").textContent = "";
  edits(true);
  at("text").focus();
});

at("cancel").addEventListener("click", () => edits(false));

at("editor").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await call("/api/guide", {}, { text: at("text").value, version });
    location.reload();
  } catch (error) {
    at("told").textContent = `Not saved: ${error.message}`;
  }
});
