// Whose page this is. A tab keeps its annotator, so that two people in one browser are not taken for each other.

const KEY = "rlhf-images/annotator";

// Return `{annotator, round, tags}`; ask for the name where neither the address, the tab nor the server knows it.
export async function identify(me) {
  const asked = new URLSearchParams(location.search).get("annotator");
  const annotator = asked || sessionStorage.getItem(KEY) || me.annotator || (await ask());
  sessionStorage.setItem(KEY, annotator);
  return { ...me, annotator };
}

function ask() {
  const dialog = document.getElementById("who");
  const name = document.getElementById("name");
  dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener("close", () => {
      if (name.value.trim()) done(name.value.trim());
      else dialog.showModal(); // Escape is no name
    });
  });
}
