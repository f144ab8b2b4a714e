// What leaves the page: files, and command lines.
import { make } from "./base.js";
import { pngOf } from "./pixels.js";

const KEPT = 60_000; // milliseconds that a browser has to begin with a download

function follow(address, name) {
  const link = make("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
}

export function save(blob, name) {
  const address = URL.createObjectURL(blob);
  follow(address, name);
  setTimeout(() => URL.revokeObjectURL(address), KEPT);
}

const stem = (name) => name.replace(/\.[^.]*$/, "");

export async function downloadResult(result) {
  save(await result.file("result"), result.output.name);
  result.isSaved = true;
}

export async function downloadPng(visit, result) {
  save(await pngOf(await visit.bitmapOf(result)), `${stem(result.output.name)}.png`);
  result.isSaved = true;
}

export async function downloadRecord(result) {
  save(await result.file("record"), `${result.output.name}.json`);
}

/** The chosen result of every picture, with records, as one file. */
export async function downloadAll(server, results) {
  const path = `v1/archive?${new URLSearchParams(results.map(({ job }) => ["job", job.id]))}`;
  if (server.token) save(await server.blob(path), "xpsr.zip");
  else follow(path, "xpsr.zip"); // straight to the disk, however large; a link can send no token
  for (const result of results) result.isSaved = true;
}

/** Where a page is not served safely, as on another machine without TLS, browsers have the old way only. */
export async function copy(text) {
  if (navigator.clipboard && isSecureContext) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const field = make("textarea", { class: "unseen", "aria-hidden": "true" });
  field.value = text;
  document.body.append(field);
  field.select();
  const isDone = document.execCommand("copy");
  field.remove();
  if (!isDone) throw new Error("This browser does not let pages copy; the line stands under “About the result”");
}
