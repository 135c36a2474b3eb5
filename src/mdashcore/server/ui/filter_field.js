// A field for a filter: parsed by the server as it is typed, with suggestions of fields and values.

import {errorLine} from "./dialog.js";
import {fill, foreign, h, uniqueId} from "./dom.js";
import {matcher, parseFilter, valuesOf} from "./filter.js";
import * as live from "./live.js";

const TYPING_PAUSE = 120; // ms without a key before the server is asked: shorter than between words
const MAX_SUGGESTIONS = 14; // more than an update has states: beyond, a person types on
const SCANNED_DEVICES = 2000; // devices that are looked through for suggestions: a millisecond or two
const LEARNED_DEVICES = 100; // that are read for suggestions alone: one short answer
const MAX_SUGGESTED = 60; // characters of a value that is suggested

// filterField({label, value, placeholder, saved() → names, onFilter(filter)}):
// {element: input and list, input, list, error, set(text), refresh(), filter(), destroy()}
//
// onFilter is called with {text, terms, matches(device)} for each filter that is understood; after one that is not,
// `error` says why, and the last one stays. filter() is a Promise of the filter as it is written now, or of an Error.
export function filterField({label, value = "", placeholder, type = "search", saved = () => [], onFilter}) {
  const error = errorLine();
  const list = h("ul", {role: "listbox", class: "suggestions", id: uniqueId("suggestions"), "aria-label": "Suggestions", hidden: true});
  const input = h("input", {type, "aria-label": label, placeholder, value, spellcheck: "false", autocapitalize: "none", autocomplete: "off", role: "combobox", "aria-keyshortcuts": type === "search" ? "/" : null,
    "aria-expanded": "false", "aria-autocomplete": "list", "aria-controls": list.id, oninput: () => later(true), onkeydown: keys, onblur: close, onfocus: learn});
  let timer = null, controller = null;
  let asked = null; // the running request, a Promise
  let suggested = []; // [{text, shown}]
  let chosen = -1;
  let unsaid = null; // an error that is said once the suggestions are closed

  // Of a large fleet, a view without a list has no devices whose values could be suggested.
  function learn() {
    if (live.isLoaded() && !live.isWhole() && live.devices.size === 0) live.readRows({limit: LEARNED_DEVICES}).catch(() => {});
  }

  function later(typing) {
    clearTimeout(timer);
    controller?.abort();
    unsaid = null;
    if (!input.value.trim()) close();
    if (input.value.trim()) timer = setTimeout(read, TYPING_PAUSE, typing);
    else read(false);
  }

  // `explicit`: the person has asked for suggestions, also at the beginning of a term.
  async function read(typing, explicit = false) {
    clearTimeout(timer);
    timer = null;
    controller?.abort();
    const mine = controller = new AbortController();
    const text = input.value;
    try {
      asked = parseFilter(text, {typed: typing ? beforeCursor(input) : undefined, signal: mine.signal});
      const found = await asked;
      if (mine.signal.aborted) return;
      if (typing && document.activeElement === input) suggest(found.completion, explicit);
      show(text, found);
    } catch (problem) {
      if (mine.signal.aborted) return;
      if (problem.status === undefined) console.error(problem); // a bug
      wrong(problem);
    }
  }

  function show(text, found) {
    unsaid = null;
    if (found.error !== null && !list.hidden) { // it is being completed
      unsaid = new Error(found.error);
      error.clear();
      return undefined;
    }
    if (found.error !== null) return wrong(new Error(found.error));
    error.clear();
    input.removeAttribute("aria-invalid");
    return onFilter({text, terms: found.terms, matches: matcher(found.terms)});
  }

  function wrong(problem) {
    error.show(problem);
    input.setAttribute("aria-invalid", "true");
  }

  // Suggestions

  function suggest(completion, explicit) {
    const isBeginning = completion?.kind === "field" && completion.prefix === "";
    suggested = completion && (explicit || !isBeginning) ? candidates(completion, saved()).slice(0, MAX_SUGGESTIONS) : [];
    chosen = -1;
    fill(list, suggested.map(({shown}, i) => h("li", {role: "option", id: `${list.id}-${i}`, "aria-selected": "false",
      onmousedown: (event) => { // before the field loses the focus
        event.preventDefault();
        take(i);
      }}, foreign(shown))));
    list.hidden = suggested.length === 0;
    input.setAttribute("aria-expanded", String(!list.hidden));
    input.removeAttribute("aria-activedescendant");
  }

  function close() {
    suggest(null);
    if (unsaid) wrong(unsaid);
    unsaid = null;
  }

  function choose(next) {
    chosen = (next + suggested.length) % suggested.length;
    [...list.children].forEach((option, i) => option.setAttribute("aria-selected", String(i === chosen)));
    list.children[chosen].scrollIntoView({block: "nearest"});
    input.setAttribute("aria-activedescendant", list.children[chosen].id);
  }

  function take(i) {
    const {kept, text} = suggested[i];
    const rest = input.value.slice(beforeCursor(input).length);
    unsaid = null;
    input.value = kept + text + rest;
    input.setSelectionRange(kept.length + text.length, kept.length + text.length);
    close();
    read(true);
  }

  function keys(event) {
    if (event.key === "ArrowDown" && list.hidden) read(true, true);
    else if (list.hidden) return;
    else if (event.key === "ArrowDown") choose(chosen + 1);
    else if (event.key === "ArrowUp") choose(chosen < 0 ? -1 : chosen - 1);
    else if (event.key === "Escape") close();
    else if ((event.key === "Enter" || event.key === "Tab") && chosen >= 0) take(chosen);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  return {
    element: h("div", {class: "filter-field"}, input, list),
    input,
    list,
    error,
    set: (text) => {
      input.value = text;
      close();
      read(false);
    },
    refresh: () => read(false),
    filter: async () => {
      if (timer !== null) read(false);
      const found = await asked;
      if (found.error !== null) throw new Error(found.error);
      return {text: input.value, terms: found.terms};
    },
    destroy: () => {
      clearTimeout(timer);
      controller?.abort();
    },
  };
}

const beforeCursor = (input) => input.value.slice(0, input.selectionStart ?? input.value.length);

const escapedKey = (key) => key.replace(/[^A-Za-z0-9_-]/gu, "\\$&");
const escapedValue = (text) => (/^[A-Za-z0-9][A-Za-z0-9_.:+-]*$/.test(text) ? text : `"${text.replace(/["\\]/g, "\\$&")}"`);

// Returns what a completion can become: what the grammar has, and what the devices have.
function candidates({kept, prefix, kind, words, field, path}, saved) {
  const start = prefix.toLowerCase();
  const begins = (text) => text.toLowerCase().startsWith(start) && text !== prefix;
  const ended = (word) => (kind === "key" || /[.]$/.test(word) || kind === "field" && !/^(on|off)line$/.test(word) ? word : `${word} `);
  const found = words.filter((word) => word !== prefix).map((word) => ({kept, text: kind === "key" ? word : ended(word), shown: word}));
  if (kind === "saved") return saved.filter(begins).map((name) => ({kept, text: `${name} `, shown: `@${name}`}));
  if (kind === "value" && !["last_seen", "created_at", "offline"].includes(field)) found.push(...most((device) => scalars(valuesOf(field, path, device)), begins).map((text) => ({kept, text: `${escapedValue(text)} `, shown: text})));
  if (kind === "key") found.push(...most((device) => keysOf(field, path, device), begins).map((key) => ({kept, text: escapedKey(key), shown: key})));
  return found;
}

const scalars = (values) => values.filter((value) => ["string", "number", "boolean"].includes(typeof value)).map(String);

function keysOf(field, path, device) {
  const [tree] = field === "tag." ? [device.tags] : path.length ? valuesOf("shadow", path, device) : [null];
  return live.isObject(tree) ? Object.keys(tree) : [];
}

// Returns texts of devices, the most frequent first.
function most(texts, fits) {
  const counts = new Map();
  let scanned = 0;
  for (const device of live.devices.values()) {
    for (const text of texts(device)) {
      if (text.length <= MAX_SUGGESTED && fits(text)) counts.set(text, (counts.get(text) ?? 0) + 1);
    }
    if ((scanned += 1) >= SCANNED_DEVICES) break;
  }
  return [...counts].sort((a, b) => b[1] - a[1]).slice(0, MAX_SUGGESTIONS).map(([text]) => text);
}
