// What a visit consists of: pictures, what is said of them, and their results. Nothing here draws; whoever does listens
// to "list" (pictures came or went), "picture" (one changed), "select" and "over" (a task ended).
import { Bitmaps, decoded, thumbnail } from "./pixels.js";
import { Problem } from "./problems.js";
import { Queue } from "./queue.js";
import { Result, Task } from "./tasks.js";
import { bytesText, megapixelsText } from "./words.js";

const SLOTS = 4; // of a browser's six connections; downloads take the others
const THUMB = 144;
const ASPECTS = ["content", "quality"];

class Picture {
  constructor({ file, name, path }) {
    Object.assign(this, { file, name, path, bytes: file.size, width: null, height: null, format: null, thumb: null });
    // `seen` is what the describer says, `edits` what somebody says instead; null: nothing is
    Object.assign(this, { seen: null, seenBy: null, edits: { content: null, quality: null }, own: null });
    Object.assign(this, { describing: null, results: [], chosen: null, problem: null });
    Object.assign(this, { isDecodable: null, isDrawing: false, shown: null }); // shown: what the server made of it for a browser
  }

  text(aspect) { return this.edits[aspect] ?? this.seen?.[aspect] ?? ""; }

  get hasEdits() { return ASPECTS.some((aspect) => this.edits[aspect] !== null && this.edits[aspect] !== this.seen?.[aspect]); }

  get active() { return this.results.filter((result) => !result.isOver); }

  /** Whether anything can be made of it; where nobody could describe it, somebody may write the texts. */
  get isUsable() { return !this.problem?.isOfPicture; }

  get done() { return this.results.filter((result) => result.state === "done"); }
}

export class Visit extends EventTarget {
  constructor(server, settings) {
    super();
    Object.assign(this, { server, settings, pictures: [], selected: null, values: settings.defaults(), bitmaps: new Bitmaps() });
    this.queue = new Queue(Math.min(SLOTS, settings.told.limits.max_per_client), { describe: 2 });
    this.changed = new Set();
    this.isLeft = false;
    addEventListener("pagehide", () => this.leave());
    addEventListener("pageshow", ({ persisted }) => { if (persisted) this.comeBack(); });
  }

  tell(type, detail = null) { this.dispatchEvent(new CustomEvent(type, { detail })); }

  /** Tells of a change, together with others: a hundred pictures on their way change a thousand times a second. */
  touch(picture) {
    if (!this.changed.size) {
      setTimeout(() => {
        const all = [...this.changed];
        this.changed.clear();
        for (const one of all) this.tell("picture", one);
      }, 30);
    }
    this.changed.add(picture);
  }

  valuesOf(picture) { return picture?.own ?? this.values; }

  // pictures

  add(files) {
    const { limits } = this.settings.told;
    const added = files.map((entry) => {
      const { file } = entry;
      const picture = new Picture(entry);
      if (file.size > limits.max_bytes || !file.size) picture.problem = refusalOf(file, limits);
      else this.describe(picture);
      return picture;
    });
    this.pictures.push(...added);
    this.tell("list");
    if (added.length && !this.selected) this.select(added[0]);
  }

  select(picture) {
    if (picture === this.selected) return;
    this.selected = picture;
    if (picture) this.refreshTexts(picture);
    this.tell("select", picture);
  }

  step(by) {
    const { pictures } = this;
    if (!pictures.length) return;
    this.select(pictures[(pictures.indexOf(this.selected) + by + pictures.length) % pictures.length]);
  }

  remove(picture) {
    const at = this.pictures.indexOf(picture);
    this.pictures.splice(at, 1); // first: a picture that stays is looked at when its last task is cancelled
    for (const task of [picture.describing, ...picture.results].filter(Boolean)) this.discard(task);
    this.bitmaps.drop(picture);
    if (picture === this.selected) this.select(this.pictures[Math.min(at, this.pictures.length - 1)] ?? null);
    this.tell("list");
  }

  removeResult(picture, result) {
    this.discard(result);
    picture.results = picture.results.filter((other) => other !== result);
    if (picture.chosen === result) picture.chosen = picture.done.at(-1) ?? null;
    this.touch(picture);
  }

