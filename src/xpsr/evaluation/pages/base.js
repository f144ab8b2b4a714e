"use strict";
// What all pages share: those of reports, which hold it in themselves, and that of a server, which imports it. Names of
// files and methods come from strangers: they become text nodes and attributes of elements that are made here, never
// markup.

/** Makes an element: attributes by name, functions as listeners ("onclick"), children as text or nodes. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  return dress(element, attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return dress(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function dress(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const find = (id) => document.getElementById(id);
export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const readData = () => JSON.parse(find("data").textContent);

/** A storage of the browser, or memory where it keeps nothing: of local files, or because somebody forbade it. */
export class Store {
  /** `open` returns the storage, or throws where there is none. */
  constructor(open) { Object.assign(this, { open, kept: true, memory: new Map() }); }

  get(key) {
    try { return this.open().getItem(key) ?? this.memory.get(key) ?? null; }
    catch { this.kept = false; return this.memory.get(key) ?? null; }
  }

  set(key, value) {
    this.memory.set(key, value);
    try { this.open().setItem(key, value); } catch { this.kept = false; }
  }
}

export const store = new Store(() => localStorage);

export function setUpTheme(button) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
  };
  const kept = store.get("xpsr-theme");
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    store.set("xpsr-theme", root.dataset.theme);
    show();
  });
  system.addEventListener("change", show);
  show();
}

const decoded = new Map();
/** Resolves to an image that can be drawn; the same address is decoded once, and the last 24 are kept. */
function decode(address) {
  if (!decoded.has(address)) {
    const image = new Image();
    image.src = address;
    decoded.set(address, image.decode().then(() => image));
    if (decoded.size > 24) decoded.delete(decoded.keys().next().value);
  }
  return decoded.get(address);
}

/**
 * One canvas with panes that show the same part of pictures of one scene. A pane has `source` (anything drawable),
 * `rect` [x, y, width, height] in parts of the canvas and `clip` [from, to] in parts of its width; it may have `alpha`,
 * and `isSmooth` where its pixels are never to be seen. `width` and `height` are those of the scene in pixels; sources of
 * another size are stretched to it. `zoom` 1 is all of the scene, and the largest that it can be so.
 */
