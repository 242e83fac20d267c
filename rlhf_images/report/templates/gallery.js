{
  // Every row has a picture of every column; two are shown: the base, and that of the slider. What is laid over the
  // second to flip or wipe is the same picture as the first: nothing is loaded twice.
  const gallery = document.getElementById("pictures");
  const find = (id) => document.getElementById(id);
  if (gallery) {
    const [step, wipeAt, zoom] = [find("step"), find("wipe-at"), find("zoom")];
    const rows = [...gallery.querySelectorAll(".row")].map((row) => ({ row, slots: [...row.querySelectorAll(".slot")] }));
    const names = rows[0].slots.map((slot) => slot.querySelector(".name").textContent);
    const many = names.length > 1;
    let flipped = false, at = [0, 0];

    const cover = (slot, base) => {
      if (slot.querySelector(".cover")) return;
      const [laid, image] = [document.createElement("div"), base.querySelector("img").cloneNode()];
      laid.className = "cover";
      image.alt = "";
      laid.append(image);
      slot.querySelector(".frame").append(laid);
    };
    const show = () => {
      const all = gallery.classList.contains("all"), wiped = gallery.classList.contains("wiped");
      const chosen = Number(step.value);
      for (const { slots } of rows) {
        slots.forEach((slot, column) => {
          slot.hidden = !all && column !== chosen && (column !== 0 || wiped);
          slot.classList.toggle("chosen", column === chosen && column !== 0);
          if (column !== 0 && (all ? flipped : column === chosen && (flipped || wiped))) cover(slot, slots[0]);
          slot.querySelector(".name").textContent = flipped && column !== 0 ? names[0] : names[column];
        });
      }
      gallery.classList.toggle("flipped", flipped);
      find("step-name").textContent = step.dataset.names.split("\n")[chosen];
      step.setAttribute("aria-valuetext", find("step-name").textContent);
    };
    const press = (button, mode) => {
      const on = gallery.classList.toggle(mode);
      button.setAttribute("aria-pressed", String(on));
      if (on && mode === "wiped" && gallery.classList.contains("all")) press(find("all"), "all");
      if (on && mode === "all" && gallery.classList.contains("wiped")) press(find("wipe"), "wiped");
      show();
    };
    const flip = (on) => { if (on !== flipped) { flipped = on; show(); } };
    const move = (x, y) => {
      const most = 50 * (1 - 1 / Number(zoom.value));  // per cent of the picture that can be moved out of sight
      at = [x, y].map((part) => Math.min(most, Math.max(-most, part)));
      gallery.style.setProperty("--x", `${at[0]}%`);
      gallery.style.setProperty("--y", `${at[1]}%`);
    };
    const magnify = (value) => {
      zoom.value = value;
      gallery.style.setProperty("--zoom", zoom.value);
      gallery.classList.toggle("zoomed", Number(zoom.value) > 1);
      find("zoom-name").textContent = `${zoom.value}×`;
      move(...at);
    };
    const wipe = (value) => { wipeAt.value = value; gallery.style.setProperty("--wipe", `${wipeAt.value}%`); };
    const go = (by) => { step.value = Number(step.value) + by; show(); };
    const row = (by) => {
      const seen = rows.map((each) => each.row).filter((each) => each.offsetParent);  // not those of a closed group
      const now = seen.indexOf(document.activeElement);
      const next = seen[Math.min(seen.length - 1, Math.max(0, now + by))];
      next.focus({ preventScroll: true });
      next.scrollIntoView({ block: "center" });
    };
    const enlarge = () => { if (gallery.contains(document.activeElement)) document.activeElement.closest(".row")?.classList.toggle("large"); };

    step.addEventListener("input", show);
    wipeAt.addEventListener("input", () => wipe(wipeAt.value));
    zoom.addEventListener("input", () => magnify(zoom.value));
    find("wipe").addEventListener("click", () => press(find("wipe"), "wiped"));
    find("all").addEventListener("click", () => press(find("all"), "all"));
    const button = find("flip");
    button.addEventListener("pointerdown", (event) => { button.setPointerCapture(event.pointerId); flip(true); });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) button.addEventListener(end, () => flip(false));
    button.addEventListener("contextmenu", (event) => event.preventDefault());

    // A drag on a picture moves all of them, or the wipe; a click enlarges its row.
    let drag = null;
    gallery.addEventListener("pointerdown", (event) => {
      const frame = event.target.closest(".frame");
      if (!frame || event.button !== 0) return;
      const box = frame.getBoundingClientRect();
      drag = { box, x: event.clientX, y: event.clientY, at: [...at], moved: false, row: frame.closest(".row") };
      if (gallery.classList.contains("wiped") || Number(zoom.value) > 1) frame.setPointerCapture(event.pointerId);
    });
    gallery.addEventListener("pointermove", (event) => {
      if (!drag) return;
      const [x, y] = [event.clientX - drag.x, event.clientY - drag.y];
      drag.moved ||= Math.hypot(x, y) > 4;
      if (gallery.classList.contains("wiped")) wipe(Math.round((100 * (event.clientX - drag.box.left)) / drag.box.width));
      else if (Number(zoom.value) > 1) {
        const share = 100 / Number(zoom.value);
        move(drag.at[0] + (share * x) / drag.box.width, drag.at[1] + (share * y) / drag.box.height);
      }
    });
    addEventListener("pointerup", () => {
      if (drag && !drag.moved) drag.row.classList.toggle("large");
      drag = null;
    });
    addEventListener("pointercancel", () => { drag = null; });
    gallery.addEventListener("dragstart", (event) => event.preventDefault());

    const keys = {
      w: () => find("wipe").click(), a: () => find("all").click(),
      "+": () => magnify(Number(zoom.value) + 1), "=": () => magnify(Number(zoom.value) + 1),
      "-": () => magnify(Number(zoom.value) - 1), 0: () => { at = [0, 0]; magnify(1); },
      j: () => row(1), k: () => row(-1), ArrowLeft: () => go(-1), ArrowRight: () => go(1),
    };
    const pans = { ArrowLeft: [5, 0], ArrowRight: [-5, 0], ArrowUp: [0, 5], ArrowDown: [0, -5] };
    addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const onRange = event.target.matches?.("input");
      const holds = event.key.toLowerCase() === "b" || (event.target === button && [" ", "Enter"].includes(event.key));
      if (holds) { flip(true); if (event.target === button) event.preventDefault(); return; }
      if (event.shiftKey && event.key in pans && !onRange && Number(zoom.value) > 1) {
        event.preventDefault();
        move(at[0] + pans[event.key][0], at[1] + pans[event.key][1]);
      } else if (event.key === "Enter" && event.target.matches?.(".row")) enlarge();
      else if (!event.shiftKey || event.key === "+") {
        const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
        if (act && !(onRange && event.key.startsWith("Arrow"))) { event.preventDefault(); act(); }
      }
    });
    addEventListener("keyup", () => flip(false));
    addEventListener("blur", () => flip(false));

    step.closest(".step").hidden = !many;
    for (const id of ["flip", "wipe", "all"]) find(id).hidden = !many;
    find("toolbar").hidden = false;
    addEventListener("beforeprint", () => { for (const group of gallery.querySelectorAll("details.group")) group.open = true; });
    rows[0].row.tabIndex = 0;
    gallery.addEventListener("focusin", (event) => {
      const entered = event.target.closest(".row");
      if (entered) for (const each of rows) each.row.tabIndex = each.row === entered ? 0 : -1;
    });
    wipe(50);
    show();
  }
}
