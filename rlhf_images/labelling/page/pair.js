// A pair on its way to the screen. Both pictures are fetched and decoded before it can be shown whole or voted on.

import { pause } from "./api.js";

export class Pair {
  decoded = false;
  failed = ""; // why a picture cannot be shown
  flag = null; // id of the event that flagged it
  tags = new Set();
  note = "";

  constructor({ pair, prompt, left, right }) {
    Object.assign(this, { pair, prompt, left, right });
    this.images = { left: picture("left"), right: picture("right") };
    const both = ["left", "right"].map((side) => load(this.images[side], this[side]));
    this.ready = Promise.all(both).then(
      () => { this.decoded = true; },
      (error) => { this.failed = error.message; },
    );
  }
}

function picture(side) {
  const image = new Image();
  image.decoding = "sync"; // never a frame with the new prompt and no picture
  image.draggable = false;
  image.alt = `the ${side} picture`;
  return image;
}

async function load(image, id) {
  for (let tries = 0, wait = 250; ; tries += 1, wait = Math.min(wait * 2, 4000)) {
    image.src = `/i/${id}`;
    try {
      await image.decode();
      return;
    } catch {
      const reason = await fault(id);
      if (reason || tries >= 60) throw new Error(reason ?? "it does not arrive");
      await pause(wait);
    }
  }
}

// Why a picture did not decode; null where the server cannot be reached, which passes.
async function fault(id) {
  try {
    const response = await fetch(`/i/${id}`, { signal: AbortSignal.timeout(20_000) });
    return response.ok ? "its bytes are damaged" : response.status === 404 || response.status === 422 ? (await response.json()).error : null;
  } catch {
    return null;
  }
}