export class Stage {
  constructor(canvas, { pansByArrows = true } = {}) {
    Object.assign(this, { canvas, panes: [], width: 1, height: 1, zoom: 1, x: 0.5, y: 0.5, queued: false });
    this.before = []; // called before and after a painting
    this.listeners = [];
    this.pointers = new Map();
    new ResizeObserver(() => this.refresh()).observe(canvas);
    canvas.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.onDown(event));
    canvas.addEventListener("pointermove", (event) => this.onMove(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.onUp(event));
    canvas.addEventListener("dblclick", (event) => (this.zoom === 1 ? this.actual(event) : this.fit()));
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step || !(pansByArrows || event.shiftKey)) return;
      event.preventDefault();
      event.stopPropagation();
      this.pan(step[0] * 60, step[1] * 60);
    });
  }

  show({ width, height, panes, keep = false }) {
    Object.assign(this, { width, height, panes });
    if (!keep) Object.assign(this, { zoom: 1, x: 0.5, y: 0.5 });
    this.refresh();
  }

  /** Where the picture begins and ends in the stage, in parts of its width. */
  span() {
    const across = (this.width * this.scale()) / this.canvas.clientWidth;
    return [Math.max(0.5 - this.x * across, 0), Math.min(0.5 + (1 - this.x) * across, 1)];
  }

  /** CSS pixels of the screen that a pixel of the scene takes in a pane. */
  scale(pane = this.panes[0]) {
    if (!pane) return 1;
    const [, , width, height] = pane.rect;
    const { clientWidth, clientHeight } = this.canvas;
    return this.zoom * Math.min((width * clientWidth) / this.width, (height * clientHeight) / this.height);
  }

  /** The zoom at which one pixel of the scene takes so many of the screen. */
  zoomOf(pixels) { return (pixels * this.zoom) / (this.scale() * devicePixelRatio); }

  /** A zoom within the limits: a small scene may be as small as it is, and 16 CSS pixels for one are most. */
  within(zoom) { return clamp(zoom, Math.min(1, this.zoomOf(1)), Math.max(this.zoomOf(16 * devicePixelRatio), 1)); }

  limit() {
    this.zoom = this.within(this.zoom);
    const pane = this.panes[0];
    if (!pane) return;
    const scale = this.scale();
    const half = [(pane.rect[2] * this.canvas.clientWidth) / scale / this.width / 2,
                  (pane.rect[3] * this.canvas.clientHeight) / scale / this.height / 2];
    this.x = half[0] >= 0.5 ? 0.5 : clamp(this.x, half[0], 1 - half[0]);
    this.y = half[1] >= 0.5 ? 0.5 : clamp(this.y, half[1], 1 - half[1]);
  }

  /** The middle of the pane in which a point of the screen lies, from that point, in CSS pixels. */
  offset(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const inside = ({ rect }) => x >= rect[0] * box.width && x <= (rect[0] + rect[2]) * box.width
      && y >= rect[1] * box.height && y <= (rect[1] + rect[3]) * box.height;
    const { rect } = this.panes.find(inside) ?? this.panes[0];
    return [x - (rect[0] + rect[2] / 2) * box.width, y - (rect[1] + rect[3] / 2) * box.height];
  }

  zoomBy(factor, event = null) {
    if (!this.panes.length) return;
    const [dx, dy] = event ? this.offset(event) : [0, 0];
    const before = this.scale();
    this.zoom = this.within(this.zoom * factor);
    const after = this.scale();
    this.x += (dx / before - dx / after) / this.width;
    this.y += (dy / before - dy / after) / this.height;
    this.refresh();
  }

  pan(dx, dy) {
    const scale = this.scale();
    this.x += dx / scale / this.width;
    this.y += dy / scale / this.height;
    this.refresh();
  }

  fit() { Object.assign(this, { zoom: 1, x: 0.5, y: 0.5 }); this.refresh(); }

  /** One pixel of the scene on so many of the screen, along a side. */
  zoomTo(pixels, event = null) { this.zoomBy(this.zoomOf(pixels) / this.zoom, event?.clientX === undefined ? null : event); }

  actual(event = null) { this.zoomTo(1, event); }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    if (event.key === "+" || event.key === "=") this.zoomBy(1.25);
    else if (event.key === "-") this.zoomBy(0.8);
    else if (event.key === "0") this.fit();
    else if (event.key === "1") this.actual();
    else return false;
    return true;
  }

  onWheel(event) {
    if (this.zoom <= 1 && event.deltaY > 0) return; // the page scrolls on
    if (!event.ctrlKey && !event.metaKey && !this.catchesWheel()) return;
    event.preventDefault();
    this.zoomBy(Math.exp(-clamp(event.deltaY, -120, 120) / 400), event);
  }

  /** Before it was clicked, the wheel scrolls the page. */
  catchesWheel() { return document.activeElement === this.canvas; }

  onDown(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.canvas.classList.add("dragging");
    this.pointers.set(event.pointerId, event);
  }

  onMove(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) return;
    const others = [...this.pointers.values()].filter((one) => one.pointerId !== event.pointerId);
    if (others.length) {
      const far = (one) => Math.max(Math.hypot(one.clientX - others[0].clientX, one.clientY - others[0].clientY), 1);
      this.zoomBy(far(event) / far(last), others[0]);
    } else {
      this.pan(last.clientX - event.clientX, last.clientY - event.clientY);
    }
    this.pointers.set(event.pointerId, event);
  }

  onUp(event) {
    this.pointers.delete(event.pointerId);
    if (!this.pointers.size) this.canvas.classList.remove("dragging");
  }

  refresh() {
    if (this.queued) return;
    this.queued = true;
    requestAnimationFrame(() => { this.queued = false; this.paint(); });
  }

  paint() {
    const { canvas } = this;
    const ratio = devicePixelRatio;
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    this.limit();
    for (const listener of this.panes.length ? this.before : []) listener();
    canvas.style.touchAction = this.zoom > 1 ? "none" : "pan-y"; // of a whole picture, a finger scrolls the page
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    for (const pane of this.panes) {
      const [x, y, w, h] = pane.rect.map((part, index) => Math.round(part * (index % 2 ? height : width)));
      const [from, to] = pane.clip ?? [0, 1];
      context.save();
      context.beginPath();
      context.rect(x + from * w, y, (to - from) * w, h);
      context.clip();
      const scale = this.scale(pane) * ratio;
      context.globalAlpha = pane.alpha ?? 1;
      context.imageSmoothingEnabled = scale < 2 || Boolean(pane.isSmooth);
      context.imageSmoothingQuality = "high";
      const [left, top] = [Math.round(x + w / 2 - this.x * this.width * scale), Math.round(y + h / 2 - this.y * this.height * scale)];
      try {
        context.drawImage(pane.source, left, top, Math.round(this.width * scale), Math.round(this.height * scale));
      } finally {
        context.restore(); // or this clip would stay for all that is painted later
      }
    }
    for (const listener of this.listeners) listener();
  }
}

/** The border between two sides of a stage, and the handle that moves it: from 0, where only the right one is seen, to 100. */
export class Border {
  constructor(stage, handle) {
    Object.assign(this, { stage, handle, position: 50 });
    handle.addEventListener("keydown", (event) => {
      const far = event.shiftKey ? 10 : 2;
      const next = {
        ArrowLeft: this.position - far, ArrowDown: this.position - far, ArrowRight: this.position + far, ArrowUp: this.position + far,
        PageDown: this.position - 10, PageUp: this.position + 10, Home: 0, End: 100,
      }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      this.move(next);
    });
    handle.addEventListener("pointerdown", (event) => {
      handle.setPointerCapture(event.pointerId);
      event.preventDefault();
      handle.focus({ preventScroll: true });
    });
    handle.addEventListener("pointermove", (event) => { if (handle.hasPointerCapture(event.pointerId)) this.follow(event); });
  }

  /** Puts the handle where it belongs, with what it says; returns where that is, in parts of the stage's width. */
  place(said) {
    const [from, to] = this.stage.span();
    const at = from + ((to - from) * this.position) / 100;
    this.handle.style.left = `${100 * at}%`;
    this.handle.setAttribute("aria-valuenow", Math.round(this.position));
    this.handle.setAttribute("aria-valuetext", said);
    return at;
  }

  move(position) {
    this.position = clamp(position, 0, 100);
    this.stage.refresh();
  }

  /** Moves to where a pointer is. */
  follow(event) {
    const box = this.stage.canvas.getBoundingClientRect();
    const [from, to] = this.stage.span();
    this.move((100 * ((event.clientX - box.left) / box.width - from)) / (to - from));
  }
}
