// Dialogs: a token, whether somebody is sure, and the keys.
import { find, store } from "./base.js";

/** Resolves to a token that somebody types; `isRefused`: the last one did not do. */
export function askToken(isRefused) {
  const [dialog, field] = [find("token"), find("token-field")];
  find("token-fault").textContent = isRefused ? "The server does not know this token." : "";
  field.value = "";
  return new Promise((resolve) => {
    const onSubmit = (event) => {
      event.preventDefault();
      const token = field.value.trim();
      // more could not be sent in a header
      if (!/^[\x21-\x7e]+$/.test(token)) { find("token-fault").textContent = "A token has letters, digits and signs, and no spaces."; return; }
      find("token-form").removeEventListener("submit", onSubmit);
      dialog.removeEventListener("close", reopen);
      dialog.close();
      resolve(token);
    };
    const reopen = () => dialog.showModal(); // without a token there is nothing to do here
    find("token-form").addEventListener("submit", onSubmit);
    dialog.addEventListener("close", reopen);
    dialog.showModal();
    field.focus();
  });
}

/** Resolves to whether somebody agrees. */
export function isSure({ title, text, yes }) {
  const dialog = find("sure");
  find("sure-title").textContent = title;
  find("sure-text").textContent = text;
  find("sure-yes").textContent = yes;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

const HAS_KEYS = "xpsr-keys";

/** Single letters can be turned off: whoever dictates speaks them by accident. */
export function setUpKeys() {
  const box = find("has-keys");
  box.checked = store.get(HAS_KEYS) !== "no";
  box.addEventListener("change", () => store.set(HAS_KEYS, box.checked ? "yes" : "no"));
  find("open-keys").addEventListener("click", () => find("keys").showModal());
  return () => box.checked;
}
