// The list of a visit: a card for each picture, the buttons for all of them, and how far they are.
import { find, make } from "./base.js";
import { count, sizeText } from "./words.js";

/** What is going on with a picture, in a few words, and of which kind that is. */
function statusOf(picture) {
  const { active, done, results, describing } = picture;
  if (active.length) {
    const leading = active.find((task) => task.state === "running") ?? active[0];
    const fractions = active.map((task) => (task.state === "running" ? task.fraction ?? 0 : 0));
    const fraction = leading.state === "sending" && active.length === 1 ? leading.fraction : fractions.reduce((sum, one) => sum + one, 0) / active.length;
    const others = active.length > 1 ? ` · ${count(active.length, "result")}` : "";
    return { text: leading.brief + others, kind: "busy", fraction };
  }
  if (done.length) {
    const { width, height } = (picture.chosen?.output ?? done.at(-1).output);
    return { text: `Done · ${sizeText(width, height)}${done.length > 1 ? ` · ${count(done.length, "result")}` : ""}`, kind: "done" };
  }
  const problem = results.find((task) => task.state === "failed")?.problem ?? picture.problem;
  if (problem) return { text: problem.heading, kind: "fault" };
  if (describing && !describing.isOver) return { text: describing.text, kind: "idle" };
  return { text: picture.width ? `Ready · ${sizeText(picture.width, picture.height)}` : "Ready", kind: "idle" };
}

class Card {
  constructor(picture, cards) {
    this.picture = picture;
    this.thumb = make("span", { class: "thumb", "aria-hidden": "true" });
    this.state = make("span", { class: "what small soft" });
    this.fill = make("span", { class: "fill" });
    this.own = make("span", { class: "own small", hidden: true }, "own settings");
    this.pick = make("button", { type: "button", class: "pick", tabindex: -1, onclick: () => cards.visit.select(picture) },
      this.thumb, make("span", { class: "told" }, make("span", { class: "name", dir: "auto", title: picture.path }, picture.name), this.state, this.own),
      make("span", { class: "track", "aria-hidden": "true" }, this.fill));
    this.remove = make("button", { type: "button", class: "plain away", tabindex: -1, onclick: () => cards.onRemove(picture) }, "✕");
    this.element = make("li", { class: "card" }, this.pick, this.remove);
    this.update();
  }

  update() {
    const { picture } = this;
    const { text, kind, fraction } = statusOf(picture);
    if (this.state.textContent !== text) this.state.textContent = text;
    this.element.dataset.kind = kind;
    this.fill.style.width = `${100 * (kind === "busy" ? fraction ?? 0 : 0)}%`;
    this.own.hidden = !picture.own;
    this.remove.setAttribute("aria-label", `Remove ${picture.name}`);
    const drawn = (picture.chosen?.state === "done" && picture.chosen.thumb) || picture.thumb;
    if (drawn && this.drawn !== drawn) {
      const copy = make("canvas", { width: drawn.width, height: drawn.height }); // the strip shows the other one
      copy.getContext("2d").drawImage(drawn, 0, 0);
      this.thumb.replaceChildren(copy);
      this.drawn = drawn;
    }
  }
}

export class Cards {
  /** `onRemove` is told of a picture that somebody wants to remove. */
  constructor(visit, onRemove) {
    Object.assign(this, { visit, onRemove, cards: new Map(), list: find("cards") });
    this.observer = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) if (isIntersecting) visit.drawOwnThumb(target.picture);
    }, { root: null, rootMargin: "200px" });
    visit.addEventListener("list", () => this.refresh());
    visit.addEventListener("select", ({ detail }) => this.select(detail));
    visit.addEventListener("picture", ({ detail }) => { this.cards.get(detail)?.update(); this.tell(); });
    this.list.addEventListener("keydown", (event) => this.onKey(event));
    this.tell();
  }

  refresh() {
    const { pictures } = this.visit;
    const kept = new Set(pictures);
    for (const [picture, card] of this.cards) {
      if (kept.has(picture)) continue;
      this.observer.unobserve(card.element);
      card.element.remove();
      this.cards.delete(picture);
    }
    const added = pictures.filter((picture) => !this.cards.has(picture)).map((picture) => {
      const card = new Card(picture, this);
      card.element.picture = picture;
      this.cards.set(picture, card);
      this.observer.observe(card.element);
      return card.element;
    });
    this.list.append(...added);
    this.select(this.visit.selected);
    this.tell();
  }

  /** One card alone can be reached by Tab: a list of 200 is no 400 steps long. */
  select(picture) {
    const hadFocus = this.list.contains(document.activeElement);
    for (const [one, { pick, remove, element }] of this.cards) {
      const isIt = one === picture;
      if ((pick.tabIndex === 0) === isIt && element.classList.contains("is-on") === isIt) continue;
      pick.setAttribute("aria-current", isIt);
      pick.tabIndex = remove.tabIndex = isIt ? 0 : -1;
      element.classList.toggle("is-on", isIt);
    }
    const card = this.cards.get(picture);
    card?.element.scrollIntoView({ block: "nearest", inline: "nearest" });
    if (hadFocus) card?.pick.focus();
  }

  onKey(event) {
    const action = {
      ArrowDown: () => this.visit.step(1), ArrowRight: () => this.visit.step(1),
      ArrowUp: () => this.visit.step(-1), ArrowLeft: () => this.visit.step(-1),
      Home: () => this.visit.select(this.visit.pictures[0]), End: () => this.visit.select(this.visit.pictures.at(-1)),
      Delete: () => this.onRemove(this.visit.selected),
    }[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  /** How far all of them are. */
  tell() {
    const { pictures } = this.visit;
    const done = pictures.filter((picture) => picture.done.length && !picture.active.length).length;
    const active = pictures.filter((picture) => picture.active.length);
    const open = pictures.filter((picture) => picture.isUsable && !picture.done.length && !picture.active.length).length;
    const part = pictures.length ? (done + active.reduce((sum, picture) => sum + (statusOf(picture).fraction ?? 0), 0)) / pictures.length : 0;
    find("count").textContent = pictures.length > 1 ? `· ${pictures.length}` : "";
    find("summary").textContent = [`${done} of ${pictures.length} restored`, active.length ? `${active.length} on their way` : ""].filter(Boolean).join(" · ");
    find("meter-fill").style.width = `${100 * part}%`;
    find("meter").setAttribute("aria-valuenow", Math.round(100 * part));
    find("restore-all").textContent = open && open < pictures.length ? `Restore ${open} more` : "Restore all";
    find("restore-all").hidden = active.length > 1;
    find("cancel-all").hidden = active.length < 2;
    find("download-all").disabled = !done;
    find("cards").parentElement.classList.toggle("has-many", pictures.length > 1);
    document.title = active.length ? `${done} of ${pictures.length} · xpsr` : "xpsr";
  }
}
