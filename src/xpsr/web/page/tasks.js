// Requests on their way: they wait here, are sent, wait there, are worked on, and are over. What is temporary is tried again.
import { pause } from "./api.js";
import { Problem, brokenOff, problemOfJob } from "./problems.js";
import { count, durationText, percentText } from "./words.js";

const MOST_ATTEMPTS = 3; // at a server that forgets jobs
const MOST_BREAKS = 5; // while it is sent to a server that is there

/**
 * `state` is one of queued, sending, again, away, waiting, running, done, failed, cancelled. `job` is the server's
 * document, `problem` why there is no result, `sent` which part of the upload is through.
 */
export class Task {
  constructor({ server, kind, picture, fields, onChange, rank }) {
    Object.assign(this, { server, kind, picture, fields, onChange, rankOf: rank });
    Object.assign(this, { state: "queued", job: null, problem: null, sent: 0, until: 0, preview: null, began: null });
    this.abort = new AbortController();
  }

  get rank() { return this.rankOf(this); }
  get isOver() { return ["done", "failed", "cancelled"].includes(this.state); }

  become(state, changes = {}) {
    Object.assign(this, { state, ...changes });
    this.onChange(this);
  }

  /** Never rejects: what goes wrong is the task's state. */
  async run() {
    const { signal } = this.abort;
    for (let [attempts, breaks] = [0, 0]; !signal.aborted;) {
      try {
        await this.attempt(signal);
        return;
      } catch (error) {
        if (signal.aborted) return;
        const problem = error instanceof Problem ? error : new Problem({ detail: String(error?.message ?? error) });
        if (problem.code === "gone" && (this.job || (breaks += 1) < MOST_BREAKS)) {
          this.become("away");
          await this.server.back();
        } else if (problem.status === 404 && this.job && (attempts += 1) < MOST_ATTEMPTS) {
          this.job = null; // the server has started anew
        } else if (problem.isTemporary) {
          if (problem.code === "draining") this.job = null; // it ended with the server
          await this.waitFor(problem, signal);
        } else {
          this.become("failed", { problem: problem.code === "gone" ? brokenOff() : problem });
          return;
        }
      }
    }
  }

  async attempt(signal) {
    if (!this.job) {
      this.become("sending", { sent: 0, began: null });
      const { file, name } = this.picture;
      const onUpload = (sent) => this.become("sending", { sent });
      this.job = await this.server.submit(this.kind, { file, name, fields: this.fields(), onUpload, signal });
    }
    this.take(this.job);
    if (this.isOver) return;
    const onPreview = (preview) => this.become(this.state, { preview });
    await this.server.watch(this.job.id, { onJob: (job) => this.take(job), onPreview, signal });
  }

  async waitFor(problem, signal) {
    const seconds = (problem.retryAfter ?? 5) + Math.random() / 2; // not all who were turned away at once
    this.become("again", { problem, until: performance.now() + 1000 * seconds });
    await pause(1000 * seconds, signal).catch(() => {});
    this.problem = null;
  }

  take(job) {
    const { state } = job;
    if (!job.progress) this.began = null; // or it waits again
    else this.began ??= { time: performance.now(), done: job.progress.done };
    const over = { job, preview: null };
    if (state === "failed" || state === "cancelled") { // and not by this page, which asks no more then
      const problem = problemOfJob(job);
      if (problem.code === "draining") throw problem;
      this.become("failed", { ...over, problem });
    } else if (state === "done") this.become(state, over);
    else this.become(state, { job });
  }

  cancel() {
    if (this.isOver) return;
    this.abort.abort();
    if (this.job) this.server.remove(this.job.id);
    this.become("cancelled", { job: null, preview: null });
  }

  /** Which part is done, in [0, 1]; null where nobody can tell. */
  get fraction() {
    if (this.state === "sending") return this.sent;
    const progress = this.state === "running" ? this.job.progress : null;
    return progress?.total ? progress.done / progress.total : null;
  }

  /** Seconds until it is done, by how fast it has been so far; null where that cannot be told yet. */
  get secondsLeft() {
    if (this.state !== "running" || !this.began) return null;
    const { done, total } = this.job.progress;
    const seconds = (performance.now() - this.began.time) / 1000;
    const made = done - this.began.done;
    return made > 0 && seconds > 1.5 ? (seconds / made) * (total - done) : null;
  }

  /** What is going on, in a few words, and when it will be over where that can be told. */
  get text() {
    const left = this.secondsLeft;
    return left === null ? this.brief : `${this.brief} · about ${durationText(Math.ceil(left))} left`;
  }

  get brief() {
    const { place } = this.job ?? {};
    return {
      queued: () => "Waits for its turn",
      sending: () => (this.sent < 1 ? `Sending ${percentText(this.sent)}` : "Sent"),
      again: () => `${this.problem?.heading ?? "The server is full"}; again in ${durationText(Math.max(Math.ceil((this.until - performance.now()) / 1000), 1))}`,
      away: () => "Waits for the server",
      waiting: () => (place ? `${count(place, "picture")} before it` : "Next in the queue"),
      running: () => (this.kind === "describe" ? "Looking at it" : this.fraction === null ? "Restoring" : this.fraction < 1 ? `Restoring ${percentText(this.fraction)}` : "Nearly done"),
      done: () => (this.kind === "describe" ? "Ready" : "Restored"),
      failed: () => this.problem.heading,
      cancelled: () => "Cancelled",
    }[this.state]();
  }
}

/** A result of a picture, from when it is asked for. `values` are the settings it was asked for with. */
export class Result extends Task {
  constructor({ values, key, says, hasEdits, ...task }) {
    super({ ...task, kind: "upscale" });
    Object.assign(this, { values, key, says, hasEdits, thumb: null, isSaved: false, isGone: false, loading: new Map() });
  }

  get output() { return this.state === "done" ? this.job.output : null; }

  get expires() { return this.job?.expires ? new Date(this.job.expires) : null; }

  /** Whether the server has removed it: its time is over, or others needed the room. */
  get isExpired() { return this.isGone || Boolean(this.output && this.expires && this.expires < new Date()); }

  /** The file behind a link of the job, fetched once and kept: it stays when the server has forgotten it. */
  file(link) {
    if (!this.loading.has(link)) {
      const found = this.server.blob(this.job.links[link]);
      found.catch(() => this.loading.delete(link));
      this.loading.set(link, found);
    }
    return this.loading.get(link);
  }

  has(link) { return this.loading.has(link); }

  /** What a browser shows of it. */
  get view() {
    const isShown = ["JPEG", "PNG", "WEBP"].includes(this.output.format);
    return this.file(isShown ? "result" : "view");
  }
}
