// The picture that is selected: its texts, what is going on with it, and its result.
import { find, make } from "./base.js";
import { copy, downloadPng, downloadRecord, downloadResult } from "./downloads.js";
import { announce, attempt, toast } from "./notices.js";
import { bytesText, clockText, durationText, isNumber, percentText, sizeText } from "./words.js";

const ASPECTS = ["content", "quality"];

export class Detail {
  constructor({ visit, viewer, strip, controls }) {
    Object.assign(this, { visit, viewer, strip, controls, picture: null, closed: new WeakSet(), told: new WeakSet() });
    this.listen();
    visit.addEventListener("select", ({ detail }) => this.show(detail));
    visit.addEventListener("picture", ({ detail }) => { if (detail === this.picture) this.update(); });
    visit.addEventListener("settings", () => this.update());
    setInterval(() => this.tick(), 1000);
  }

  show(picture) {
    this.picture = picture;
    this.controls.clear();
    this.controls.show();
    this.update();
  }

  update() {
    const { picture } = this;
    this.viewer.show(picture);
    if (!picture) return;
    find("picture-name").textContent = picture.name;
    find("picture-facts").textContent = [
      picture.width ? sizeText(picture.width, picture.height) : "", picture.format ?? "", bytesText(picture.bytes),
    ].filter(Boolean).join(" · ");
    this.controls.tellSize();
    this.strip.show(picture);
    this.updateTexts();
    this.updateWork();
    this.updateResult();
  }

  get task() {
    const { chosen, active, results } = this.picture;
    return chosen ?? active[0] ?? results.at(-1) ?? null;
  }

  updateTexts() {
    const { picture } = this;
    const { describing } = picture;
    const isLooking = Boolean(describing && !describing.isOver && !picture.seen);
    for (const aspect of ASPECTS) {
      const field = find(aspect);
      const text = picture.text(aspect);
      if (field.value !== text && (document.activeElement !== field || this.last !== picture || picture.edits[aspect] === null)) field.value = text;
      field.placeholder = isLooking ? "Looking at the picture …" : "Nothing is said";
      field.classList.toggle("looking", isLooking && picture.edits[aspect] === null);
    }
    this.last = picture;
    const state = picture.hasEdits ? "Your words: the model follows them."
      : isLooking ? `${describing.text} …`
        : picture.seen ? (picture.seenBy === "none" ? "Nobody looked; write what you like." : "As the model saw it; change what is wrong.")
          : "";
    if (find("texts-state").textContent !== state) find("texts-state").textContent = state;
    find("unedit").hidden = !(picture.hasEdits && picture.seen);
  }

  updateWork() {
    const { picture, visit } = this;
    const { task } = this;
    const isActive = Boolean(task && !task.isOver);
    const values = visit.valuesOf(picture);
    find("working").hidden = !isActive;
    if (task && this.state !== task.state && ["again", "away", "waiting"].includes(task.state)) announce(task.brief);
    this.state = task?.state;
    if (isActive) {
      const { fraction } = task;
      if (find("working-text").textContent !== task.text) find("working-text").textContent = task.text;
      find("working-fill").style.width = `${100 * (fraction ?? 0)}%`;
      find("working-meter").classList.toggle("is-waiting", fraction === null);
      const now = fraction === null ? null : Math.round(100 * fraction);
      if (now === null) find("working-meter").removeAttribute("aria-valuenow");
      else find("working-meter").setAttribute("aria-valuenow", now);
      find("working-meter").setAttribute("aria-valuetext", task.text);
    }
    find("restore").textContent = picture.done.length ? "Restore again" : "Restore";
    find("vary-fidelity").hidden = !visit.settings.applies("fidelity", values);
    find("vary-seed").hidden = !visit.settings.paints(values);
    this.updateTrouble(isActive ? null : task?.state === "failed" ? task : picture.problem ? picture : null);
  }

  updateTrouble(failed) {
    const problem = failed?.problem ?? null;
    const isShown = Boolean(problem && !this.closed.has(problem));
    const isNews = isShown && !this.told.has(problem);
    if (isNews) {
      this.told.add(problem);
      if (problem.field) this.controls.complain(problem.field, problem.sentences.join(" "), { goThere: false });
    }
    // a live region tells what changes in it, so it is written before it is shown, and once
    if (isShown && this.trouble !== problem) {
      find("trouble-title").textContent = problem.heading;
      find("trouble-text").textContent = problem.sentences.join(" ");
    }
    this.trouble = isShown ? problem : null;
    find("trouble").hidden = !isShown;
    find("again").hidden = Boolean(problem?.isOfPicture);
  }

