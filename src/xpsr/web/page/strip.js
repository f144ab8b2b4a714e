// The results of a picture, of which one is chosen: it is what the viewer shows and what is downloaded.
import { find, make } from "./base.js";

export class Strip {
  constructor(visit) {
    Object.assign(this, { visit, strip: find("strip"), buttons: new Map() });
    this.strip.addEventListener("keydown", (event) => this.onKey(event));
  }

  show(picture) {
    this.picture = picture;
    const { results } = picture;
    find("strip-empty").hidden = results.length > 0;
    for (const [result, button] of this.buttons) {
      if (results.includes(result)) continue;
      button.element.remove();
      this.buttons.delete(result);
    }
    for (const result of results) {
      if (!this.buttons.has(result)) this.buttons.set(result, this.made(result));
      this.update(result, this.buttons.get(result));
    }
    const order = results.map((result) => this.buttons.get(result).element);
    if (order.some((element, at) => this.strip.children[at] !== element)) this.strip.append(...order);
  }

  made(result) {
    const [thumb, label, state] = [make("span", { class: "thumb", "aria-hidden": "true" }), make("span", { class: "label" }), make("span", { class: "small soft" })];
    const element = make("button", { type: "button", role: "radio", class: "variant", onclick: () => this.visit.choose(result.picture, result) }, thumb, label, state);
    return { element, thumb, label, state };
  }

  update(result, { element, thumb, label, state }) {
    const isChosen = this.picture.chosen === result;
    const text = this.visit.label(result);
    if (label.textContent !== text) label.textContent = text;
    const told = result.state === "done" ? (result.isExpired ? "no longer on the server" : "") : result.brief;
    if (state.textContent !== told) state.textContent = told;
    element.setAttribute("aria-checked", isChosen);
    element.tabIndex = isChosen || (!this.picture.chosen && this.picture.results[0] === result) ? 0 : -1;
    element.dataset.state = result.state;
    if (result.thumb && thumb.firstChild !== result.thumb) thumb.replaceChildren(result.thumb);
  }

  onKey(event) {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    const { results, chosen } = this.picture;
    const next = results[(results.indexOf(chosen) + by + results.length) % results.length];
    this.visit.choose(this.picture, next);
    this.show(this.picture);
    this.buttons.get(next).element.focus();
  }
}