  discard(task) {
    this.queue.drop(task);
    if (task.isOver && task.job) this.server.remove(task.job.id);
    task.cancel();
    this.bitmaps.drop(task);
    this.bitmaps.drop(task.loading);
  }

  /** Ends what is on its way when the page is left; results stay on the server until they expire. */
  leave() {
    this.isLeft = true;
    for (const { describing, results } of this.pictures) {
      for (const task of [describing, ...results]) task?.cancel();
    }
  }

  /** A browser may keep a page that was left and show it again. */
  comeBack() {
    this.isLeft = false;
    for (const picture of this.pictures) if (!picture.seen && !picture.problem) this.describe(picture);
  }

  get isBusy() { return this.pictures.some(({ active }) => active.length); }

  // texts

  describe(picture) {
    const { describer } = this.valuesOf(picture);
    const fields = () => (describer === this.settings.told.default_describer ? {} : { describer });
    picture.describing?.cancel();
    picture.describing = this.start(new Task({ ...this.common(picture), kind: "describe", fields }));
    picture.describing.by = describer;
  }

  /** Looks again, where the texts are another describer's than the one that is chosen. */
  refreshTexts(picture) {
    const { describer } = this.valuesOf(picture);
    const by = picture.describing && !picture.describing.isOver ? picture.describing.by : picture.seenBy;
    if (by !== null && by !== describer && !picture.problem) this.describe(picture);
  }

  edit(picture, aspect, text) {
    picture.edits[aspect] = text === picture.seen?.[aspect] ? null : text;
    this.touch(picture);
  }

  unedit(picture) {
    picture.edits = { content: null, quality: null };
    this.touch(picture);
  }

  // results

  /** Asks for a result, or finds the one that was asked for in the same words. Returns it and whether it is new. */
  restore(picture, changes = {}) {
    const values = { ...this.valuesOf(picture), ...changes };
    const asked = this.settings.fields(values);
    const edits = Object.fromEntries(ASPECTS.filter((aspect) => picture.edits[aspect] !== null).map((aspect) => [aspect, picture.edits[aspect]]));
    const isRandom = this.settings.paints(values) && !values.seed;
    const key = JSON.stringify([asked, edits]);
    const same = picture.results.find((result) => result.key === key && (!result.isOver || (result.state === "done" && !isRandom)));
    if (same) {
      if (!Object.keys(changes).length) this.choose(picture, same);
      return { result: same, isNew: false };
    }
    picture.results = picture.results.filter((result) => result.key !== key || result.state === "done"); // this one takes the place of a failure
    // What has been said is sent: what somebody reads is what is followed, and nobody looks twice.
    const fields = () => ({ ...(picture.seenBy === values.describer ? pick(picture.seen) : {}), ...asked, ...edits });
    const hasEdits = Object.keys(edits).length > 0;
    const result = new Result({ ...this.common(picture), fields, values, key, hasEdits, says: Object.keys(changes) });
    picture.results.push(result);
    if (picture.describing?.state === "queued") this.stop(picture.describing); // the server looks anyway
    const isVariant = Object.keys(changes).length > 0; // of several, the first is shown, until somebody chooses
    if (!isVariant || !picture.chosen || ["failed", "cancelled"].includes(picture.chosen.state)) picture.chosen = result;
    this.start(result);
    return { result, isNew: true };
  }

  restoreAll() {
    const open = this.pictures.filter((picture) => picture.isUsable && !picture.active.length);
    return open.map((picture) => this.restore(picture)).filter(({ isNew }) => isNew).length;
  }

  /** Results that differ in one thing, to choose from. */
  vary(picture, kind) {
    const seeds = crypto.getRandomValues(new Uint32Array(4));
    const changes = kind === "fidelity" ? ["0", "0.5", "1"].map((fidelity) => ({ fidelity }))
      : Array.from(seeds, (seed) => ({ seed: String(seed % 10_000) }));
    return changes.map((change) => this.restore(picture, change));
  }

  choose(picture, result) {
    picture.chosen = result;
    this.touch(picture);
  }

  stop(task) {
    this.queue.drop(task);
    task.cancel();
  }

  label(result) {
    const { picture: { width, height }, output, values, hasEdits, says } = result;
    const target = width ? output ?? this.settings.target(values, width, height) : null;
    return this.settings.label(values, { factor: target ? target.width / width : null, hasEdits, says });
  }

