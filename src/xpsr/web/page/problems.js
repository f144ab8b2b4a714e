// What goes wrong, in words. A server's problem document (RFC 9457) says it already; here it gets a heading.
import { isNumber } from "./words.js";

const HEADINGS = {
  unknown_format: "This is no picture that xpsr can read",
  damaged: "This file is damaged",
  too_large: "This is too large",
  busy: "The server is full",
  too_many: "Many of your pictures are there already",
  draining: "The server is about to end",
  unauthorized: "The server wants a token",
  forbidden: "The server does not answer to this address",
  no_such_job: "The server does not have this any more",
  too_late: "It took too long",
  too_slow_upload: "The upload was too slow",
  disk_full: "The server's disk is full",
  out_of_memory: "The server's memory is too small for this",
  worker_died: "What restored the picture has stopped",
  unexpected: "Something went wrong that nobody has foreseen",
  gone: "The server does not answer",
  broken_off: "The connection breaks off",
  changed: "This file has changed or is gone",
  undecodable: "This browser cannot show the picture",
};

/** Why something was not done. `field` is the option that it concerns; `status` 0 is not the server's word. */
export class Problem extends Error {
  constructor({ status = 0, code = "unexpected", detail = "", field = null, value = null, remedy = null, limit = null, retryAfter = null }) {
    super(detail || HEADINGS[code] || code);
    Object.assign(this, { status, code, detail, field, value, remedy, limit, retryAfter });
  }

  /** Whether the same request may do later. */
  get isTemporary() { return this.status === 429 || this.status === 503; }

  /** Whether it is the picture's fault, whatever is asked for: nothing can be made of it. */
  get isOfPicture() { return ["unknown_format", "damaged", "too_large", "changed"].includes(this.code) && (this.field === null || this.field === "image"); }

  get heading() { return HEADINGS[this.code] ?? (this.field ? "The server cannot do this" : "This did not work"); }

  /** The sentences below the heading: what is wrong, the limit and the remedy, each once. */
  get sentences() {
    const said = [this.detail].filter(Boolean);
    if (isNumber(this.limit) && !/\d/.test(this.detail)) said.push(`The limit is ${this.limit.toLocaleString("en")}`);
    if (this.remedy && !this.detail.includes(this.remedy)) said.push(this.remedy);
    return said.map((text) => {
      const whole = text.trim();
      return whole.charAt(0).toUpperCase() + whole.slice(1) + (/[.!?]$/.test(whole) ? "" : ".");
    });
  }

  get text() { return [`${this.heading}.`, ...this.sentences].join(" "); }
}

/** Makes a Problem of a server's answer, whatever stands in it: a proxy between may have written it. */
export function problemFrom(status, text, retryAfter) {
  let told = {};
  try { told = JSON.parse(text) ?? {}; } catch { /* no JSON */ }
  const seconds = Number.parseFloat(retryAfter ?? "");
  const string = (value) => (typeof value === "string" ? value : null);
  return new Problem({
    status,
    code: string(told.code) ?? (status === 413 ? "too_large" : status === 429 ? "busy" : "unexpected"),
    detail: string(told.detail) ?? `The server answered with status ${status}`,
    field: string(told.field), value: string(told.value), remedy: string(told.remedy),
    limit: isNumber(told.limit) ? told.limit : null,
    retryAfter: Number.isFinite(seconds) ? seconds : null,
  });
}

/** The Problem of a job's document that has an error. */
export const problemOfJob = ({ error }) => problemFrom(error.status ?? 0, JSON.stringify(error), null);

export const gone = () => new Problem({ code: "gone", detail: "It may be restarting, or the network is away" });
export const brokenOff = () => new Problem({ code: "broken_off", detail: "The server is there, but what goes to it does not arrive", remedy: "try again later, or from another network" });
export const changed = () => new Problem({ code: "changed", detail: "It can no longer be read as it was when it was added", remedy: "add it again" });
