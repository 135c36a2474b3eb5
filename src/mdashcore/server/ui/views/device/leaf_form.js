// A JSON object as a form of its leaves, each with a field of its type.

import {errorLine} from "../../dialog.js";
import {fill, foreign, h, setText, uniqueId} from "../../dom.js";
import {at, formatPath, keyOf, leaves, parsePath, put, remove, shortJson, shortPath} from "../../tree.js";
import {isObject, same} from "../../live.js";

const MAX_FIELDS = 500; // fields: beyond, JSON is quicker to edit
const MAX_HINTS = 100; // suggested reported paths

// leafForm({onChange(value, valid)}): {element, set(value, reported), suggest(reported), wrong(), type(wrong)}
// `wrong` is the text of invalid fields: [[key of the path, text], …]
export function leafForm({onChange}) {
  let value = {};
  let reported = {};
  const wrong = new Map(); // keyOf(path) of invalid fields → their text
  const list = h("div", {class: "leaf-list"});
  const nothing = h("p", {class: "muted"}, "No desired state yet. Add a value: the server sends it to the device immediately, or when it connects.");
  const add = adder({has: (path) => at(value, path), reported: () => reported, onAdd: (path, leaf) => {
    value = put(value, path, leaf);
    draw();
    tell();
    rowOf(path)?.querySelector("input, select, textarea")?.focus();
  }});

  const tell = () => onChange(value, wrong.size === 0);
  const rowOf = (path) => [...list.children].find((row) => row.dataset.key === keyOf(path));

  function draw() {
    wrong.clear();
    const all = leaves(value);
    nothing.hidden = all.length > 0;
    fill(list, all.slice(0, MAX_FIELDS).map(([path, leaf]) => row(path, leaf)),
      all.length > MAX_FIELDS && h("p", {class: "muted"}, `… and ${all.length - MAX_FIELDS} more: edit them as JSON.`));
  }

  function row(path, leaf) {
    const id = uniqueId("leaf"), key = keyOf(path), name = shortPath(path);
    const input = fieldFor(leaf, id, (next, text) => {
      if (next === undefined) wrong.set(key, text);
      else {
        wrong.delete(key);
        value = put(value, path, next);
      }
      tell();
    });
    return h("div", {class: "leaf", "data-key": key}, h("label", {for: id, class: "code"}, foreign(name)), input,
      h("button", {type: "button", class: "quiet icon", "aria-label": `Delete ${name}`, title: "Delete", onclick: () => {
        const row_ = rowOf(path), next = row_.nextElementSibling ?? row_.previousElementSibling;
        value = remove(value, path);
        wrong.delete(key);
        row_.remove();
        nothing.hidden = leaves(value).length > 0;
        (next?.querySelector("button") ?? add.input).focus();
        tell();
      }}, "×"));
  }

  return {
    element: h("div", {class: "stack"}, nothing, list, add.element),
    set: (next, now) => {
      value = next;
      reported = now ?? {};
      draw();
      add.suggest(reported, value);
    },
    suggest: (now) => {
      if (same(reported, now ?? {})) return;
      reported = now ?? {};
      add.suggest(reported, value);
    },
    wrong: () => [...wrong],
    type: (texts) => {
      for (const [key, text] of texts) typeInto([...list.children].find((row_) => row_.dataset.key === key), text);
    },
  };
}

// Puts text into the field of a row, as if a person had typed it.
export function typeInto(row, text) {
  const input = row?.querySelector("input, textarea");
  if (!input) return;
  input.value = text;
  input.dispatchEvent(new Event("input"));
}

// A control for a value; `onInput` gets the new value, or undefined and the text if the text is invalid.
export function fieldFor(leaf, id, onInput) {
  const mark = (input, next) => {
    input.setAttribute("aria-invalid", next === undefined);
    onInput(next, input.value);
  };
  if (typeof leaf === "boolean") {
    const input = h("input", {type: "checkbox", id, checked: leaf, onchange: () => {
      setText(word, String(input.checked));
      onInput(input.checked);
    }});
    const word = h("span", {class: "code", "aria-hidden": "true"}, String(leaf));
    return h("span", {class: "toggle"}, input, word);
  }
  if (typeof leaf === "number") {
    const input = h("input", {id, inputmode: "decimal", autocomplete: "off", value: String(leaf), class: "code number", oninput: () => mark(input, numberIn(input.value))});
    return input;
  }
  if (typeof leaf === "string" && !leaf.includes("\n")) {
    const input = h("input", {id, autocomplete: "off", spellcheck: "false", value: leaf, dir: "auto", oninput: () => mark(input, input.value)});
    return input;
  }
  const text = typeof leaf === "string";
  const input = h("textarea", {id, rows: text ? 3 : 2, class: "code", spellcheck: "false", value: text ? leaf : JSON.stringify(leaf), oninput: () =>
    mark(input, text ? input.value : jsonIn(input.value))});
  return input;
}

function numberIn(text) {
  const found = jsonIn(text.trim().replace(/^\+/, ""));
  return typeof found === "number" ? found : undefined;
}

// Returns the JSON value of a text; undefined if it is invalid. A null would delete the edited value.
function jsonIn(text) {
  try {
    return JSON.parse(text) ?? undefined;
  } catch {
    return undefined;
  }
}

// A line to add a value: its path, and its text, such as 5, true, [1, 2], or plain text.
function adder({has, reported, onAdd}) {
  const error = errorLine();
  const hints = h("datalist", {id: uniqueId("paths")});
  const input = h("input", {id: uniqueId("path"), list: hints.id, class: "code", autocomplete: "off", spellcheck: "false", autocapitalize: "none", placeholder: "light.on",
    oninput: offer, onkeydown: enter});
  const value = h("input", {id: uniqueId("value"), class: "code", autocomplete: "off", spellcheck: "false", autocapitalize: "none", placeholder: "true", onkeydown: enter});

  // Suggests the present value of a reported path.
  function offer() {
    try {
      const found = at(reported(), parsePath(input.value));
      if (found !== undefined && !isObject(found) && value.value === "") value.placeholder = shortJson(found, 40);
    } catch {
      // not a path yet
    }
  }

  function enter(event) {
    if (event.key !== "Enter" || event.ctrlKey) return;
    event.preventDefault();
    add();
  }

  function add() {
    error.clear();
    try {
      const path = parsePath(input.value);
      if (has(path) !== undefined) throw new Error(`${formatPath(path)} is there already`);
      if (value.value.trim() === "") throw new Error("a value is needed, such as true, 5 or \"text\"");
      if (value.value.trim() === "null") throw new Error("null would delete it: a value is needed");
      const read = jsonIn(value.value.trim());
      const leaf = read === undefined ? value.value.trim() : read;
      input.value = value.value = "";
      onAdd(path, leaf);
    } catch (problem) {
      error.show(problem);
      input.focus();
    }
  }

  return {
    input,
    element: h("fieldset", {class: "adder"}, h("legend", {}, "Add a value"),
      h("div", {class: "field"}, h("label", {for: input.id}, "Path"), input), h("div", {class: "field"}, h("label", {for: value.id}, "Value"), value),
      h("button", {type: "button", onclick: add}, "Add"), hints, error.element),
    suggest: (now, desired) => fill(hints, leaves(now).filter(([path]) => path[0] !== "ota" && path[0] !== "stats" && at(desired, path) === undefined)
      .slice(0, MAX_HINTS).map(([path]) => h("option", {value: formatPath(path)}))),
  };
}