  // tasks

  common(picture) {
    return { server: this.server, picture, onChange: (task) => this.onTask(task), rank: (task) => this.rank(task) };
  }

  rank({ kind, picture }) { return kind === "upscale" ? 0 : picture === this.selected ? 1 : 2; }

  start(task) {
    this.queue.add(task);
    return task;
  }

  onTask(task) {
    const { picture, job } = task;
    if (job?.input) Object.assign(picture, { width: job.input.width, height: job.input.height, format: job.input.format });
    const isCurrent = task.kind === "upscale" || task === picture.describing;
    if (job?.prior && isCurrent) this.see(picture, task);
    if (task.isOver) this.onOver(task);
    this.touch(picture);
  }

  see(picture, task) {
    const by = task.kind === "describe" ? task.by : task.values.describer;
    if (task.hasEdits || (picture.seen && picture.seenBy === by)) return; // its prior holds what somebody wrote
    picture.seen = pick(task.job.prior);
    picture.seenBy = by;
  }

  onOver(task) {
    const { picture } = task;
    if (task.kind === "describe") {
      if (task.state === "failed" && task === picture.describing) picture.problem = task.problem;
      if (task.state === "done" && picture.isDecodable === false) this.drawOwnThumb(picture); // now there is what a browser can show
    } else if (task.state === "cancelled") {
      picture.results = picture.results.filter((result) => result !== task);
      if (picture.chosen === task) picture.chosen = picture.done.at(-1) ?? null;
      const isUnseen = !picture.seen && !picture.problem && picture.describing?.state === "cancelled";
      if (isUnseen && this.pictures.includes(picture) && !this.isLeft) this.describe(picture);
    } else if (task.state === "done") {
      picture.problem = null;
      if (!picture.chosen || ["failed", "cancelled"].includes(picture.chosen.state)) picture.chosen = task;
      this.drawThumb(task);
    }
    this.tell("over", task);
  }

  // pixels

  async drawThumb(result) {
    try {
      result.thumb = (await thumbnail(await result.view, THUMB)).canvas;
    } catch (problem) {
      result.problem = problem;
    }
    this.touch(result.picture);
  }

  /** Draws the picture's own thumbnail, once, when somebody is about to see it. */
  async drawOwnThumb(picture) {
    if (picture.thumb || picture.isDrawing) return;
    picture.isDrawing = true;
    try {
      const { canvas, width, height } = await this.withFile(picture, (file) => thumbnail(file, THUMB));
      Object.assign(picture, { thumb: canvas, width: picture.width ?? width, height: picture.height ?? height });
    } catch { /* it stays gray; what is wrong with it, the server says */ }
    picture.isDrawing = false;
    this.touch(picture);
  }

  /** Does something with a file that the browser shows: the picture's own, or else what the server made of it. */
  async withFile(picture, use) {
    if (picture.isDecodable !== false) {
      try {
        const made = await use(picture.file);
        picture.isDecodable = true;
        return made;
      } catch {
        picture.isDecodable = false;
      }
    }
    const job = [picture.describing, ...picture.results].find((task) => task?.state === "done")?.job;
    if (!picture.shown && !job) throw new Problem({ code: "undecodable", detail: "It is shown when the server has looked at it" });
    picture.shown ??= await this.server.blob(job.links.input);
    return use(picture.shown);
  }

  /** Decoded pixels of a picture, or of a result. */
  bitmapOf(one) {
    return this.bitmaps.get(one, async () => (one instanceof Result ? decoded(await one.view) : this.withFile(one, decoded)));
  }

  mapOf(result) { return this.bitmaps.get(result.loading, async () => decoded(await result.file("map"))); }
}

const pick = ({ content, quality }) => ({ content, quality });

function refusalOf(file, limits) {
  if (!file.size) return new Problem({ code: "damaged", detail: "The file is empty", remedy: "choose another one" });
  const detail = `The file has ${bytesText(file.size)}, and the server takes at most ${bytesText(limits.max_bytes)}`;
  return new Problem({ code: "too_large", detail, remedy: `save it smaller, or with at most ${megapixelsText(limits.max_pixels)}` });
}
