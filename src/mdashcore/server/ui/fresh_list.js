// A short table of records for which the server sends no notifications. It is read again after an act, when the page is
// shown again, and at intervals while it is visible. Rows keep their elements, so that the focus and the origin of a
// dialog stay.
//
// freshList({items, read() → items, keyOf(item), head, row(item) → {element: <tr>, draw(item)}, nothing}):
// {element, reload(), drop(key), destroy()}; `nothing` is shown in place of no rows. `reload` does not throw: a line
// above the list says that it may be old.

import {errorLine, inWords} from "./dialog.js";
import {h} from "./dom.js";
import {connectionState, onState} from "./live.js";

const READ_INTERVAL = 30_000; // ms between two reads: often enough for people, and little work for the server

export function freshList({items, read, keyOf, head, row, nothing = null}) {
  const rows = new Map();
  const body = h("tbody", {});
  const box = h("div", {class: "list-box"}, h("table", {class: "list"}, h("thead", {}, head), body));
  const error = errorLine();
  const failure = h("div", {class: "stack tight", hidden: true}, error.element, h("div", {}, h("button", {type: "button", onclick: reload}, "Try again")));
  let present = [];
  let reading = 0; // number of running reads
  let newest = 0; // counts the reads: the result of an older one is discarded

  function draw(next) {
    present = next;
    const before = [...body.children];
    const focused = before.findIndex((element) => element.contains(document.activeElement));
    const keys = new Set(next.map(keyOf));
    for (const [key, {element}] of rows) {
      if (keys.has(key)) continue;
      element.remove();
      rows.delete(key);
    }
    next.forEach((item, i) => {
      const key = keyOf(item);
      if (!rows.has(key)) rows.set(key, row(item));
      const {element, draw: redraw} = rows.get(key);
      redraw(item);
      if (body.children[i] !== element) body.insertBefore(element, body.children[i] ?? null);
    });
    box.hidden = nothing !== null && next.length === 0;
    if (nothing) nothing.hidden = next.length > 0;
    if (focused >= 0 && !body.contains(before[focused])) focusBeside(before, focused);
  }

  // Moves the focus if its row is gone.
  function focusBeside(before, at) {
    const left = (element) => body.contains(element);
    const heir = before.slice(at + 1).find(left) ?? before.slice(0, at).findLast(left) ?? nothing;
    [...heir?.querySelectorAll("a, button") ?? []].at(-1)?.focus();
  }

  async function reload() {
    const mine = ++newest;
    reading += 1;
    try {
      const next = await read();
      await dialogsClosed(); // the focus goes back to the row from which a dialog was opened, or to its neighbour
      if (mine !== newest) return;
      draw(next);
      error.clear();
      failure.hidden = true;
    } catch (problem) {
      if (mine !== newest) return;
      if (problem.status === undefined) console.error(problem); // a bug
      error.show(`This list may be old. ${inWords(problem)}`);
      failure.hidden = false;
    } finally {
      reading -= 1;
    }
  }

  const look = () => document.visibilityState === "visible" && reading === 0 && reload();
  addEventListener("focus", look);
  document.addEventListener("visibilitychange", look);
  const timer = setInterval(look, READ_INTERVAL);
  let connection = connectionState();
  const unlisten = onState((state) => {
    if (state === "live" && connection === "reconnecting") look();
    connection = state;
  });

  draw(items);
  return {
    element: h("div", {class: "stack"}, failure, nothing, box),
    reload,
    drop: (key) => draw(present.filter((item) => keyOf(item) !== key)),
    destroy: () => {
      newest += 1;
      removeEventListener("focus", look);
      document.removeEventListener("visibilitychange", look);
      clearInterval(timer);
      unlisten();
    },
  };
}

async function dialogsClosed() {
  for (let dialog; (dialog = document.querySelector("dialog[open]"));) await new Promise((done) => dialog.addEventListener("close", done, {once: true}));
}
