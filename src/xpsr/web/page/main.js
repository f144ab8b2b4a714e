// Puts the page together: asks the server what it can do, then lets pictures in.
import { find, setUpTheme } from "./base.js";
import { Server, pause } from "./api.js";
import { Cards } from "./cards.js";
import { Controls } from "./controls.js";
import { Detail } from "./detail.js";
import { askToken, isSure, setUpKeys } from "./dialogs.js";
import { downloadAll } from "./downloads.js";
import { chooseBy, exampleFile, listenForFiles, sorted } from "./files.js";
import { announce, attempt, toast } from "./notices.js";
import { Settings } from "./settings.js";
import { Strip } from "./strip.js";
import { Viewer } from "./viewer.js";
import { Visit } from "./visit.js";
import { bytesText, count, durationText, megapixelsText, namesText } from "./words.js";

setUpTheme(find("theme"));
const hasKeys = setUpKeys();
const server = new Server({ askToken });
const entries = []; // pictures that came before the server had answered
let visit = null;

function banner(text) {
  find("banner-text").textContent = text;
  find("banner").hidden = !text;
}

server.addEventListener("gone", () => {
  banner("The server does not answer. Your pictures and results stay here, and go on when it is back.");
  find("state").textContent = "";
});
server.addEventListener("back", () => {
  banner("");
  announce("The server is back");
  if (visit) tellState();
});

function tellState() {
  const { told } = visit.settings;
  find("state").textContent = told.models.length > 1 ? `ready · ${told.models.length} models` : `ready · ${told.models[0].name}`;
  find("footer").textContent = `xpsr ${told.version} · pictures go to ${location.host} and nowhere else, and results are removed there after ${durationText(told.limits.keep_seconds)}`;
}

function take(found) {
  const { pictures, others } = sorted(found);
  if (others.length) {
    const verb = others.length === 1 ? "is no picture and was left out" : "are no pictures and were left out";
    toast(`${namesText(others)} ${verb}`, { isFault: true });
  }
  if (!visit) entries.push(...pictures);
  else if (pictures.length) {
    visit.add(pictures);
    announce(`${count(pictures.length, "picture")} added`);
  }
}

async function remove(picture) {
  const isLost = picture.done.some((result) => !result.isSaved);
  if (isLost && !(await isSure({ title: "Remove it?", text: `${picture.name} has a result that was not downloaded.`, yes: "Remove" }))) return;
  visit.remove(picture);
  announce(`${picture.name} is removed`);
}

async function removeAll() {
  const lost = visit.pictures.filter(({ done }) => done.some((result) => !result.isSaved)).length;
  const text = lost ? `Of ${count(visit.pictures.length, "picture")}, ${lost} ${lost === 1 ? "has a result that was" : "have results that were"} not downloaded.` : "Results are removed from the server, too.";
  if (!(await isSure({ title: "Remove all pictures?", text, yes: "Remove all" }))) return;
  for (const picture of [...visit.pictures]) visit.remove(picture);
}

function restoreAll(controls) {
  const isFine = [null, ...visit.pictures.filter(({ own }) => own)].every((picture) => controls.isFine(picture));
  if (!isFine) return;
  const started = visit.restoreAll();
  toast(started ? `${count(started, "picture")} on ${started === 1 ? "its" : "their"} way` : "All of them are made already; change something to get others");
}

async function saveAll() {
  const results = visit.pictures.map(({ chosen, done }) => (chosen?.state === "done" ? chosen : done.at(-1))).filter((result) => result && !result.isExpired);
  if (!results.length) return toast("The server has removed these results", { isFault: true });
  await attempt(async () => {
    const missing = await downloadAll(server, results);
    if (missing) toast(`${count(missing, "result")} left out: the server has removed ${missing === 1 ? "it" : "them"}`, { isFault: true });
  });
}

