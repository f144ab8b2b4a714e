// The server's HTTP API, and nothing else: requests, a token, and whether the server is there.
import { Store } from "./base.js";
import { eventsOf } from "./events.js";
import { changed, gone, problemFrom } from "./problems.js";

const TOKEN = "xpsr-token";
const tab = new Store(() => sessionStorage);
/** Addresses are the page's own, also where a proxy serves it below a path. */
const here = (path) => path.replace(/^\/+/, "");

const OVER = new Set(["done", "failed", "cancelled"]);

/** Resolves after so many milliseconds; rejects at once where the signal says that nobody waits any more. */
export function pause(milliseconds, signal = null) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const stop = () => { clearTimeout(timer); reject(signal.reason); };
    const timer = setTimeout(() => { signal?.removeEventListener("abort", stop); resolve(); }, milliseconds);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** Dispatches "gone" and "back". `askToken` resolves to a token that somebody types. */
export class Server extends EventTarget {
  constructor({ askToken }) {
    super();
    Object.assign(this, { askToken, token: tab.get(TOKEN), returning: null, asking: null });
  }

  get isGone() { return this.returning !== null; }

  headers(others = {}) {
    return this.token ? { ...others, Authorization: `Bearer ${this.token}` } : others;
  }

  /** Resolves to a response that is fine; throws a Problem otherwise. Asks for a token where one is wanted. */
  async ask(path, { headers = {}, ...options } = {}) {
    for (;;) {
      const { token } = this;
      let response;
      try {
        response = await fetch(here(path), { ...options, headers: this.headers(headers), cache: "no-store" });
      } catch (error) {
        throw error.name === "AbortError" ? error : gone();
      }
      if (response.ok) return response;
      if (response.status !== 401) throw problemFrom(response.status, await response.text(), response.headers.get("Retry-After"));
      await this.renewToken(token);
    }
  }

  /** Waits for another token than the one that was refused; one dialog serves all who wait. */
  async renewToken(refused) {
    if (this.token !== refused) return;
    this.asking ??= this.askToken(Boolean(refused)).finally(() => { this.asking = null; });
    this.token = await this.asking;
    tab.set(TOKEN, this.token);
  }

  async models() { return (await this.ask("/v1/models")).json(); }

  /** Sends a picture; resolves to the job's document. `onUpload` is told which part has been sent. */
  async submit(kind, { file, name, fields, onUpload, signal }) {
    for (;;) {
      await file.slice(0, 1).arrayBuffer().catch(() => { throw changed(); }); // a browser would tell it as a network that is away
      signal.throwIfAborted();
      const { token } = this;
      const form = new FormData();
      for (const [field, value] of Object.entries(fields)) form.append(field, value);
      form.append("image", file, name);
      const { status, text, retryAfter } = await this.post(`/v1/${kind}`, form, { onUpload, signal });
      if (status >= 200 && status < 300) return JSON.parse(text);
      if (status !== 401) throw problemFrom(status, text, retryAfter);
      await this.renewToken(token);
    }
  }

  post(path, form, { onUpload, signal }) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest(); // fetch does not tell how much has been sent
      request.open("POST", here(path));
      for (const [name, value] of Object.entries(this.headers({ Prefer: "respond-async" }))) request.setRequestHeader(name, value);
      const stop = () => request.abort();
      signal.addEventListener("abort", stop, { once: true });
      request.upload.onprogress = ({ loaded, total }) => onUpload(total ? loaded / total : 0);
      request.onload = () => resolve({ status: request.status, text: request.responseText, retryAfter: request.getResponseHeader("Retry-After") });
      request.onerror = () => reject(gone());
      request.onabort = () => reject(signal.reason);
      request.onloadend = () => signal.removeEventListener("abort", stop);
      request.send(form);
    });
  }

  /** Follows a job until it is over; resolves to its last document. */
  async watch(id, { onJob, onPreview, signal }) {
    for (let seconds = 1; ; seconds = Math.min(2 * seconds, 15)) {
      const response = await this.ask(`/v1/jobs/${id}/events`, { headers: { Accept: "text/event-stream" }, signal });
      try {
        for await (const { event, data } of eventsOf(response.body)) {
          if (event === "preview") onPreview(data);
          if (event !== "job") continue;
          onJob(data);
          if (OVER.has(data.state)) return data;
        }
      } catch (error) {
        if (signal.aborted || !(error instanceof TypeError)) throw signal.reason ?? error;
      }
      // it broke off, as proxies do with what takes long; where the server is away, this says so
      const job = await (await this.ask(`/v1/jobs/${id}`, { signal })).json();
      onJob(job);
      if (OVER.has(job.state)) return job;
      await pause(1000 * seconds, signal);
    }
  }

  async blob(path, signal = null) {
    const response = await this.ask(path, { signal });
    try { return await response.blob(); } catch (error) { throw error.name === "AbortError" ? error : gone(); }
  }

  /** Cancels and removes a job, also of a page that is being left. Whatever comes of it is nobody's concern. */
  remove(id) {
    fetch(here(`/v1/jobs/${id}`), { method: "DELETE", headers: this.headers(), keepalive: true }).catch(() => {});
  }

  /** Resolves when the server answers again; asks it less and less often. */
  back() {
    this.returning ??= this.wait().finally(() => {
      this.returning = null;
      this.dispatchEvent(new Event("back"));
    });
    return this.returning;
  }

  async wait() {
    this.dispatchEvent(new Event("gone"));
    for (let seconds = 1; ; seconds = Math.min(2 * seconds, 15)) {
      await pause(1000 * seconds);
      try {
        if ((await fetch(here("/healthz"), { cache: "no-store" })).ok) return;
      } catch { /* not yet */ }
    }
  }
}