  updateResult() {
    const { picture, visit } = this;
    const result = picture.chosen?.state === "done" ? picture.chosen : null;
    const isThere = Boolean(result && (!result.isExpired || result.has("result")));
    find("download").disabled = find("download-png").disabled = !isThere;
    find("download").classList.toggle("main", isThere);
    find("restore").classList.toggle("main", !isThere);
    find("download-png").hidden = Boolean(result && result.output.format === "PNG");
    find("download-record").disabled = !result || (result.isExpired && !result.has("record"));
    find("copy-command").disabled = !result?.job.command;
    find("remove-result").disabled = !picture.chosen?.isOver;
    find("about").classList.toggle("is-empty", !result);
    if (!result) {
      find("about").open = false;
      return;
    }
    const { output } = result;
    const { seconds } = output;
    find("about-summary").textContent = ["About the result", sizeText(output.width, output.height), output.format, bytesText(output.bytes),
      isNumber(output.invented) ? `${percentText(output.invented)} invented` : "", isNumber(seconds) ? durationText(seconds) : ""].filter(Boolean).join(" · ");
    const { job } = result;
    const expires = result.isExpired ? "The server has removed it; what this page has fetched is still here."
      : result.expires ? `At ${clockText(result.expires)} the server removes it.` : "";
    const rows = [
      ["Settings", visit.label(result)],
      ["File", output.name],
      ["Content", job.prior?.content || "nothing was said"],
      ["Quality", job.prior?.quality || "nothing was said"],
      ["Invented", isNumber(output.invented) ? `${percentText(output.invented)} of it differs visibly from a plain enlargement: sharper edges and texture.` : ""],
      ["Agrees", isNumber(output.lr_psnr) ? `Reduced again it is your picture to ${output.lr_psnr.toFixed(1)} dB; 25 to 36 is usual, and more is closer.` : ""],
      ["SHA-256", output.sha256 ?? ""],
      ["Kept", expires],
    ].filter(([, text]) => text);
    const said = JSON.stringify(rows);
    if (this.said !== said) find("facts").replaceChildren(...rows.flatMap(([name, text]) => [make("dt", {}, name), make("dd", { dir: "auto" }, text)]));
    this.said = said;
    find("notices").replaceChildren(...(output.notices ?? []).map((text) => make("li", {}, String(text))));
    find("command").textContent = job.command ?? "";
  }

  /** Countdowns, estimates and expiry go on although nothing comes from the server. */
  tick() {
    const { picture } = this;
    if (!picture || document.hidden) return;
    if (picture.active.length) {
      this.updateWork();
      this.visit.touch(picture);
    } else if (picture.chosen?.state === "done") this.updateResult();
  }

  restore() {
    const { picture, visit, controls } = this;
    if (!picture || !controls.isFine(picture)) return;
    if (!picture.isUsable) {
      this.closed.delete(picture.problem);
      this.update();
      return;
    }
    const { isNew, result } = visit.restore(picture);
    if (!isNew && result.isOver) toast("This is made already; change something to get another one");
    this.update();
  }

  vary(kind) {
    if (!this.picture || !this.controls.isFine(this.picture)) return;
    const news = this.visit.vary(this.picture, kind).filter(({ isNew }) => isNew);
    if (!news.length) toast("These are made already");
    this.update();
  }

  /** Tries again what went wrong last. */
  again() {
    const { picture, visit, task } = this;
    if (task?.state === "failed") {
      const says = Object.fromEntries(task.says.map((name) => [name, task.values[name]]));
      visit.restore(picture, says);
    } else {
      picture.problem = null;
      visit.describe(picture);
    }
    this.update();
    find(find("working").hidden ? "canvas" : "cancel").focus(); // the button is gone
  }

  download() {
    const result = this.picture?.chosen;
    if (result?.state === "done") attempt(() => downloadResult(result));
  }

  listen() {
    const on = (id, action) => find(id).addEventListener("click", action);
    const chosen = (action) => () => attempt(() => action(this.picture.chosen));
    for (const aspect of ASPECTS) find(aspect).addEventListener("input", (event) => this.visit.edit(this.picture, aspect, event.target.value));
    on("unedit", () => { this.visit.unedit(this.picture); this.update(); find("content").focus(); announce("The texts are as the model saw it again"); });
    on("restore", () => this.restore());
    on("vary-fidelity", () => this.vary("fidelity"));
    on("vary-seed", () => this.vary("seed"));
    on("cancel", () => { if (this.task) this.visit.stop(this.task); this.update(); find("restore").focus(); });
    on("again", () => this.again());
    on("close-trouble", () => { if (this.trouble) this.closed.add(this.trouble); this.update(); find("canvas").focus(); });
    on("download", () => this.download());
    on("download-png", chosen((result) => downloadPng(this.visit, result)));
    on("download-record", chosen((result) => downloadRecord(result)));
    on("remove-result", () => { this.visit.removeResult(this.picture, this.picture.chosen); this.update(); find("restore").focus(); });
    on("copy-command", chosen(async (result) => { await copy(result.job.command); toast("The command line is copied"); }));
  }
}
