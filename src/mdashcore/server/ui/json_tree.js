// Shows a JSON object that changes: sections that fold, a search, and a copy of what is shown.
//
// While the object keeps its keys, only the values that differ are drawn again, so that a person can select text and
// stay in a section while a device reports.

import {copyButton} from "./dialog.js";
import {fill, foreign, h, setText} from "./dom.js";
import {isObject} from "./live.js";
import {formatPath, jsonText, keyOf, leaves, put} from "./tree.js";

const MAX_LINES = 2000; // values drawn: a shadow of 32 KiB has fewer
const OPEN_UP_TO = 60; // values up to which all sections are open at first: about two screens
const SEARCH_FROM = 8; // values from which on a search is useful
const VALUE_LENGTH = 2000; // characters of one value: more than a screen has
const KEY_LENGTH = 200; // of one key

const cut = (text, most) => (text.length > most ? `${text.slice(0, most)}… (${text.length} characters)` : text);
const keyText = (key) => cut(jsonText(key).slice(1, -1), KEY_LENGTH);

// jsonTree({label}): {element, tools, set(value, marks)}. `tools` are the search and the buttons. `marks` is a Map: it has
// a word to stand behind a value under keyOf(path).
export function jsonTree({label}) {
  let value = {};
  let marks = new Map();
  let drawn = null; // the keys that are drawn
  let all = []; // [[path, leaf], …] of `value`
  const rows = new Map(); // keyOf(path) → {row, place, tag, text, search} of a value
  let sections = []; // {element, tag, key, depth, rows}, the outer ones first
  const choices = new Map(); // keyOf(path) → whether a person has opened the section

  const count = h("span", {class: "muted", role: "status"});
  const search = h("input", {type: "search", "aria-label": `Search the ${label.toLowerCase()}`, placeholder: "Key or value", spellcheck: "false", autocapitalize: "none", oninput: filter});
  const fold = h("button", {type: "button", class: "quiet", onclick: () => {
    const open = fold.dataset.opens === "true";
    for (const {key} of sections) choices.set(key, open);
    filter();
  }});
  const copy = copyButton(() => JSON.stringify(shownValue(), null, 2));
  const tools = h("div", {class: "tools json-tools"}, count, search, fold, copy);
  const element = h("div", {class: "json-view json-tree code", tabindex: 0, role: "group", "aria-label": label});
  const nothing = h("p", {class: "json-line muted", hidden: true}, "No key and no value has this in it.");

  function draw() {
    rows.clear();
    sections = [];
    const focused = element.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
    const {children} = members(value, [], 0);
    fill(element, children, nothing, all.length > MAX_LINES && h("p", {class: "json-line muted"}, `… and ${all.length - MAX_LINES} more`));
    if (focused !== undefined) sections.find(({key}) => key === focused)?.element.firstChild.focus({preventScroll: true});
  }

  // Returns the elements of an object's members, and the rows of all values in it.
  function members(object, path, depth) {
    const children = [], inner = [];
    for (const [key, member] of Object.entries(object)) {
      if (rows.size >= MAX_LINES) break;
      const place = [...path, key];
      if (isObject(member) && Object.keys(member).length) {
        const tag = h("span", {class: "tag warn", hidden: true});
        const its = keyOf(place);
        const summary = h("summary", {class: "json-line", "data-key": its, onclick: () => { choices.set(its, !section.open); }},
          h("span", {class: "json-key"}, foreign(keyText(key))), tag);
        const section = h("details", {}, summary);
        indent(summary, depth);
        const entry = {element: section, tag, key: its, rows: []};
        sections.push(entry);
        const found = members(member, place, depth + 1);
        section.append(...found.children);
        entry.rows = found.rows;
        inner.push(...found.rows);
        children.push(section);
      } else {
        const row = line(place, depth);
        rows.set(keyOf(place), row);
        inner.push(row);
        children.push(row.row);
      }
    }
    return {children, rows: inner};
  }

  function line(path, depth) {
    const place = h("span", {}), tag = h("span", {class: "tag warn", hidden: true});
    const row = h("div", {class: "json-line"}, h("span", {class: "json-key"}, foreign(keyText(path.at(-1)))), ": ", place, tag);
    indent(row, depth);
    return {row, place, tag, text: null, name: formatPath(path).toLowerCase()};
  }

  // Puts the values into their rows.
  function paint() {
    for (const [path, leaf] of all.slice(0, MAX_LINES)) {
      const key = keyOf(path), entry = rows.get(key), text = jsonText(leaf);
      if (text !== entry.text) {
        entry.text = text;
        entry.place.className = `json-${leaf === null ? "null" : typeof leaf}`;
        fill(entry.place, foreign(cut(text, VALUE_LENGTH)));
      }
      const mark = marks.get(key);
      entry.row.classList.toggle("marked", mark !== undefined);
      entry.tag.hidden = mark === undefined;
      if (mark !== undefined) setText(entry.tag, mark);
    }
    for (const {tag, rows: inner} of sections) {
      const marked = inner.filter((entry) => !entry.tag.hidden).length;
      tag.hidden = marked === 0;
      setText(tag, `${marked} ${inner.find((entry) => !entry.tag.hidden)?.tag.textContent ?? ""}`);
    }
  }

  const words = () => search.value.trim().toLowerCase();
  const fits = ({name, text}, wanted) => name.includes(wanted) || text.toLowerCase().includes(wanted);

  function filter() {
    const wanted = words();
    let found = 0;
    for (const entry of rows.values()) {
      entry.row.hidden = !fits(entry, wanted);
      if (!entry.row.hidden) found += 1;
    }
    const isShort = all.length <= OPEN_UP_TO;
    for (const {element: section, key, rows: inner} of sections) {
      section.hidden = inner.every(({row}) => row.hidden);
      section.open = wanted !== "" || (choices.get(key) ?? isShort);
    }
    nothing.hidden = found > 0 || rows.size === 0;
    const isOpen = sections.some(({element: section}) => section.open);
    fold.hidden = sections.length === 0 || wanted !== "";
    fold.dataset.opens = String(!isOpen);
    setText(fold, isOpen ? "Fold all" : "Unfold all");
    setText(count, wanted ? `${found} of ${all.length} values` : `${all.length} ${all.length === 1 ? "value" : "values"}`);
    search.hidden = all.length < SEARCH_FROM && wanted === "";
  }

  function shownValue() {
    const wanted = words();
    if (!wanted) return value;
    return all.slice(0, MAX_LINES).filter(([path]) => fits(rows.get(keyOf(path)), wanted)).reduce((found, [path, leaf]) => put(found, path, leaf), Object.create(null));
  }

  return {
    element,
    tools,
    set: (next, marked = new Map()) => {
      value = next;
      marks = marked;
      all = leaves(value);
      const keys = JSON.stringify(all.map(([path]) => path));
      if (keys !== drawn) draw();
      drawn = keys;
      paint();
      filter();
    },
  };
}

function indent(element, depth) {
  element.style.paddingInlineStart = `${0.6 + 1.2 * Math.min(depth, 12)}rem`;
}
