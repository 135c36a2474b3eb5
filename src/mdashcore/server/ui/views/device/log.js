// The log of a device, live and stored.

import {LOG_END, post} from "../../api.js";
import {copyButton, empty, errorLine, progress} from "../../dialog.js";
import {clockTag, foreign, h, longText, setText} from "../../dom.js";
import {TYPING_PAUSE, servedText} from "../../log_filter.js";
import {logText, summary, weight} from "../../notes.js";
import {pauseButton, stream} from "../../stream.js";

const READ_PAGE = 1000; // notifications in one read of a download: the server gives no more
const MAX_LINES = 50_000; // lines in one download: some megabytes

export default function tab(device) {
  const {id} = device;
  const kind = h("select", {"aria-label": "Show", onchange: refilter}, h("option", {value: "log"}, "Log lines"), h("option", {value: "all"}, "All that happens"));
  const search = h("input", {type: "search", placeholder: "Text", "aria-label": "Filter the log", oninput: refilterSoon, spellcheck: "false", autocapitalize: "none"});
  const state = h("p", {class: "muted count", role: "status"});
  const error = errorLine();
  const bar = progress("Download");
  bar.element.hidden = true;
  const saved = h("p", {class: "muted", role: "status", hidden: true});
  let downloading = null;
  const download = h("button", {type: "button", onclick: () => (downloading ? downloading.abort() : save())}, "Download");
  const copy = copyButton(() => shown.shown().map((note) => `${new Date(note.time * 1000).toISOString()} ${textOf(note, kind.value === "all")}`).join("\n"));
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
    const text = kind.value === "log" && servedText([words]); // of all that happens, the page shows more words than the server has
    return {
      query: {id, ...(kind.value === "log" && {name: "rpc.out.Log"}), ...(text && {text})},
      accept: (note) => words === "" || textOf(note, kind.value === "all").toLowerCase().includes(words),
    };
  }

  let typing = 0;
  function refilter() {
    clearTimeout(typing);
    const next = wanted();
    shown.setQuery(next.query, next.accept);
  }

  function refilterSoon() {
    clearTimeout(typing);
    typing = setTimeout(refilter, TYPING_PAUSE);
  }

  // Saves the stored log with the present choice and filter.
  async function save() {
    const {query, accept} = wanted();
    const all = kind.value === "all";
    const {signal} = (downloading = new AbortController());
    error.clear();
    saved.hidden = true;
    setText(download, "Stop");
    bar.set(null);
    bar.element.hidden = false;
    try {
      const {lines, count, isCut} = await readBack({query: {id, ...(query.name && {name: query.name})}, accept, signal, onProgress: bar.set}, (note) => `${new Date(note.time * 1000).toISOString()} ${textOf(note, all)}\n`);
      const words = isCut ? `Only the newest ${inFigures(count)} entries: there are older ones.` : `${inFigures(count)} ${count === 1 ? "entry" : "entries"} saved.`;
      offer(`${id}.log`, new Blob([isCut ? `${words}\n` : "", ...lines], {type: "text/plain"}));
      saved.hidden = false;
      setText(saved, words);
    } catch (problem) {
      if (!signal.aborted) error.show(problem);
    } finally {
      downloading = null;
      bar.element.hidden = true;
      setText(download, "Download");
    }
  }

  return {
    element: h("section", {class: "stack", "aria-label": "Log"},
      h("header", {class: "page-head flat"}, h("h2", {}, "Log"), state, h("div", {class: "tools"}, search, kind, pause.button, copy, download)),
      error.element, bar.element, saved, shown.element),
    destroy: () => {
      clearTimeout(typing);
      downloading?.abort();
      shown.destroy();
    },
  };
}

// Reads from the newest backwards, `MAX_LINES` lines at most; new lines do not make it longer. Each page is a blob, which
// need not stay in memory.
async function readBack({query, accept, signal, onProgress}, write) {
  const ask = (body) => post("/logs", body, {signal});
  const first = (await ask({limit: 1}))[0]?.offset ?? 0; // of the whole stored log, as the end of the progress
  const lines = [];
  let count = 0, before = LOG_END, end = null;
  for (;;) {
    const page = await ask({...query, before, limit: READ_PAGE});
    const found = page.filter(accept);
    const kept = found.slice(Math.max(0, found.length - (MAX_LINES - count)));
    lines.unshift(new Blob(kept.map(write)));
    count += kept.length;
    const isCut = kept.length < found.length;
    if (isCut || page.length < READ_PAGE) return {lines, count, isCut};
    before = page[0].offset;
    end ??= page.at(-1).offset + 1;
    onProgress((end - before) / (end - Math.min(first, before)), `${inFigures(count)} entries`);
  }
}

const inFigures = (count) => count.toLocaleString("en-GB");

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
