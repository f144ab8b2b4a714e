// What leaves the page: files, and command lines.
import { make } from "./base.js";
import { pngOf } from "./pixels.js";

const MOST_JOBS = 500; // that the server puts into an archive
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
  save(await result.file("record"), `${stem(result.output.name)}.json`);
}

/** Results with their records, as one file, or as several where there are very many. */
export async function downloadAll(server, results) {
  for (let from = 0; from < results.length; from += MOST_JOBS) {
    const some = results.slice(from, from + MOST_JOBS);
    const name = from ? `xpsr-${1 + from / MOST_JOBS}.zip` : "xpsr.zip";
    const path = `v1/archive?${new URLSearchParams(some.map(({ job }) => ["job", job.id]))}`;
    if (server.token) save(await server.blob(path), name);
    else follow(path, name); // straight to the disk, however large; a link can send no token
    for (const result of some) result.isSaved = true;
  }
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
