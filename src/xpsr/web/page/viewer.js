// Before and after on one canvas: with a border that moves, side by side, or one in the other's place.
import { Border, Stage, find, make } from "./base.js";
import { overlayOf } from "./pixels.js";
import { percentText, short, sizeText } from "./words.js";

const WHOLE = [0, 0, 1, 1];
const LAYOUTS = ["slide", "beside", "flip"];
const OPACITY = 0.75; // of the map

/** A stage on which a drag moves the border as long as there is nothing to pan. */
class Sheet extends Stage {
  constructor(canvas) {
    super(canvas);
    this.onDrag = null;
  }

  /** The wheel zooms at once where it could scroll nothing. */
  catchesWheel() {
    for (let box = this.canvas.parentElement; box; box = box.parentElement) {
      if (box.scrollHeight > box.clientHeight + 1 && getComputedStyle(box).overflowY !== "hidden") return super.catchesWheel();
    }
    return true;
  }

  onDown(event) {
    super.onDown(event);
    // a finger may only be about to scroll the page
    if (this.zoom <= 1 && this.pointers.size === 1 && event.pointerType !== "touch") this.onDrag?.(event);
  }

  onMove(event) {
    if (this.zoom <= 1 && this.pointers.size === 1 && this.pointers.has(event.pointerId) && this.onDrag?.(event)) {
      this.pointers.set(event.pointerId, event);
      return;
    }
    super.onMove(event);
  }
}

export class Viewer {
  constructor(visit) {
    Object.assign(this, { visit, picture: null, before: null, layout: "slide", side: "after", hasMap: false, turn: 0, shown: "" });
    this.stage = new Sheet(find("canvas"));
    this.border = new Border(this.stage, find("handle"));
    this.stage.onDrag = (event) => this.drag(event);
    this.stage.before.push(() => this.clip());
    this.stage.listeners.push(() => this.onPaint());
    this.overlays = new WeakMap();
    this.listen();
  }

  /** Shows a picture as it is now; what is shown already is not drawn again. */
  show(picture) {
    const isOther = picture !== this.picture;
    if (isOther) Object.assign(this, { picture, before: null, side: "after" });
    if (!picture) {
      this.turn += 1; // what is being decoded comes too late
      this.put({ width: 1, height: 1, panes: [] });
      return;
    }
    if (!picture.done.includes(this.before) || this.before === picture.chosen) this.before = null;
    this.offer();
    const { after } = this;
    const shown = JSON.stringify([after?.job?.id ?? null, this.before?.job?.id, this.layout, this.side, this.hasMap, this.preview?.step, picture.isDecodable, picture.describing?.state]);
    if (isOther || shown !== this.shown) this.refresh({ keep: !isOther });
    this.shown = shown;
  }

  get after() { return this.picture?.chosen?.state === "done" ? this.picture.chosen : null; }

  get preview() { return this.after ? null : this.picture?.chosen?.preview ?? null; }

  label(one) { return one ? this.visit.label(one) : "Before"; }

  /** What may be compared with the result that is chosen. */
  offer() {
    const { picture, after } = this;
    const others = picture.done.filter((result) => result !== after);
    const options = [null, ...others];
    const names = options.map((one) => this.label(one)).join("\n");
    const select = find("before");
    if (select.dataset.names !== names) {
      select.replaceChildren(...options.map((one, at) => make("option", { value: at }, this.label(one))));
      select.dataset.names = names;
    }
    this.options = options;
    select.value = String(Math.max(options.indexOf(this.before), 0));
    find("before-field").hidden = !others.length;
    const canMap = Boolean(after?.job.links.map);
    find("map-toggle").disabled = !canMap;
    find("map-toggle").setAttribute("aria-pressed", this.hasMap && canMap);
    for (const layout of LAYOUTS) {
      find(layout).disabled = !after && !this.preview;
      find(layout).setAttribute("aria-pressed", layout === this.layout);
    }
  }

  async refresh({ keep = true } = {}) {
    const turn = (this.turn += 1);
    const { visit, picture, before, after, preview } = this;
    find("stage").setAttribute("aria-busy", "true");
    const found = await Promise.allSettled([
      visit.bitmapOf(before ?? picture),
      after ? visit.bitmapOf(after) : preview ? imageOf(preview.image) : null,
      after && this.hasMap && after.job.links.map ? this.overlay(after) : null,
    ]);
    if (turn !== this.turn) return; // another was chosen meanwhile
    this.blank = found.find(({ reason }) => reason)?.reason ?? null; // what can be shown, is
    const [left, right, map] = found.map(({ value }) => value ?? null);
    const scene = (after && right) || left || right || { width: 1, height: 1 };
    const isKept = keep && this.stage.width / this.stage.height === scene.width / scene.height;
    this.put({ width: scene.width, height: scene.height, panes: this.panes(left, right, map), keep: isKept });
    this.tell(left, right);
    find("stage").setAttribute("aria-busy", "false");
  }

  put(scene) {
    this.stage.show(scene);
    this.visit.bitmaps.show(scene.panes.map(({ source }) => source));
  }

