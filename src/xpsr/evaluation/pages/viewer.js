// The viewer of a report: two sides of a picture, or their difference. Depends on base.js and tables.js.

const GAIN = 4;
const LAYOUTS = ["slide", "beside", "difference"];

class Viewer {
  constructor(data) {
    Object.assign(this, { data, pictures: new Map(data.pictures.map((one) => [one.index, one])), current: null, turn: 0 });
    Object.assign(this, { left: null, right: null, layout: "slide" });
    this.stage = new Stage(find("canvas"));
    this.border = new Border(this.stage, find("handle"));
    this.stage.before.push(() => this.clip());
    this.stage.listeners.push(() => this.onPaint());
    if (!this.pictures.size) {
      find("viewer").hidden = true;
      return;
    }
    find("picture").append(...data.pictures.map(({ index }) => make("option", { value: index }, data.names[index])));
    this.thumbs = new Map(data.pictures.map((one) => [one.index, make("button",
      { type: "button", title: data.names[one.index], "aria-label": data.names[one.index], "aria-pressed": "false", onclick: () => this.open(one.index, { scroll: false }) },
      make("img", { src: one.thumbnail, alt: "" }))]));
    find("strip").append(...this.thumbs.values());
    this.listen();
    this.open(data.pictures[0].index, { scroll: false });
  }

  has(index) { return this.pictures.has(index); }
  picture(index) { return this.pictures.get(index); }
  label(side) { return side === "hr" ? "Original" : side === "lr" ? "Input, enlarged" : this.data.methods[Number(side.slice(1))].name; }

  /** Shows a picture; a side that is not named stays, where the picture has it. */
  open(index, { left = null, right = null, scroll = true } = {}) {
    const picture = this.pictures.get(index);
    const sides = Object.keys(picture.sources);
    const methods = sides.filter((side) => side.startsWith("m"));
    const isNew = this.current !== picture;
    this.current = picture;
    if (left) this.left = left;
    if (right) this.right = right;
    if (!sides.includes(this.left)) this.left = methods[0];
    if (!sides.includes(this.right)) this.right = methods[1] ?? (sides.includes("hr") ? "hr" : sides.includes("lr") ? "lr" : methods[0]);
    if (this.left === this.right) this.left = sides.find((side) => side !== this.right) ?? this.left;
    for (const [name, side] of [["left", this.left], ["right", this.right]]) {
      find(name).replaceChildren(...sides.map((one) => make("option", { value: one, selected: one === side }, this.label(one))));
    }
    find("picture").value = index;
    for (const [at, thumb] of this.thumbs) thumb.setAttribute("aria-pressed", at === index);
    const thumb = this.thumbs.get(index);
    find("strip").scrollLeft = thumb.offsetLeft - find("strip").offsetLeft - find("strip").clientWidth / 2 + 38;
    if (scroll) find("stage").scrollIntoView({ block: "center" });
    return this.refresh({ keep: !isNew });
  }

  async refresh({ keep = true } = {}) {
    const turn = (this.turn += 1);
    find("stage").setAttribute("aria-busy", "true");
    const { sources, width, height } = this.current;
    const [one, two] = await Promise.all([decode(sources[this.left]), decode(sources[this.right])]);
    if (turn !== this.turn) return; // another was chosen meanwhile
    const whole = [0, 0, 1, 1];
    if (this.layout === "difference") this.panes = [{ source: difference(one, two, width, height), rect: whole }];
    else if (this.layout === "beside") this.panes = [{ source: one, rect: [0, 0, 0.499, 1] }, { source: two, rect: [0.501, 0, 0.499, 1] }];
    else this.panes = [{ source: one, rect: whole, clip: [0, 1] }, { source: two, rect: whole, clip: [0, 1] }];
    const isDifference = this.layout === "difference";
    find("handle").hidden = this.layout !== "slide";
    find("tag-left").textContent = isDifference ? `${this.label(this.left)} − ${this.label(this.right)}, × ${GAIN}` : this.label(this.left);
    find("tag-right").textContent = this.label(this.right);
    find("tag-right").hidden = isDifference;
    for (const layout of LAYOUTS) find(layout).setAttribute("aria-pressed", layout === this.layout);
    find("canvas").setAttribute("aria-label", `${this.data.names[this.current.index]}: ${this.label(this.left)} and ${this.label(this.right)}`);
    this.stage.show({ width, height, panes: this.panes, keep });
    this.tell();
    find("stage").setAttribute("aria-busy", "false");
  }

