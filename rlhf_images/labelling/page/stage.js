// The two pictures: layouts, zoom and pan in step, flip, wipe, clicks and swipes. It knows nothing of votes.

const LAYOUTS = ["side", "stacked", "wipe"];
const MAX_ZOOM = 16;
const LARGEST = 20; // times its size: a larger mosaic of a tiny picture can only be read from across the room
const CRISP = 3; // from this many screen pixels a picture pixel, its squares are shown as squares
const CLICK = 6; // pixels that a pointer may tremble
const SWIPE = 56; // pixels that make a swipe

export class Stage {
  #root;
  #boxes;
  #zoom = { scale: 1, x: 0, y: 0 }; // x, y: where the picture's corner lies, in box widths and heights
  #pointers = new Map();
  #gesture = null;
  #size = { width: 0, height: 0 }; // of a box
  #chosen = null; // the layout asked for; null: whichever shows the pictures larger
  pair = null;

  // `picked(side)` is called for a click on a picture, `swiped(direction)` for a swipe, `changed()` for a new layout.
  constructor(root, { picked, swiped, changed }) {
    this.#root = root;
    this.#boxes = { left: root.querySelector('[data-side="left"]'), right: root.querySelector('[data-side="right"]') };
    this.picked = picked;
    this.swiped = swiped;
    this.changed = changed;
    this.slider = root.querySelector("input");
    this.slider.addEventListener("input", () => this.wipe(this.slider.value / 100));
    for (const [name, handle] of Object.entries(this.#handlers())) root.addEventListener(name, handle, { passive: false });
    new ResizeObserver(() => this.#fit()).observe(root);
    new ResizeObserver(([{ contentRect }]) => {
      this.#size = contentRect; // kept, since asking for it when a pair is shown would lay the page out twice
      this.#state();
    }).observe(this.#boxes.left);
    this.wipe(0.5);
    this.#fit();
  }

  get layout() { return this.#root.dataset.layout; }
  get flipped() { return this.#root.dataset.flipped === "true"; }
  get zoomed() { return this.#zoom.scale; }

  show(pair) {
    this.pair = pair;
    for (const side of ["left", "right"]) {
      const box = this.#boxes[side];
      if (pair) box.replaceChildren(pair.images[side]);
      else box.replaceChildren();
    }
    this.#state();
    if (pair && !pair.decoded) pair.ready.then(() => { if (this.pair === pair) this.#state(); });
  }

  nextLayout() {
    this.#chosen = LAYOUTS[(LAYOUTS.indexOf(this.layout) + 1) % LAYOUTS.length];
    this.#fit();
  }

  flip(on) { this.#root.dataset.flipped = String(on); }

  wipe(share) {
    this.#root.style.setProperty("--wipe", `${(100 * Math.min(1, Math.max(0, share))).toFixed(2)}%`);
    this.slider.value = String(Math.round(100 * share));
  }

  // Scale by `factor` around a point of the box, each coordinate in [0, 1].
  zoomBy(factor, at = { x: 0.5, y: 0.5 }) {
    const scale = Math.min(MAX_ZOOM, Math.max(1, this.#zoom.scale * factor));
    const grown = scale / this.#zoom.scale;
    this.#pan({ scale, x: at.x - (at.x - this.#zoom.x) * grown, y: at.y - (at.y - this.#zoom.y) * grown });
  }

  zoomStep() { if (this.#zoom.scale > 7.9) this.zoomReset(); else this.zoomBy(2, this.lastPoint); }
  zoomReset() { this.#pan({ scale: 1, x: 0, y: 0 }); }

  #pan({ scale, x, y }) {
    const inside = (value) => Math.min(0, Math.max(1 - scale, value));
    this.#zoom = { scale, x: inside(x), y: inside(y) };
    this.#root.style.setProperty("--zoom", scale);
    this.#root.style.setProperty("--x", `${(100 * this.#zoom.x).toFixed(3)}%`);
    this.#root.style.setProperty("--y", `${(100 * this.#zoom.y).toFixed(3)}%`);
    this.#root.dataset.zoomed = String(scale > 1);
    this.#state();
  }

  // Side by side or one above the other: whichever shows the pictures larger, unless one was asked for.
  #fit() {
    const { clientWidth: width, clientHeight: height } = this.#root;
    const { naturalWidth: w = 1, naturalHeight: h = 1 } = this.pair?.images.left ?? {};
    const aspect = w && h ? w / h : 1;
    const side = Math.min(width / 2, height * aspect);
    const stacked = Math.min(width, (height / 2) * aspect);
    const layout = this.#chosen ?? (stacked > 1.15 * side ? "stacked" : "side");
    const before = this.layout;
    this.#root.dataset.layout = layout;
    this.#state();
    if (before !== layout) this.changed();
  }

  #state() {
    const pair = this.pair;
    this.#root.dataset.state = !pair ? "empty" : pair.failed ? "failed" : pair.decoded ? "ready" : "loading";
    if (!pair?.decoded) return;
    const images = Object.values(pair.images);
    this.#cap(LARGEST * Math.max(...images.map((image) => image.naturalWidth)), LARGEST * Math.max(...images.map((image) => image.naturalHeight)));
    const { width, height } = this.#size;
    const dense = devicePixelRatio * this.#zoom.scale;
    for (const image of images) {
      const times = Math.min(width / image.naturalWidth, height / image.naturalHeight) * dense;
      image.classList.toggle("crisp", times >= CRISP);
    }
  }

  // Both boxes are as large as the stage allows, up to this.
  #cap(x, y) {
    const most = `${x}px ${y}px`;
    if (this.most === most) return;
    this.most = most;
    this.#root.style.setProperty("--most-x", `${x}px`);
    this.#root.style.setProperty("--most-y", `${y}px`);
  }

  // Where a pointer is: its box, and its place in that box in [0, 1].
  #place(event) {
    const found = event.target.closest?.(".box");
    const box = (found ?? this.#boxes.left).getBoundingClientRect();
    const at = { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
    const share = Number.parseFloat(this.#root.style.getPropertyValue("--wipe")) / 100;
    const side = this.layout === "wipe" ? (at.x < share ? "left" : "right") : found?.dataset.side;
    return { at, side, box };
  }

  #handlers() {
    return {
      wheel: (event) => {
        event.preventDefault();
        this.zoomBy(Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.06 : 0.002)), this.#place(event).at);
      },
      pointerdown: (event) => {
        if (event.button !== 0 || event.target === this.slider) return;
        this.#root.setPointerCapture(event.pointerId);
        this.#pointers.set(event.pointerId, event);
        const place = this.#place(event);
        if (this.#pointers.size === 1) this.#gesture = { ...place, from: event, moved: 0, fingers: 1 };
        else if (this.#gesture) this.#gesture.fingers = this.#pointers.size;
      },
      pointermove: (event) => this.#move(event),
      pointerup: (event) => this.#end(event),
      pointercancel: (event) => { this.#pointers.delete(event.pointerId); this.#gesture = null; },
      pointerleave: () => { this.lastPoint = undefined; },
    };
  }

  #move(event) {
    if (!this.#pointers.size) {
      this.lastPoint = this.#place(event).at;
      if (this.layout === "wipe" && event.pointerType === "mouse" && event.target !== this.slider) this.wipe(this.lastPoint.x);
      return;
    }
    const before = this.#pointers.get(event.pointerId);
    const gesture = this.#gesture;
    if (!before || !gesture) return;
    const { width, height, left, top } = gesture.box;
    const others = [...this.#pointers.values()].filter((other) => other.pointerId !== event.pointerId);
    this.#pointers.set(event.pointerId, event);
    gesture.moved = Math.max(gesture.moved, Math.hypot(event.clientX - gesture.from.clientX, event.clientY - gesture.from.clientY));
    if (others.length) {
      const spread = (one) => Math.hypot(one.clientX - others[0].clientX, one.clientY - others[0].clientY);
      const middle = { x: ((event.clientX + others[0].clientX) / 2 - left) / width, y: ((event.clientY + others[0].clientY) / 2 - top) / height };
      if (spread(before) > 0) this.zoomBy(spread(event) / spread(before), middle);
    } else if (this.#zoom.scale > 1) {
      const { scale, x, y } = this.#zoom;
      this.#pan({ scale, x: x + (event.clientX - before.clientX) / width, y: y + (event.clientY - before.clientY) / height });
    } else if (this.layout === "wipe") {
      this.wipe((event.clientX - left) / width);
    }
  }

  #end(event) {
    this.#pointers.delete(event.pointerId);
    const gesture = this.#gesture;
    if (this.#pointers.size || !gesture) return;
    this.#gesture = null;
    const dx = event.clientX - gesture.from.clientX;
    const dy = event.clientY - gesture.from.clientY;
    if (gesture.fingers > 1 || this.flipped) return;
    if (gesture.moved <= CLICK) {
      if (gesture.side) this.picked(gesture.side);
    } else if (event.pointerType === "touch" && this.#zoom.scale === 1 && this.layout !== "wipe" && Math.max(Math.abs(dx), Math.abs(dy)) >= SWIPE) {
      this.swiped(Math.abs(dx) > Math.abs(dy) ? (dx < 0 ? "left" : "right") : (dy < 0 ? "up" : "down"));
    }
  }
}
