// A short table of what the server sends no notifications of. It is read again after an act, when one comes back to the page, and
// every so often while it is looked at; rows stay the same elements, so that the focus and what a dialog came from stay.
//
// freshList({items, read() → items, keyOf(item), head, row(item) → {element: <tr>, draw(item)}, nothing}):
// {element, reload(), drop(key), destroy()}; `nothing` is shown where there are no rows. `reload` does not throw: that the list may be
// old is said above it.

import {errorLine, inWords} from "./dialog.js";
import {h} from "./dom.js";
import {onState} from "./live.js";

const EVERY = 30_000; // ms between two readings: soon enough for what people do, and little for the server

export function freshList({items, read, keyOf, head, row, nothing = null}) {
  const rows = new Map();
  const body = h("tbody", {});
  const box = h("div", {class: "list-box"}, h("table", {class: "list"}, h("thead", {}, head), body));
  const error = errorLine();
  const failure = h("div", {class: "stack tight", hidden: true}, error.element, h("div", {}, h("button", {type: "button", onclick: reload}, "Try again")));
  let present = [];
  let reading = 0; // how many readings are under way
  let newest = 0; // counts them: what an older one brings is not heeded

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

  // The row that had the focus is gone.
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
      if (mine !== newest) return;
      draw(next);
      error.clear();
      failure.hidden = true;
    } catch (problem) {
      if (mine !== newest) return;
      if (problem.status === undefined) console.error(problem); // a fault of ours
      error.show(`This list may be old. ${inWords(problem)}`);
      failure.hidden = false;
    } finally {
      reading -= 1;
    }
  }

  const look = () => document.visibilityState === "visible" && reading === 0 && reload();
  addEventListener("focus", look);
  document.addEventListener("visibilitychange", look);
  const timer = setInterval(look, EVERY);
  const unlisten = onState((state) => state === "live" && look()); // the connection is there again

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
