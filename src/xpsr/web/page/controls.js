// The settings as controls. Which there are, and within which limits, the server says.
import { find, make } from "./base.js";
import { announce } from "./notices.js";
import { megapixelsText, short, sizeText } from "./words.js";

const FORMATS = { same: "as the picture", png: "PNG", jpg: "JPEG", tiff: "TIFF", webp: "WebP", avif: "AVIF", jxl: "JPEG XL" };

/** Controls of the server's fields that have other names here. */
const CONTROL_OF = { strip_gps: "metadata", strip_metadata: "metadata", size: "way", shortest: "way", megapixels: "way", guidance_interval: "guidance_scale" };

export class Controls {
  constructor(visit) {
    this.visit = visit;
    this.settings = visit.settings;
    this.fields = new Map(); // by name: {box, set, input}
    find("controls").append(...this.build());
    if (matchMedia("(max-width: 68rem)").matches) find("settings-fold").open = false;
    this.show();
  }

  get picture() { return this.visit.selected; }

  get values() { return this.visit.valuesOf(this.picture); }

  build() {
    const { told } = this.settings;
    const each = (list) => list.map((one) => [one, one]);
    this.all = make("button", { type: "button", onclick: () => this.own(false) }, "All pictures");
    this.one = make("button", { type: "button", onclick: () => this.own(true) }, "Only this one");
    this.size = make("p", { class: "small soft", id: "size-told" });
    const sizes = this.radios("way", "How large", [["auto", "Auto"], ["2", "2 ×"], ["4", "4 ×"], ["scale", "Other"], ["longest", "Pixels"]]);
    sizes.append(
      this.number("scale", "Times as large, along a side", { step: "any" }),
      this.number("longest", "Pixels of the longer side", { step: 1 }),
      this.size,
    );
    const fidelity = this.range("fidelity", "Fidelity", "paints what looks best", "stays nearest to the picture");
    const more = make("details", { class: "more", id: "more" }, make("summary", {}, "More"), make("div", { class: "rows" },
      this.choice("describer", "Who describes the picture", each(told.describers), "none: the texts stay empty, or are yours"),
      this.number("num_inference_steps", "Steps", { step: 1, hint: "more take longer" }),
      this.number("guidance_scale", "Guidance", { step: "any", hint: "how strongly the texts are followed" }),
      this.number("grain", "Grain", { step: "any", hint: "fine noise where there is detail, 0 to 1", placeholder: "the model's" }),
      this.number("seed", "Seed", { step: 1, hint: "empty: another one each time", placeholder: "any" }),
      this.choice("format", "File format", told.formats.map((one) => [one, FORMATS[one] ?? one])),
      this.number("file_quality", "Quality of the file", { step: 1, hint: "of lossy formats, 1 to 100", placeholder: "the format's usual" }),
      this.radios("metadata", "Metadata", [["keep", "Keep"], ["place", "No place"], ["none", "None"]], "camera, date, place, captions"),
      this.check("protect", "Protect", "takes the plain enlargement back where the result contradicts the picture"),
      this.check("map", "Map of what was invented", "shown over the result"),
    ));
    return [
      make("div", { class: "scope", role: "group", "aria-label": "Settings of" }, make("span", { class: "group" }, this.all, this.one)),
      sizes, fidelity,
      this.choice("model", "Model", each(told.models.map(({ name }) => name))),
      more,
    ];
  }

  // kinds of controls

  register(name, box, input, set) {
    this.fields.set(name, { box, input, set });
    return box;
  }

  fault(name) { return make("p", { class: "fault", id: `fault-${name}`, hidden: true }); }

  hint(name, text) { return text ? make("p", { class: "small soft", id: `hint-${name}` }, text) : null; }

  number(name, label, { step, hint = "", placeholder = "" }) {
    const { minimum = null, maximum = null, help = null } = this.settings.option(name);
    const input = make("input", {
      id: `set-${name}`, type: "number", inputmode: step === 1 ? "numeric" : "decimal", step, placeholder, title: help, autocomplete: "off",
      min: minimum, max: maximum > 1e9 ? null : maximum, "aria-describedby": `${hint ? `hint-${name} ` : ""}fault-${name}`,
      oninput: () => this.change(name, input.validity.badInput ? "?" : input.value),
    });
    const box = make("div", { class: "row" }, make("label", { for: input.id }, label), input, this.hint(name, hint), this.fault(name));
    return this.register(name, box, input, (value) => { if (input.value !== value && !input.validity.badInput) input.value = value; });
  }

  range(name, label, low, high) {
    const { minimum = 0, maximum = 1, help = null } = this.settings.option(name);
    const told = make("output", { for: `set-${name}` });
    const tell = (value) => {
      told.textContent = short(Number(value));
      input.setAttribute("aria-valuetext", `${short(Number(value))}; 0 ${low}, 1 ${high}`);
    };
    const input = make("input", {
      id: `set-${name}`, type: "range", min: minimum, max: maximum, step: 0.05, title: help, "aria-describedby": `fault-${name}`,
      oninput: () => { tell(input.value); this.change(name, input.value); },
    });
    const box = make("div", { class: "row" },
      make("div", { class: "between" }, make("label", { for: input.id }, label), told), input,
      make("div", { class: "between small soft", "aria-hidden": "true" }, make("span", {}, low), make("span", {}, high)), this.fault(name));
    return this.register(name, box, input, (value) => { input.value = value; tell(value); });
  }