function tellOver(task) {
  const { picture, kind, state } = task;
  if (kind === "describe" && state === "done" && picture === visit.selected && !picture.results.length) announce(`${picture.name} is described`);
  if (kind === "describe" || state === "cancelled") return;
  const left = visit.pictures.reduce((sum, { active }) => sum + active.length, 0);
  if (left && visit.pictures.length > 3) return; // not one word for each of hundreds
  if (!left && visit.pictures.length > 3) announce(`All are through: ${visit.pictures.filter(({ done }) => done.length).length} of ${visit.pictures.length} restored`);
  else announce(`${picture.name}: ${task.text}`);
}

function listenForKeys(detail, controls, viewer) {
  addEventListener("keydown", (event) => {
    const { target } = event;
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || !hasKeys() || document.querySelector("dialog[open]")) return;
    if (/^(TEXTAREA|SELECT)$/.test(target.tagName) || (target.tagName === "INPUT" && target.type !== "checkbox")) return;
    const key = event.key.toLowerCase();
    const always = { "?": () => find("keys").showModal(), o: () => find("files").click() };
    const some = visit?.selected ? {
      n: () => visit.step(1), p: () => visit.step(-1), d: () => detail.download(),
      r: () => (event.shiftKey ? restoreAll(controls) : detail.restore()),
    } : {};
    const action = always[key] ?? some[key];
    if (event.repeat && action && key !== "n" && key !== "p") return;
    if (action) action();
    else if (!visit?.selected || !viewer.onKey(event)) return;
    event.preventDefault();
  });
}

/** Shows the bench where there are pictures and the start where there are none; the focus does not stay in the other. */
function showRoom(isOpen) {
  const [shown, other] = isOpen ? [find("bench"), find("start")] : [find("start"), find("bench")];
  const hadFocus = other.contains(document.activeElement);
  shown.hidden = false;
  other.hidden = true;
  document.body.classList.toggle("is-open", isOpen);
  if (hadFocus) (isOpen ? find("restore") : shown.querySelector("button")).focus();
}

function open(told) {
  visit = new Visit(server, new Settings(told));
  const { limits } = told;
  find("limits").textContent = `Up to ${bytesText(limits.max_bytes)} and ${megapixelsText(limits.max_pixels)} each. They go to ${location.host} and nowhere else.`;
  tellState();
  const controls = new Controls(visit);
  const viewer = new Viewer(visit);
  const detail = new Detail({ visit, viewer, strip: new Strip(visit), controls });
  new Cards(visit, remove);
  visit.addEventListener("list", () => showRoom(visit.pictures.length > 0));
  visit.addEventListener("over", ({ detail: task }) => tellOver(task));
  find("restore-all").addEventListener("click", () => restoreAll(controls));
  find("cancel-all").addEventListener("click", () => {
    for (const { active } of visit.pictures) for (const task of active) visit.stop(task);
  });
  find("download-all").addEventListener("click", saveAll);
  find("remove-all").addEventListener("click", removeAll);
  listenForKeys(detail, controls, viewer);
  addEventListener("beforeunload", (event) => {
    if (visit.isBusy || visit.pictures.some(({ done }) => done.some((result) => !result.isSaved))) event.preventDefault();
  });
  take(entries.splice(0));
}

async function begin() {
  listenForFiles({ take, drag: (isOver) => { find("over").hidden = !isOver; } });
  chooseBy(document.querySelectorAll("[data-open=files]"), find("files"), take);
  chooseBy(document.querySelectorAll("[data-open=folder]"), find("folder"), take);
  for (const button of document.querySelectorAll("[data-example]")) {
    button.addEventListener("click", () => attempt(async () => take([await exampleFile(server, button.dataset.example)])));
  }
  for (;;) {
    try {
      open(await server.models());
      return;
    } catch (problem) {
      if (problem.code === "gone") await server.back();
      else if (problem.isTemporary) await pause(1000 * (problem.retryAfter ?? 5));
      else { banner(problem.text ?? String(problem)); throw problem; }
    }
  }
}

begin();
