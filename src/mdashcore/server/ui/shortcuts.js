// The keys of the whole page: "/" to the search of a view, "?" for a list of keys, Ctrl-K to go to a view or a device.
//
// They do nothing in fields, where they are text, and while a dialog is open. Ctrl-K works in a field for a search, too.

import {announce, open} from "./dialog.js";
import {h} from "./dom.js";

const PAGE_KEYS = [
  ["/", "Search or filter what is shown"],
  ["Ctrl K", "Go to a view, or to a device by its name or id"],
  ["?", "Show these keys"],
  ["Esc", "Close a dialog, a menu or suggestions; in a row of a table, back to the row"],
  ["↑ ↓", "In a table: another row; Page up, Page down, Home and End move further"],
  ["Enter", "In a table: open the row"],
  ["Space", "In a table: select the row; with Shift all from the last one on"],
  ["→", "In a table: to the links and buttons in the row"],
  ["Ctrl Enter", "In JSON: send the form"],
];

const FIELD_SELECTOR = "input:not([type=checkbox], [type=radio], [type=button]), textarea, select, [contenteditable]";

// startShortcuts({isOn() → whether a person is logged in, jump() → opens the dialog to go elsewhere})
export function startShortcuts({isOn, jump}) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || !isOn() || document.querySelector("dialog[open]")) return;
    const field = event.target instanceof Element ? event.target.closest(FIELD_SELECTOR) : null;
    const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey;
    if ((event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey && event.key.toLowerCase() === "k" && (field === null || field.type === "search")) jump();
    else if (field === null && isPlain && event.key === "/") toSearch();
    else if (field === null && isPlain && event.key === "?") showKeys();
    else return;
    event.preventDefault();
  });
}

function toSearch() {
  const search = [...document.querySelectorAll("main input[type=search]")].find((input) => input.checkVisibility() && !input.disabled);
  if (search === undefined) return announce("This view has no search.");
  search.focus();
  return search.select();
}

export function showKeys() {
  const dialog = open("Keys", h("div", {class: "stack"},
    h("dl", {class: "examples"}, PAGE_KEYS.map(([keys, words]) => [h("dt", {}, keys.split(" ").map((key) => h("kbd", {}, key))), h("dd", {}, words)])),
    h("p", {class: "hint"}, "In fields, keys are text. On a Mac, Ctrl is also ⌘."),
    h("div", {class: "actions"}, h("button", {type: "button", class: "primary", onclick: () => dialog.close()}, "Done"))));
}