  choice(name, label, options, hint = "") {
    const input = make("select", { id: `set-${name}`, title: this.settings.option(name).help, "aria-describedby": `${hint ? `hint-${name} ` : ""}fault-${name}`, onchange: () => this.change(name, input.value) },
      ...options.map(([value, text]) => make("option", { value }, text)));
    const box = make("div", { class: "row" }, make("label", { for: input.id }, label), input, this.hint(name, hint), this.fault(name));
    return this.register(name, box, input, (value) => { input.value = value; });
  }

  radios(name, legend, options, hint = "") {
    const inputs = options.map(([value]) => make("input", { type: "radio", name: `set-${name}`, value, id: `set-${name}-${value}`, onchange: () => this.change(name, value) }));
    const segments = make("div", { class: "segments" }, ...options.map(([, text], at) => make("span", {}, inputs[at], make("label", { for: inputs[at].id }, text))));
    const box = make("fieldset", { class: "row" }, make("legend", {}, legend), segments, this.hint(name, hint), this.fault(name));
    return this.register(name, box, inputs[0], (value) => { for (const input of inputs) input.checked = input.value === value; });
  }

  check(name, label, hint) {
    const input = make("input", { id: `set-${name}`, type: "checkbox", title: this.settings.option(name).help, "aria-describedby": `hint-${name} fault-${name}`, onchange: () => this.change(name, input.checked) });
    const box = make("div", { class: "row" }, make("label", { class: "check" }, input, label), this.hint(name, hint), this.fault(name));
    return this.register(name, box, input, (value) => { input.checked = value; });
  }

  // what they do

  change(name, value) {
    this.values[name] = value;
    this.clear(name);
    if (name === "describer" && this.picture) this.visit.refreshTexts(this.picture);
    this.show();
    this.visit.tell("settings");
  }

  own(isOwn) {
    if (!this.picture || isOwn === Boolean(this.picture.own)) return;
    this.picture.own = isOwn ? { ...this.visit.values } : null;
    announce(isOwn ? "This picture has settings of its own now" : "This picture follows the settings of all");
    this.visit.refreshTexts(this.picture);
    this.show();
    this.visit.tell("settings");
    this.visit.touch(this.picture);
  }

  /** Shows the settings of the selected picture, or those of all. */
  show() {
    const { values, picture } = this;
    for (const [name, { box, set }] of this.fields) {
      set(values[name]);
      box.hidden = !this.settings.applies(name, values);
    }
    this.all.setAttribute("aria-pressed", !picture?.own);
    this.one.setAttribute("aria-pressed", Boolean(picture?.own));
    this.tellSize();
  }

  tellSize() {
    const { picture, values, settings } = this;
    const target = picture?.width ? settings.target(values, picture.width, picture.height) : null;
    const isTooLarge = target && target.width * target.height > settings.told.limits.max_output_pixels;
    this.size.classList.toggle("fault", Boolean(isTooLarge));
    if (!target) {
      this.size.textContent = values.way === "auto" ? "4 ×, and less for very large pictures" : " ";
    } else if (isTooLarge) {
      const most = settings.largest(picture.width, picture.height);
      this.size.textContent = `${sizeText(target.width, target.height)} is more than ${megapixelsText(settings.told.limits.max_output_pixels)}, the server's limit; this picture may become ${short(most)} × as large`;
    } else {
      this.size.textContent = `${sizeText(picture.width, picture.height)} becomes ${sizeText(target.width, target.height)}`;
    }
  }

  // what is wrong

  /** Shows a text at a control and goes there; returns whether there is one. */
  complain(name, text, { goThere = true } = {}) {
    const control = CONTROL_OF[name] ?? name;
    const field = this.fields.get(control);
    if (!field || field.box.hidden) return false;
    const place = find(`fault-${control}`);
    place.textContent = text;
    place.hidden = false;
    field.input.setAttribute("aria-invalid", "true");
    find("settings-fold").open = true;
    if (find("more").contains(field.box)) find("more").open = true;
    if (goThere) field.input.focus();
    return true;
  }

  clear(name = null) {
    for (const [one, { input }] of this.fields) {
      if (name && one !== name) continue;
      find(`fault-${one}`).hidden = true;
      input.removeAttribute("aria-invalid");
    }
  }

  /** Whether what is said of a picture can be done; tells what cannot, at its control. */
  isFine(picture) {
    const fault = this.settings.fault(this.visit.valuesOf(picture));
    if (!fault) return true;
    if (picture) this.visit.select(picture);
    this.complain(fault.name, fault.text);
    announce(fault.text);
    return false;
  }
}
