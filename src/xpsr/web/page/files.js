// Files that come in: chosen, dropped, pasted, or all of a dropped folder.
const SUFFIXES = /\.(jpe?g|jpe|jfif|mpo|png|tiff?|webp|avif|jxl|bmp|dib|gif|hei[cf]|jp2)$/i;
const MOST = 5000; // entries of a folder that are looked at

/** What a file's name and kind say; what is in it, the server finds out. */
const isPicture = (file) => file.type.startsWith("image/") ? !file.type.includes("svg") : SUFFIXES.test(file.name);

const entryOf = (file, path = "") => ({ file, name: file.name, path: path || file.webkitRelativePath || file.name });

/** Sorts what came in: pictures as {file, name}, and the names of what is none. Files of systems are passed over. */
export function sorted(entries) {
  const seen = entries.filter(({ name }) => !name.startsWith(".") && !/^(thumbs\.db|desktop\.ini)$/i.test(name));
  return {
    pictures: seen.filter(({ file }) => isPicture(file)),
    others: seen.filter(({ file }) => !isPicture(file)).map(({ path }) => path),
  };
}

/** All files of a drop, those in its folders, too. */
async function droppedFiles(transfer) {
  // all at once: after the first wait the browser takes the list away
  const roots = Array.from(transfer.items ?? [], (item) => (item.kind === "file" ? item.webkitGetAsEntry?.() : null)).filter(Boolean);
  if (!roots.some((entry) => entry.isDirectory)) return Array.from(transfer.files, (file) => entryOf(file));
  const found = [];
  const walk = async (entry) => {
    if (found.length >= MOST) return;
    if (entry.isFile) {
      const file = await new Promise((resolve) => entry.file(resolve, () => resolve(null)));
      if (file) found.push(entryOf(file, entry.fullPath.replace(/^\//, "")));
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const batch = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
      if (!batch.length) return;
      for (const child of batch.sort((one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }))) await walk(child);
    }
  };
  for (const root of roots) await walk(root);
  return found;
}

/** Calls `take` with entries, however they come in, and `drag` with whether something hovers over the page. */
export function listenForFiles({ take, drag }) {
  const hasFiles = (event) => Array.from(event.dataTransfer?.types ?? []).includes("Files");
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    drag(true);
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) drag(false); });
  addEventListener("drop", async (event) => {
    drag(false);
    if (!hasFiles(event)) return;
    event.preventDefault();
    take(await droppedFiles(event.dataTransfer));
  });
  addEventListener("paste", (event) => {
    const files = Array.from(event.clipboardData?.files ?? []);
    if (!files.length) return; // text, for a field
    event.preventDefault();
    take(files.map((file) => entryOf(file)));
  });
}

/** Makes a button open the system's dialog of an input, whose files are taken. */
export function chooseBy(buttons, input, take) {
  for (const button of buttons) button.addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    take(Array.from(input.files, (file) => entryOf(file)));
    input.value = ""; // or the same file, chosen again, is no change
  });
}

/** Fetches an example, a file beside the page. */
export async function exampleFile(server, address) {
  const content = await server.blob(address);
  return entryOf(new File([content], address.split("/").at(-1), { type: content.type }));
}
