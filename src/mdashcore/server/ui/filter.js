// Parses the text by which people find devices: words, and the terms of the server's filters.
//
// parseFilter('hall arch=esp32 shadow.reported.on!=true'): {matches(device), words, terms}; a wrong term throws an
// Error for people; a term's `text` is in the server's form. A word is part of the id or the name. Words and values
// with spaces need quotes: name="Lamp in the hall".

import {isObject, same} from "./live.js";

const FIRMWARE = ["app", "arch", "fw_id", "fw_version"];
const FIELDS = ["id", "name", "online", ...FIRMWARE];
const SECTIONS = ["desired", "reported", "delta"];
const TOKEN = /(?:[^\s"]|"(?:[^"\\]|\\.)*"|")+/g;
const TERM = /^([^=!~]+)(=|!=|~)(.*)$/s;

export const EXAMPLES = [
  ["hall", "whose id or name has this in it"],
  ["online", "connected now; offline for the others"],
  ["arch=esp32", "built for this; so do app, fw_version and fw_id"],
  ["fw_version!=1.4", "whose firmware is another"],
  ["shadow.reported.on=true", "any place in the shadow: reported, desired or delta"],
  ["shadow.desired.mode~eco", "has this text in it, upper or lower case"],
  ['name="Lamp in the hall"', "quotes keep spaces together"],
];

export function parseFilter(text) {
  const words = [], terms = [];
  for (const token of text.match(TOKEN) ?? []) {
    const term = parseTerm(token);
    if (term) terms.push(term);
    else words.push(unquote(token).toLowerCase());
  }
  return {
    words,
    terms,
    matches: (device) => {
      if (words.length) {
        const id = device.id.toLowerCase(), name = device.name.toLowerCase();
        if (!words.every((word) => id.includes(word) || name.includes(word))) return false;
      }
      return terms.every((term) => holds(term, device));
    },
  };
}

// Returns {field, operator, value, path}, or null for a word.
function parseTerm(token) {
  if (token === "online" || token === "offline") return {text: token, field: "online", operator: "=", value: String(token === "online")};
  const [, field, operator, value] = TERM.exec(token) ?? [];
  if (field === undefined) return null;
  if (FIELDS.includes(field)) {
    if (field === "online" && (operator === "~" || !["true", "false"].includes(value))) throw new Error("online is true or false");
    if (FIRMWARE.includes(field)) return {text: written(field, operator, value), field: "shadow", operator, value, path: ["reported", "ota", field]};
    return {text: field + operator + unquote(value), field, operator, value: field === "online" ? value : unquote(value)};
  }
  const [head, ...path] = [...field.matchAll(/(?:^|\.)((?:\\.|[^.\\])*)/g)].map(([, part]) => part.replace(/\\(.)/g, "$1"));
  if (head !== "shadow") return null; // ids may contain "=" and "~"
  if (!path.length || path.includes("") || !SECTIONS.includes(path[0])) {
    throw new Error(`${field} is no place in a shadow: it begins with shadow.reported., shadow.desired. or shadow.delta.`);
  }
  return {text: written(field, operator, value), field: "shadow", operator, value, path};
}

// A value that is compared as JSON needs quotes to be text.
const written = (field, operator, value) => field + operator + (operator === "~" ? unquote(value) : value);

function unquote(text) {
  return /^".*"$/s.test(text) && text.length > 1 ? text.slice(1, -1).replace(/\\(.)/g, "$1") : text;
}

function holds({field, operator, value, path}, device) {
  const found = field === "shadow" ? dig(device.shadow.state, path) : device[field];
  if (operator === "~") return typeof found === "string" && found.toLowerCase().includes(unquote(value).toLowerCase());
  return equal(field, found, value) === (operator === "=");
}

function dig(state, path) {
  let found = state;
  for (const key of path) found = isObject(found) && Object.hasOwn(found, key) ? found[key] : null;
  return found;
}

function equal(field, found, value) {
  if (field === "id") return value.split(",").includes(found);
  if (found === value) return true;
  if (field === "name") return false;
  try {
    const scalar = JSON.parse(value);
    return (scalar === null || typeof scalar !== "object") && same(scalar, found);
  } catch {
    return false;
  }
}
