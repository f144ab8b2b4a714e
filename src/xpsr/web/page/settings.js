// What a picture is to become: values of controls, and the fields of a request that they make. What is not said is what
// the server does by default, so that its own configuration holds.
import { isNumber, short } from "./words.js";

const USUAL_PIXELS = 2 ** 26; // of a result, where nobody says how large it is to be
/** A number as JSON has it, which the server reads; of any length, as seeds are. */
const written = (text) => (/^\d+$/.test(text) ? text.replace(/^0+(?=\d)/, "") : String(Number(text)));

const NUMBERS = ["num_inference_steps", "guidance_scale", "grain", "seed", "file_quality"]; // empty: what is usual
const LOSSY = new Set(["same", "jpg", "webp", "avif", "jxl"]);

export class Settings {
  /** `told` is what /v1/models says. */
  constructor(told) {
    this.told = told;
    this.models = new Map(told.models.map((facts) => [facts.name, facts]));
  }

  option(name) { return this.told.options[name] ?? {}; }

  /** What the server does where a request says nothing of an option; null: it depends on the picture. */
  usual(name, values = null) {
    return this.option(name).default ?? this.facts(values).settings?.[name] ?? null;
  }

  defaults() {
    const fidelity = this.usual("fidelity") ?? 0;
    return {
      way: "auto", scale: "3", longest: "3000", fidelity: String(fidelity), model: this.told.default_model,
      describer: this.told.default_describer, num_inference_steps: "", guidance_scale: "", grain: "", seed: "",
      format: this.option("format").default ?? "same", file_quality: "", metadata: this.metadata,
      protect: false, map: true,
    };
  }

  /** What stays of metadata where a request says nothing. */
  get metadata() { return this.usual("strip_metadata") ? "none" : this.usual("strip_gps") ? "place" : "keep"; }

  facts(values) { return this.models.get(values?.model) ?? this.models.get(this.told.default_model) ?? {}; }

  /** Whether what is painted depends on the seed; grain does where nothing else does. */
  paints(values) {
    return this.usual("strength", values) > 0 || this.steps(values) > 1;
  }

  steps(values) { return Number(values.num_inference_steps || this.usual("num_inference_steps", values)); }

  /** How much grain a result gets: the more fidelity is asked for, the less of the usual. */
  grain(values) {
    const said = values.grain === "" ? this.option("grain").default : Number(values.grain);
    if (isNumber(said)) return said; // by the operator, which nothing takes away from, either
    return (this.facts(values).grain ?? 0) * (this.applies("fidelity", values) ? 1 - values.fidelity : 1);
  }

  /** Whether a control does anything with the model that is chosen. */
  applies(name, values) {
    const { has_fidelity, has_one_step, has_several_steps } = this.facts(values);
    const steps = this.steps(values);
    const rules = {
      scale: () => values.way === "scale",
      longest: () => values.way === "longest",
      fidelity: () => has_fidelity && has_one_step && !(steps > 1),
      seed: () => this.paints(values) || this.grain(values) > 0,
      num_inference_steps: () => has_several_steps,
      guidance_scale: () => has_several_steps && steps > 1,
      model: () => this.told.models.length > 1,
      describer: () => this.told.describers.length > 1,
      file_quality: () => LOSSY.has(values.format),
    };
    return rules[name]?.() ?? true;
  }

  /** The fields of a request, as texts. */
  fields(values) {
    const fields = {};
    const { way } = values;
    if (way === "2" || way === "4") fields.scale = way;
    else if (way !== "auto") fields[way] = written(values[way]);
    for (const name of ["fidelity", ...NUMBERS]) {
      const value = values[name].trim();
      const followsFidelity = name === "grain" && "fidelity" in fields;
      if (value !== "" && this.applies(name, values) && (followsFidelity || Number(value) !== this.usual(name, values))) fields[name] = written(value);
    }
    if (values.model !== this.told.default_model) fields.model = values.model;
    if (values.describer !== this.told.default_describer) fields.describer = values.describer;
    if (values.format !== (this.option("format").default ?? "same")) fields.format = values.format;
    if (values.metadata !== this.metadata) {
      fields.strip_gps = String(values.metadata === "place");
      fields.strip_metadata = String(values.metadata === "none");
    }
    if (values.protect) fields.protect = "auto";
    if (values.map) fields.map = "true";
    return fields;
  }

  /** The first value that the server would refuse, as {name, text}; null: there is none. */
  fault(values) {
    for (const name of ["scale", "longest", "fidelity", ...NUMBERS]) {
      const value = values[name].trim();
      if (!this.applies(name, values)) continue;
      const { kind, minimum = -Infinity, maximum = Infinity } = this.option(name);
      if (value === "" && (name === "scale" || name === "longest")) return { name, text: "Say a number." };
      if (value === "") continue;
      const number = Number(value);
      const range = Number.isFinite(minimum) && Number.isFinite(maximum) ? `, from ${minimum} to ${maximum}` : "";
      if (!Number.isFinite(number) || (kind === "integer" && !Number.isInteger(number))) return { name, text: `Use a ${kind === "integer" ? "whole " : ""}number${range}.` };
      if (number < minimum || number > maximum) return { name, text: `Use a number from ${minimum} to ${maximum}.` };
    }
    return null;
  }

  /** How large the result of a picture becomes, nearly; null where that is not known here. */
  target(values, width, height) {
    const longest = Math.max(width, height);
    const usual = this.option("scale").default ?? [4, 2, 1].find((scale) => scale === 1 || width * height * scale ** 2 <= USUAL_PIXELS);
    const isOther = ["size", "longest", "shortest", "megapixels"].some((name) => isNumber(this.option(name).default));
    if (values.way === "auto" && isOther) return null;
    const factor = { auto: usual, 2: 2, 4: 4, scale: Number(values.scale), longest: Number(values.longest) / longest }[values.way];
    if (!(factor > 0)) return null;
    const [across, down] = [width, height].map((side) => Math.max(Math.round(side * factor), 1));
    return { width: across, height: down };
  }

  /** The largest factor at which a picture's result is within the server's limit. */
  largest(width, height) {
    return Math.min(Math.floor(10 * Math.sqrt(this.told.limits.max_output_pixels / (width * height))) / 10, this.option("scale").maximum ?? 16);
  }

  /** What tells a result from others of its picture, in a few words; `factor` is how much larger it is, once known. */
  label(values, { factor = null, hasEdits = false, says = [] } = {}) {
    const { way } = values;
    const parts = [
      way === "longest" ? `${values.longest} px` : `${factor ? short(factor) : way === "scale" ? values.scale : way === "auto" ? "" : way} ×`.trim(),
    ];
    if (parts[0] === "×") parts.pop();
    const differs = (name) => says.includes(name) || (values[name] !== "" && Number(values[name]) !== this.usual(name, values));
    if (values.model !== this.told.default_model) parts.push(values.model);
    if (this.applies("fidelity", values) && differs("fidelity")) parts.push(`fidelity ${short(Number(values.fidelity))}`);
    if (this.applies("num_inference_steps", values) && differs("num_inference_steps")) parts.push(`${values.num_inference_steps} steps`);
    if (values.grain !== "" && (says.includes("grain") || Number(values.grain) !== this.grain({ ...values, grain: "" }))) parts.push(`grain ${short(Number(values.grain))}`);
    if (this.applies("seed", values) && values.seed) parts.push(`seed ${values.seed}`);
    if (hasEdits) parts.push("your texts");
    if (values.protect) parts.push("protected");
    return parts.join(" · ") || "Result";
  }
}
