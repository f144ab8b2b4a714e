// What is told in passing: in a corner for eyes, in a live region for screen readers.
import { find, make } from "./base.js";

const MOST = 3;

/** Says something to screen readers alone. */
export function announce(text) {
  const live = find("live");
  live.textContent = live.textContent === text ? `${text} ` : text; // the same words again are no change
}

/** Does something, and tells what goes wrong. */
export async function attempt(action) {
  try { await action(); } catch (error) { toast(error.text ?? error.message, { isFault: true }); }
}

/** Shows a message for a while, or until it is closed where it is a fault. */
export function toast(text, { isFault = false } = {}) {
  const box = make("div", { class: isFault ? "toast is-fault" : "toast", role: isFault ? "alert" : null },
    make("span", { dir: "auto" }, text), make("button", { type: "button", class: "plain", "aria-label": "Close", onclick: () => box.remove() }, "✕"));
  const toasts = find("toasts");
  toasts.append(box);
  while (toasts.children.length > MOST) toasts.firstElementChild.remove();
  if (isFault) return;
  announce(text);
  setTimeout(() => box.remove(), 6000);
}
