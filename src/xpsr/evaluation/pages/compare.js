// Pairs of results to vote on. Depends on base.js. Methods and pictures are tokens here: nothing in the page knows more.
const QUESTIONS = { ref: "Which is closer to the original?", none: "Which looks better?" };

/** Numbers in [0, 1) that a text decides (mulberry32 over an FNV-1a hash). */
function randomsOf(text) {
  let state = 2166136261;
  for (const letter of text) state = Math.imul(state ^ letter.codePointAt(0), 16777619);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** All pairs in this voter's own order, with this voter's own sides: what tires or habit do to one place, evens out. */
function orderOf(data, voter) {
  const random = randomsOf(`${data.key} ${voter}`);
  const pairs = data.pictures.flatMap((picture) => {
    const tokens = Object.keys(picture.results).sort();
    return tokens.flatMap((one, at) => tokens.slice(at + 1).map((other) => ({ picture, left: one, right: other })));
  });
  for (let at = pairs.length - 1; at > 0; at -= 1) {
    const other = Math.floor(random() * (at + 1));
    [pairs[at], pairs[other]] = [pairs[other], pairs[at]];
  }
  return pairs.map((pair) => (random() < 0.5 ? pair : { ...pair, left: pair.right, right: pair.left }));
}

class Ballot {
  constructor(data, { isNew = false } = {}) {
    this.data = data;
    this.place = `xpsr-votes-${data.key}`;
    const kept = isNew ? null : this.read();
    this.voter = kept?.voter ?? Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    this.pairs = orderOf(data, this.voter);
    this.votes = kept?.votes ?? [];
    this.keep();
  }

  read() {
    try {
      const kept = JSON.parse(store.get(this.place));
      return kept && typeof kept.voter === "string" && Array.isArray(kept.votes) ? kept : null;
    } catch { return null; }
  }

  get text() { return JSON.stringify({ voter: this.voter, votes: this.votes }); }
  /** Whether another window has voted meanwhile. */
  get isOld() { return store.kept && store.get(this.place) !== this.text; }
  keep() { store.set(this.place, this.text); }
  get current() { return this.pairs[this.votes.length] ?? null; }

  vote(choice, seconds) {
    const { picture, left, right } = this.current;
    this.votes.push({ picture: picture.token, left, right, choice, seconds: Math.round(seconds * 100) / 100 });
    this.keep();
  }

  undo() { this.votes.pop(); this.keep(); }

  file() {
    return { kind: "xpsr votes", version: 1, key: this.data.key, voter: this.voter, pairs: this.pairs.length, votes: this.votes };
  }
}

class Booth {
  constructor(data) {
    this.data = data;
    this.ballot = new Ballot(data);
    this.stage = new Stage(find("canvas"), { pansByArrows: false });
    this.stage.listeners.push(() => this.onPaint());
    Object.assign(this, { view: "both", hasContext: true, turn: 0, isReady: false });
    const sides = [data.hasInput ? "Input" : null, data.hasOriginal ? "Original" : null].filter(Boolean);
    find("context").hidden = !sides.length;
    find("context-name").textContent = sides.join(" and ").replace("and Original", "and original");
    find("question").textContent = data.hasOriginal ? QUESTIONS.ref : QUESTIONS.none;
    this.listen();
    this.next();
  }

  next() {
    const { ballot } = this;
    const [seen, all] = [ballot.votes.length, ballot.pairs.length];
    find("progress").textContent = ballot.current ? `Pair ${seen + 1} of ${all}` : `${all} of ${all} seen`;
    find("meter-fill").style.width = `${(100 * seen) / all}%`;
    find("meter").setAttribute("aria-valuemax", all);
    find("meter").setAttribute("aria-valuenow", seen);
    find("undo").disabled = !seen;
    find("export").disabled = !seen;
    find("export").className = ballot.current ? "" : "main";
    find("kept").textContent = store.kept
      ? "Votes stay in this browser, also when the page is closed. Nothing is sent anywhere."
      : "This browser keeps nothing for this page: save the votes before you close it. Nothing is sent anywhere.";
    find("voting").hidden = !ballot.current;
    find("done").hidden = Boolean(ballot.current);
    this.view = "both";
    if (ballot.current) this.refresh({ keep: false });
    else find("export").focus();
  }

  async refresh({ keep = true } = {}) {
    const turn = (this.turn += 1);
    find("stage").setAttribute("aria-busy", "true");
    if (!keep) this.isReady = false;
    const { picture, left, right } = this.ballot.current;
    const besides = this.hasContext ? [["Input", picture.lr], ["Original", picture.hr]].filter(([, address]) => address) : [];
    const addresses = [picture.results[left], picture.results[right], ...besides.map(([, address]) => address)];
    const [one, two, ...others] = await Promise.all(addresses.map(decode));
    if (turn !== this.turn) return;
    const shown = { both: [["Left", one], ["Right", two]], left: [["Left", one]], right: [["Right", two]] }[this.view];
    const isTall = innerWidth < innerHeight;
    const share = !others.length ? 1 : isTall ? 0.62 : 0.72; // the rest is for what is shown beside them
    const place = (rows, from, part) => rows.map(([label, source], at) => ({
      label, source, rect: isTall ? [at / rows.length, from, 1 / rows.length, part] : [from + (at * part) / rows.length, 0, part / rows.length, 1],
    }));
    const stacked = others.map((source, at) => ({
      label: besides[at][0], source,
      rect: isTall ? [at / others.length, share, 1 / others.length, 1 - share] : [share, at / others.length, 1 - share, 1 / others.length],
    }));
    const [gapX, gapY] = [3 / find("canvas").clientWidth, 3 / find("canvas").clientHeight];
    const inset = ({ rect: [x, y, w, h], ...pane }) => ({ ...pane, rect: [x + gapX, y + gapY, w - 2 * gapX, h - 2 * gapY] });
    this.panes = [...place(shown, 0, share), ...stacked].map(inset);
    this.stage.show({ width: picture.width, height: picture.height, panes: this.panes, keep });
    find("tags").replaceChildren(...this.panes.map(({ label, rect }) => {
      const tag = make("span", { class: "tag" }, label);
      tag.style.left = `${100 * (rect[0] + rect[2] / 2)}%`;
      tag.style.top = `calc(${100 * rect[1]}% + 0.6rem)`;
      return tag;
    }));
    find("canvas").setAttribute("aria-label", this.panes.map(({ label }) => label).join(", "));
    find("beside").setAttribute("aria-pressed", this.view === "both");
    find("context").setAttribute("aria-pressed", this.hasContext);
    find("note").textContent = picture.note ?? "";
    // however often it was drawn anew meanwhile, time runs from when the pair was first seen
    if (!this.isReady) [this.since, this.isReady] = [performance.now(), true];
    find("stage").setAttribute("aria-busy", "false");
  }

  onPaint() {
    const scale = this.stage.scale() * devicePixelRatio;
    find("tag-zoom").textContent = `${scale.toFixed(scale < 0.995 ? 2 : 1)} ×`;
  }

  /** Goes on from what is kept, which another window may have written, or begins anew. */
  reopen(options) {
    this.ballot = new Ballot(this.data, options);
    this.next();
  }

  vote(choice) {
    if (this.ballot.isOld) return void this.reopen();
    if (!this.isReady) return; // nobody has seen the pair yet
    this.ballot.vote(choice, (performance.now() - this.since) / 1000);
    this.next();
  }

  undo() {
    if (this.ballot.isOld) return void this.reopen();
    if (!this.ballot.votes.length) return;
    this.ballot.undo();
    this.next();
  }

  flip() { this.view = this.view === "left" ? "right" : "left"; this.refresh(); }
  beside() { this.view = "both"; this.refresh(); }
  toggleContext() { this.hasContext = !this.hasContext; this.refresh(); }

  save() {
    const address = URL.createObjectURL(new Blob([`${JSON.stringify(this.ballot.file(), null, 1)}\n`], { type: "application/json" }));
    const link = make("a", { href: address, download: `votes-${this.ballot.voter.slice(0, 6)}.json` });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
  }

  listen() {
    const on = (id, action) => find(id).addEventListener("click", action);
    for (const choice of ["left", "tie", "right"]) on(`vote-${choice}`, () => this.vote(choice));
    on("flip", () => this.flip());
    on("beside", () => this.beside());
    on("context", () => this.toggleContext());
    on("undo", () => this.undo());
    on("undo-last", () => this.undo());
    on("another", () => { this.save(); this.reopen({ isNew: true }); });
    // after a click with the mouse, Space flips and does not press the button again
    document.addEventListener("click", (event) => event.detail > 0 && event.target.closest?.("button")?.blur());
    on("export", () => this.save());
    on("in", () => this.stage.zoomBy(1.25));
    on("out", () => this.stage.zoomBy(0.8));
    on("fit", () => this.stage.fit());
    on("actual", () => this.stage.actual());
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
      const undo = () => this.undo();
      if (["u", "U", "Backspace"].includes(event.key)) undo();
      else if (!this.ballot.current) return;
      else if (event.key === " " && event.target.tagName !== "CANVAS" && event.target !== document.body) return; // presses a button
      else {
        const action = {
          ArrowLeft: () => this.vote("left"), ArrowRight: () => this.vote("right"), ArrowUp: () => this.vote("tie"),
          ArrowDown: () => this.flip(), " ": () => this.flip(), b: () => this.beside(), c: () => data.hasInput || data.hasOriginal ? this.toggleContext() : null,
        }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
        if (action && !event.shiftKey) action();
        else if (!this.stage.onKey(event)) return;
      }
      event.preventDefault();
    });
    addEventListener("storage", () => this.ballot.isOld && this.reopen());
    addEventListener("resize", () => this.ballot.current && this.refresh());
  }
}

const data = readData();
setUpTheme(find("theme"));
new Booth(data);
