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

function save(blob, name) {
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

/** Results with their records, as one file, or as several where there are very many. Returns how many were left out. */
export async function downloadAll(server, results) {
  let rest = results;
  for (let number = 1; rest.length; number += 1) {
    const some = rest.slice(0, MOST_JOBS);
    const path = `v1/archive?${new URLSearchParams(some.map(({ job }) => ["job", job.id]))}`;
    try {
      await fetchArchive(server, path, number > 1 ? `xpsr-${number}.zip` : "xpsr.zip");
    } catch (problem) {
      const gone = problem.status === 404 && some.find(({ job }) => job.id === problem.value);
      if (!gone) throw problem;
      gone.isGone = true; // somebody else needed the room; the others are there
      rest = rest.filter((result) => result !== gone);
      number -= 1;
      continue;
    }
    for (const result of some) result.isSaved = true;
    rest = rest.slice(MOST_JOBS);
  }
  return results.filter(({ isGone }) => isGone).length;
}

/** Straight to the disk, however large it is; but a link can send no token, and tells nobody what is wrong. */
async function fetchArchive(server, path, name) {
  if (server.token) {
    save(await server.blob(path), name);
    return;
  }
  const look = new AbortController();
  await server.ask(path, { signal: look.signal });
  look.abort();
  follow(path, name);
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
