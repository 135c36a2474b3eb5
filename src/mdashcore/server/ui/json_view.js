// Shows a JSON value: nested lines, with marks.

import {foreign, h} from "./dom.js";
import {isObject} from "./live.js";
import {jsonText, keyOf} from "./tree.js";

const MAX_LINES = 2000; // lines drawn: a shadow of 32 KiB has fewer, and people do not read a longer answer line by line
const VALUE_LENGTH = 2000; // characters of one value: more than a screen has
const KEY_LENGTH = 200; // of one key

const cut = (text, most) => (text.length > most ? `${text.slice(0, most)}… (${text.length} characters)` : text);

// jsonView(value, {label, marks}): `marks` is a Map from keyOf(path) to a word behind the line.
export function jsonView(value, {label, marks = new Map()} = {}) {
  const lines = [];

  function line(depth, path, ...children) {
    const mark = marks.get(keyOf(path));
    const element = h("div", {class: mark ? "json-line marked" : "json-line"}, children, mark && h("span", {class: "tag warn"}, mark));
    element.style.paddingInlineStart = `${0.6 + 1.2 * Math.min(depth, 12)}rem`;
    lines.push(element);
  }

  function walk(inner, path, depth, name) {
    if (lines.length > MAX_LINES) return;
    if (isObject(inner) && Object.keys(inner).length) {
      if (name) line(depth, path, name);
      for (const [key, member] of Object.entries(inner)) {
        walk(member, [...path, key], name ? depth + 1 : depth, [h("span", {class: "json-key"}, foreign(cut(jsonText(key).slice(1, -1), KEY_LENGTH))), ": "]);
      }
    } else {
      const kind = inner === null ? "null" : typeof inner;
      line(depth, path, name, h("span", {class: `json-${kind}`}, foreign(cut(jsonText(inner), VALUE_LENGTH))));
    }
  }

  walk(value, [], 0, null);
  if (lines.length > MAX_LINES) lines.push(h("div", {class: "json-line muted"}, "… and more"));
  return h("div", {class: "json-view code", tabindex: 0, role: "group", "aria-label": label}, lines);
}

// The same as plain text, to be copied, for the answer of a device.
export const jsonBlock = (value, label) => h("pre", {class: "json-block", tabindex: 0, role: "group", "aria-label": label}, jsonText(value, 2));
