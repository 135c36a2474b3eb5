// JSON values as trees: paths, differences, and text for people.
//
// A path is a list of keys. A leaf is any value but an object with members: arrays are leaves, because merging replaces
// them as a whole. Objects made here have no prototype, so that "__proto__" is a key like any other.

import {isObject, same} from "./live.js";

// Returns [[path, value], …] of all leaves in their order.
export function leaves(value, path = []) {
  if (!isObject(value)) return path.length ? [[path, value]] : [];
  const entries = Object.entries(value);
  if (entries.length === 0) return path.length ? [[path, value]] : [];
  return entries.flatMap(([key, inner]) => leaves(inner, [...path, key]));
}

// Returns the value at a path; undefined if there is none.
export function at(value, path) {
  let found = value;
  for (const key of path) {
    if (!isObject(found) || !Object.hasOwn(found, key)) return undefined;
    found = found[key];
  }
  return found;
}

const bare = (value) => Object.assign(Object.create(null), isObject(value) ? value : {});

// Returns a copy with another value at a path. Values in the way of the path are replaced.
export function put(value, [key, ...rest], leaf) {
  const copy = bare(value);
  copy[key] = rest.length ? put(copy[key], rest, leaf) : leaf;
  return copy;
}

// Returns a copy without the value at a path, and without the objects that become empty.
export function remove(value, [key, ...rest]) {
  const copy = bare(value);
  const inner = rest.length && isObject(copy[key]) ? remove(copy[key], rest) : {};
  if (Object.keys(inner).length) copy[key] = inner;
  else delete copy[key];
  return copy;
}

// Returns the merge patch (RFC 7396) from `from` to `to`; undefined if they are the same. A null in `to` deletes.
export function patch(from, to) {
  const found = Object.create(null);
  for (const key of Object.keys(from)) if (!Object.hasOwn(to, key)) found[key] = null;
  for (const [key, value] of Object.entries(to)) {
    const had = Object.hasOwn(from, key);
    if (value === null) {
      if (had) found[key] = null;
    } else if (had && isObject(value) && isObject(from[key])) {
      const inner = patch(from[key], value);
      if (inner) found[key] = inner;
    } else if (!had || !same(value, from[key])) {
      found[key] = withoutNulls(value);
    }
  }
  return Object.keys(found).length ? found : undefined;
}

// Returns a document after its nulls have deleted their keys.
export function withoutNulls(value) {
  if (!isObject(value)) return value;
  const found = Object.create(null);
  for (const [key, inner] of Object.entries(value)) if (inner !== null) found[key] = withoutNulls(inner);
  return found;
}

// Returns [{path, before, after}, …] of the leaves that differ; undefined for a missing leaf.
export function changes(from, to) {
  const index = (value) => new Map(leaves(value).map(([path, leaf]) => [keyOf(path), {path, leaf}]));
  const before = index(from), after = index(to);
  const found = [];
  for (const [key, {path, leaf}] of before) {
    const now = after.get(key);
    if (now === undefined || !same(leaf, now.leaf)) found.push({path, before: leaf, after: now?.leaf});
  }
  for (const [key, {path, leaf}] of after) if (!before.has(key)) found.push({path, before: undefined, after: leaf});
  return found;
}

// Returns a path as a key of a Map or Set.
export const keyOf = (path) => JSON.stringify(path);

const PLAIN_KEY = /^[\p{L}\p{N}_$@:+/-]+$/u;

// ["wifi", "sta", "a.b"] as wifi.sta["a.b"].
export function formatPath(path) {
  return path.map((key, i) => (PLAIN_KEY.test(key) ? (i ? "." : "") + key : `[${jsonText(key)}]`)).join("");
}

// The same, cut to the length of a line.
export function shortPath(path, most = 120) {
  const text = formatPath(path);
  return text.length > most ? `${text.slice(0, most)}…` : text;
}

const PATH_STEP = /\[("(?:[^"\\]|\\.)*")\]|(\.?)([^.[\]"\s]+)/y;

// The inverse; throws an Error for people.
export function parsePath(text) {
  const path = [];
  PATH_STEP.lastIndex = 0;
  const source = text.trim();
  let end = 0;
  while (end < source.length) {
    const found = PATH_STEP.exec(source);
    if (!found || (found[3] !== undefined && (found[2] === ".") !== path.length > 0)) break;
    try {
      path.push(found[1] === undefined ? found[3] : JSON.parse(found[1]));
    } catch {
      break;
    }
    end = PATH_STEP.lastIndex;
  }
  if (!path.length) throw new Error("a path is needed, such as light.on");
  if (end < source.length) throw new Error(`this is no path; write keys with dots between, or ["in quotes"]`);
  return path;
}

// Characters that reverse the direction of text, or are invisible: in JSON they can be written as escapes.
const UNSEEN_CHARACTERS = /[\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

// JSON without hidden characters.
export function jsonText(value, indent) {
  const text = JSON.stringify(value, null, indent) ?? "";
  return text.replace(UNSEEN_CHARACTERS, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

// The same, cut to the length of a line in a table.
export function shortJson(value, most = 200) {
  const text = jsonText(value);
  return text.length > most ? `${text.slice(0, most)}… (${text.length} characters)` : text;
}
