// What a device logs: live, and stored.

import {post} from "../../api.js";
import {empty, errorLine, progress} from "../../dialog.js";
import {foreign, h, setText} from "../../dom.js";
import {logText, summary, weight} from "../../notes.js";
import {clockTag, longText, pauseButton, stream} from "../../stream.js";

const PAGE = 1000; // notifications in one read of a download

export default function tab(device) {
  const {id} = device;
  const kind = h("select", {"aria-label": "Show", onchange: refilter}, h("option", {value: "log"}, "Log lines"), h("option", {value: "all"}, "All that happens"));
  const search = h("input", {type: "search", placeholder: "Text", "aria-label": "Filter the log", oninput: refilter, spellcheck: "false", autocapitalize: "none"});
  const state = h("p", {class: "muted count", role: "status"});
  const error = errorLine();
  const bar = progress("Download");
  bar.element.hidden = true;
  let downloading = null;
  const download = h("button", {type: "button", onclick: () => (downloading ? downloading.abort() : save())}, "Download");
  const pause = pauseButton(() => shown);
  const shown = stream({
    label: "Log",
    ...wanted(),
    line: (note) => draw(note, kind.value === "all"),
    nothing: empty("No log lines", "What the device logs appears here. Mongoose OS sends its log when dash.send_logs is true; another device sends the notification Log with {\"data\": \"text\"}."),
    onState: ({paused, waiting}) => {
      setText(state, paused ? `Paused, ${waiting} waiting` : "Live");
      pause.draw();
    },
  });

  function wanted() {
    const words = search.value.toLowerCase();
    return {
      query: {id, ...(kind.value === "log" && {name: "rpc.out.Log"})},
      accept: (note) => words === "" || textOf(note, kind.value === "all").toLowerCase().includes(words),
    };
  }

  function refilter() {
    const next = wanted();
    shown.setQuery(next.query, next.accept);
  }

  // The whole stored log, as what is chosen and filtered here shows it.
  async function save() {
    const {query, accept} = wanted();
    const all = kind.value === "all";
    downloading = new AbortController();
    error.clear();
    setText(download, "Stop");
    bar.element.hidden = false;
    const lines = [];
    try {
      let start = 0, end = null;
      for (;;) {
        const found = await post("/logs", {...query, start, limit: PAGE}, {signal: downloading.signal});
        end ??= (await post("/logs", {...query, before: Number.MAX_SAFE_INTEGER, limit: 1}, {signal: downloading.signal})).at(-1)?.offset ?? 0;
        for (const note of found) if (accept(note)) lines.push(`${new Date(note.time * 1000).toISOString()} ${textOf(note, all)}\n`);
        if (found.length < PAGE) break;
        start = found.at(-1).offset + 1;
        bar.set(Math.min(1, start / (end + 1)), `${lines.length} lines`);
      }
      offer(`${id}.log`, new Blob(lines, {type: "text/plain"}));
    } catch (problem) {
      if (!downloading.signal.aborted) error.show(problem);
    } finally {
      downloading = null;
      bar.element.hidden = true;
      setText(download, "Download");
    }
  }

  return {
    element: h("section", {class: "stack", "aria-label": "Log"},
      h("header", {class: "page-head flat"}, h("h2", {}, "Log"), state, h("div", {class: "tools"}, search, kind, pause.button, download)),
      error.element, bar.element, shown.element),
    destroy: () => {
      downloading?.abort();
      shown.destroy();
    },
  };
}

const textOf = (note, all) => (all ? `${note.name} ${summary(note)}` : logText(note.data));

function draw(note, all) {
  return h("div", {class: all ? "line plain mixed" : "line plain"}, clockTag(note.time),
    all && h("span", {class: ["what", weight(note)].filter(Boolean).join(" "), title: note.name}, foreign(note.name)),
    h("span", {class: "data code"}, longText(all ? summary(note) : logText(note.data))));
}

function offer(name, blob) {
  const url = URL.createObjectURL(blob);
  const anchor = h("a", {href: url, download: name});
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