  tell() {
    const { data, current } = this;
    const score = (side) => {
      if (!side.startsWith("m")) return null;
      const m = Number(side.slice(1));
      const parts = data.metrics.map((metric, k) => [metric, data.methods[m].scores[k][current.index]]).filter(([, value]) => value !== null)
        .map(([metric, value]) => {
          const [title, unit] = metric.title.split(", "); // "PSNR (Y), dB"
          return `${title} ${value.toFixed(digitsOf([value]))}${unit ? ` ${unit}` : ""}`;
        });
      return `${data.methods[m].name}: ${parts.join(" · ") || "no scores"}`;
    };
    const explained = this.layout === "difference"
      ? `Left less right, ${GAIN} times, around middle gray: gray is equal, brighter is where the left side is brighter; in colour where hues differ.` : null;
    find("scores").replaceChildren(...[data.names[current.index], ...new Set([score(this.left), score(this.right)]), current.note, explained]
      .filter(Boolean).flatMap((text, at) => (at ? [make("br"), text] : [make("strong", {}, text)])));
  }

  clip() {
    const border = this.border.place(`${Math.round(this.border.position)} % left side`);
    if (this.layout === "slide") [this.panes[0].clip, this.panes[1].clip] = [[0, border], [border, 1]];
  }

  onPaint() {
    const scale = this.stage.scale() * devicePixelRatio;
    find("tag-zoom").textContent = `${scale >= 0.995 ? scale.toFixed(scale < 10 ? 1 : 0) : scale.toFixed(2)} ×`;
  }

  step(by) {
    const order = [...this.pictures.keys()];
    this.open(order[(order.indexOf(this.current.index) + by + order.length) % order.length], { scroll: false });
  }

  swap() { [this.left, this.right] = [this.right, this.left]; this.open(this.current.index, { scroll: false }); }

  listen() {
    const on = (id, action) => find(id).addEventListener(find(id).tagName === "SELECT" ? "change" : "click", action);
    const setLayout = (layout) => { this.layout = layout; this.refresh(); };
    const toggle = (layout, other) => setLayout(this.layout === layout ? other : layout);
    on("picture", (event) => this.open(Number(event.target.value), { scroll: false }));
    on("left", (event) => { this.left = event.target.value; this.refresh(); });
    on("right", (event) => { this.right = event.target.value; this.refresh(); });
    on("swap", () => this.swap());
    for (const layout of LAYOUTS) on(layout, () => setLayout(layout));
    on("in", () => this.stage.zoomBy(1.25));
    on("out", () => this.stage.zoomBy(0.8));
    on("fit", () => this.stage.fit());
    on("actual", () => this.stage.actual());
    find("viewer").addEventListener("keydown", (event) => {
      if (/^(SELECT|INPUT)$/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
      const action = { n: () => this.step(1), p: () => this.step(-1), s: () => toggle("slide", "beside"), d: () => toggle("difference", "slide"), x: () => this.swap() }[event.key.toLowerCase()];
      if (action) action();
      else if (!this.stage.onKey(event)) return;
      event.preventDefault();
    });
  }
}

/** One picture less the other, GAIN times, around middle gray, as a canvas of the scene's size. */
function difference(one, two, width, height) {
  const pixels = [one, two].map((image) => {
    const context = make("canvas", { width, height }).getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.drawImage(image, 0, 0, width, height);
    return context.getImageData(0, 0, width, height);
  });
  const [left, right] = pixels.map(({ data }) => data);
  for (let at = 0; at < left.length; at += 1) {
    if (at % 4 < 3) left[at] = 128 + GAIN * (left[at] - right[at]); // a Uint8ClampedArray
  }
  const canvas = make("canvas", { width, height });
  canvas.getContext("2d").putImageData(pixels[0], 0, 0);
  return canvas;
}
