// Places in the shadow, written as in filters: "shadow.reported.sensors.t", with a backslash before a dot in a key.

import {isObject} from "./merge.js";

const SECTIONS = new Set(["desired", "reported", "delta"]);
const PLACE = /^(?:\\.|[^.\\])+(?:\.(?:\\.|[^.\\])+)*$/s;
const MAX_PLACE = 512; // characters that the server takes

// Returns the place that a person has written, as the server writes it; the section `reported` and "shadow." may be left
// out. Throws an Error for people.
export function placeOf(text) {
  const bare = text.trim().replace(/^shadow\./, "");
  if (!PLACE.test(bare)) throw new Error("a place is written as in reported.sensors.t");
  if (/[,\s]/.test(bare)) throw new Error("a place of a column has no comma and no space in it");
  const place = `shadow.${SECTIONS.has(split(bare)[0]) && split(bare).length > 1 ? "" : "reported."}${bare}`;
  if (place.length > MAX_PLACE) throw new Error(`a place has at most ${MAX_PLACE} characters`);
  return place;
}

const split = (text) => text.match(/(?:\\.|[^.\\])+/gs).map((part) => part.replace(/\\(.)/gs, "$1"));

// Returns the keys that lead to a place, the section first.
export const keysOfPlace = (place) => split(place.replace(/^shadow\./, ""));

// Returns the place to which keys lead.
export const placeOfKeys = (keys) => `shadow.${keys.map((key) => key.replace(/[.\\]/g, "\\$&")).join(".")}`;

// Returns a device's value there, or null.
export function valueAt(device, keys) {
  return changeAt(device.shadow.state, keys) ?? null;
}

// Returns what a change of the state says about a place: a value, null if there is none any more, undefined if nothing.
export function changeAt(state, keys) {
  let found = state;
  for (const key of keys) {
    if (!isObject(found)) return null;
    if (!Object.hasOwn(found, key)) return undefined;
    found = found[key];
  }
  return found;
}

// Puts a value there into a state of a light device; null takes it out. A device may have a key such as "__proto__": keys
// are defined, because an assignment of that one sets the object's prototype.
export function setAt(state, keys, value) {
  let inner = state;
  for (const key of keys.slice(0, -1)) {
    if (!Object.hasOwn(inner, key) || !isObject(inner[key])) define(inner, key, Object.create(null));
    inner = inner[key];
  }
  if (value === null) delete inner[keys.at(-1)];
  else define(inner, keys.at(-1), value);
}

const define = (object, key, value) => Object.defineProperty(object, key, {value, writable: true, enumerable: true, configurable: true});