  panes(left, right, map) {
    // the input is enlarged plainly: smoothly, as any program shows it; a result shows its pixels
    const one = { source: left, rect: WHOLE, clip: [0, 1], isSmooth: !this.before };
    if (!right) return left ? [one] : [];
    const two = { source: right, rect: WHOLE, clip: [0, 1], isSmooth: !this.after };
    const over = map ? [{ source: map, rect: WHOLE, clip: [0, 1], isSmooth: true, alpha: OPACITY }] : [];
    if (!left) return [two, ...over];
    if (this.layout === "flip") return this.side === "before" ? [one] : [two, ...over];
    if (this.layout === "slide") return [one, two, ...over];
    const halves = [[0, 0, 0.499, 1], [0.501, 0, 0.499, 1]];
    return [{ ...one, rect: halves[0] }, ...[two, ...over].map((pane) => ({ ...pane, rect: halves[1] }))];
  }

  async overlay(result) {
    if (!this.overlays.has(result)) this.overlays.set(result, overlayOf(await this.visit.mapOf(result)));
    return this.overlays.get(result);
  }

  tell(left, right) {
    const { picture, before, after, preview, layout } = this;
    const first = before ? this.label(before) : right ? "Before, enlarged" : "Before";
    const second = after ? this.label(after) : preview ? `Step ${preview.step} of ${preview.steps}` : "";
    const isBoth = Boolean(left && right);
    const flipped = layout === "flip" && isBoth;
    find("tag-left").textContent = flipped ? (this.side === "before" ? first : second) : first;
    find("tag-left").hidden = !left;
    find("tag-right").textContent = second;
    find("tag-right").hidden = !right || flipped;
    find("handle").hidden = !isBoth || layout !== "slide";
    find("blank").hidden = Boolean(left || right);
    find("blank").textContent = this.blank && !picture.problem ? this.blank.text : "";
    find("canvas").setAttribute("aria-label", right ? `${picture.name}: ${first} and ${second}` : `${picture.name}: ${first}`);
    const size = after ? sizeText(after.output.width, after.output.height) : picture.width ? sizeText(picture.width, picture.height) : "";
    this.size = size;
    this.onPaint();
  }

  clip() {
    const part = this.border.position / 100;
    const border = this.border.place(`${percentText(part)} before, ${percentText(1 - part)} after`);
    const { panes } = this.stage;
    if (this.layout === "slide" && panes.length > 1) {
      panes.forEach((pane, at) => { pane.clip = at ? [border, 1] : [0, border]; });
    }
  }

  /** Moves the border to where a pointer is; returns whether there is one. */
  drag(event) {
    if (find("handle").hidden) return false;
    this.border.follow(event);
    return true;
  }

  onPaint() {
    const scale = this.stage.scale() * devicePixelRatio;
    const zoom = Math.abs(scale - 1) < 0.005 ? "1:1" : `${short(scale)} ×`;
    find("tag-zoom").textContent = [this.size, this.stage.panes.length ? zoom : ""].filter(Boolean).join(" · ");
  }

  setLayout(layout) {
    this.layout = layout;
    this.show(this.picture);
  }

  flip() {
    if (this.layout === "flip") this.side = this.side === "before" ? "after" : "before";
    else Object.assign(this, { layout: "flip", side: "before" });
    this.show(this.picture);
  }

  toggleMap() {
    if (find("map-toggle").disabled) return;
    this.hasMap = !this.hasMap;
    this.show(this.picture);
  }

  /** What a key does here; returns whether it does anything. */
  onKey(event) {
    const key = event.key.toLowerCase();
    const canFlip = !find("flip").disabled;
    const action = {
      s: () => canFlip && this.setLayout(this.layout === "slide" ? "beside" : "slide"),
      f: () => canFlip && this.flip(),
      m: () => this.toggleMap(),
      2: () => this.stage.zoomTo(2),
    }[key];
    if (action) action();
    else return this.stage.onKey(event);
    return true;
  }

  listen() {
    const on = (id, action) => find(id).addEventListener("click", action);
    for (const layout of LAYOUTS) on(layout, () => (layout === "flip" ? this.flip() : this.setLayout(layout)));
    on("map-toggle", () => this.toggleMap());
    on("in", () => this.stage.zoomBy(1.25));
    on("out", () => this.stage.zoomBy(0.8));
    on("fit", () => this.stage.fit());
    on("actual", () => this.stage.actual());
    on("double", () => this.stage.zoomTo(2));
    find("before").addEventListener("change", (event) => {
      this.before = this.options[Number(event.target.value)];
      this.show(this.picture);
    });
    // the wheel scrolls the page until the picture was clicked, which nobody would guess
    let timer;
    find("canvas").addEventListener("wheel", () => {
      if (this.stage.catchesWheel() || !this.stage.panes.length) return;
      find("hint").hidden = false;
      clearTimeout(timer);
      timer = setTimeout(() => { find("hint").hidden = true; }, 1600);
    }, { passive: true });
  }
}

async function imageOf(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return image;
}
