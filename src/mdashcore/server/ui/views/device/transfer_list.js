// The list of running transfers: {element, destroy()}.

import {progress} from "../../dialog.js";
import {fill, foreign, h, setText} from "../../dom.js";
import {forget, onTransfers, transfersOf} from "./transfers.js";

const SIGNS = {waiting: "…", running: "↻", done: "✓", failed: "✗", stopped: "■"};

export function transferList(user, id) {
  const rows = new Map(); // transfer → its row
  const list = h("ul", {class: "transfers"});
  const element = h("section", {class: "card stack tight", "aria-label": "Transfers"}, h("h2", {}, "Transfers"), list);

  function rowOf(one) {
    const bar = progress(`Progress of ${one.label}`);
    const sign = h("span", {"aria-hidden": "true", class: "sign"}), words = h("span", {class: "words", role: "status"});
    const button = h("button", {type: "button", class: "quiet", onclick: () => {
      if (one.state === "waiting" || one.state === "running") return one.stop();
      forget(id, one);
      return list.querySelector("button")?.focus();
    }});
    const row = {element: h("li", {}, sign, h("span", {class: "what"}, foreign(one.label)), bar.element, words, button), draw};

    function draw() {
      const busy = one.state === "waiting" || one.state === "running";
      row.element.className = one.state;
      setText(sign, SIGNS[one.state]);
      bar.element.hidden = !busy;
      bar.set(one.state === "waiting" ? 0 : one.fraction, one.state === "waiting" ? "waits" : one.words);
      setText(words, busy ? "" : one.words || (one.state === "done" ? "Done." : ""));
      setText(button, busy ? "Stop" : "Dismiss");
      button.setAttribute("aria-label", `${busy ? "Stop" : "Dismiss"} ${one.label}`);
    }

    return row;
  }

  function draw() {
    const all = transfersOf(user, id);
    for (const one of all) {
      if (!rows.has(one)) rows.set(one, rowOf(one));
      rows.get(one).draw();
    }
    for (const [one] of rows) if (!all.includes(one)) rows.delete(one);
    const wanted = all.map((one) => rows.get(one).element);
    if (wanted.length !== list.children.length || wanted.some((row, i) => row !== list.children[i])) fill(list, wanted);
    element.hidden = all.length === 0;
  }

  draw();
  return {element, destroy: onTransfers(id, draw)};
}
