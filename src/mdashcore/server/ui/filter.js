// Applies filters of devices. The server parses them: the page knows how terms compare, and not how they are written.

import {get} from "./api.js";
import {needsShadow} from "./light.js";
import {isObject, same} from "./merge.js";

export const EXAMPLES = [
  ["hall", "whose id or name has this in it"],
  ["online", "connected now; offline for the others"],
  ["arch=esp32|esp8266", "built for one of these; so do app, fw_version and fw_id"],
  ["fw_version<1.4", "whose firmware is older; also <=, >, >= and !="],
  ["tag.site=berlin", "whose tag has this value; tag=indoor asks whether it has the tag"],
  ["last_seen>1h", "silent for an hour or longer; so do online, offline and created_at"],
  ["shadow.reported.temperature>22", "any place in the shadow: reported, desired or delta"],
  ["shadow.desired.mode~eco", "has this text in it, upper or lower case"],
  ["update=FAILED", "whose newest update is in this state; update<1d asks how long it has been"],
  ["presence_changes>=6", "has connected and disconnected so often in the last 24 hours"],
  ["tag.site=*", "has such a tag at all; so with any field"],
  ["!arch=esp32", "not: for any term"],
  ['name="Lamp in the hall"', "quotes keep spaces together, and signs such as | < >"],
];

// parseFilter("hall arch=esp32", {typed, signal}): {terms, completion}. `typed` is the text before the cursor, for the
// completion. A filter that is not understood has `error`, in words for people, and no terms.
export async function parseFilter(text, {typed, signal} = {}) {
  if (!text.trim() && typed === undefined) return {terms: [], error: null, completion: null};
  return get("/filter-terms", {text, typed}, {signal});
}

// matcher(terms): a function (device, now in ms) that tells whether all of them hold. It is false for a light device if a
// term reads what that lacks.
export function matcher(terms) {
  const tests = terms.map(compiled);
  const isBlind = needsShadow(terms); // to light devices
  return (device, now = Date.now()) => !(isBlind && device.light) && tests.every((test) => test(device, now));
}

function compiled(term) {
  const test = term.seconds === undefined ? valueTest(term) : ageTest(term);
  return term.negated ? (device, now) => !test(device, now) : test;
}

const ORDERS = {"<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b};

function ageTest({field, operator, seconds}) {
  const holds = ORDERS[operator];
  return (device, now) => {
    const then = momentOf(field, device, now);
    return then !== null && holds(Math.max(0, (now - then) / 1000), seconds);
  };
}

// Returns ms, or null.
function momentOf(field, device, now) {
  if (field === "last_seen" && device.online) return now;
  if ((field === "online" && !device.online) || (field === "offline" && device.online)) return null;
  const text = field === "online" || field === "offline" ? device.since : device[field];
  return text === null || text === undefined ? null : Date.parse(text);
}

function valueTest({field, path, operator, values}) {
  if (operator === "*") return (device) => valuesOf(field, path, device).some((value) => value !== null);
  const fits = values.map((value) => fit(operator, value));
  return (device) => valuesOf(field, path, device).some((found) => fits.some((fitting) => fitting(found)));
}

// Returns what a device has for a field: several values for the names of tags, else one; null for a missing one.
export function valuesOf(field, path, device) {
  if (field === "shadow") return [dig(device.shadow.state, path)];
  if (field === "tag.") return [dig(device.tags, path)];
  if (field === "tag") return Object.keys(device.tags);
  if (field === "text") return [device.id, device.name];
  return [device[field] ?? null];
}

function dig(tree, path) {
  let found = tree;
  for (const key of path) found = isObject(found) && Object.hasOwn(found, key) ? found[key] : null;
  return found;
}

function fit(operator, value) {
  if (operator === "=") return (found) => found === value.text || ("scalar" in value && same(value.scalar, found));
  if (operator === "~") {
    const part = folded(value.text);
    return (found) => typeof found === "string" && folded(found).includes(part);
  }
  const holds = ORDERS[operator];
  return (found) => (typeof found === "string" ? holds(naturalOrder(found, value.text), 0)
    : typeof found === "number" && typeof value.scalar === "number" && holds(found, value.scalar));
}

const folded = (text) => text.toUpperCase().toLowerCase(); // "ß" as "ss"

// Compares texts, with digits as numbers: "1.9" is before "1.10".
function naturalOrder(a, b) {
  const runs = [a, b].map((text) => text.match(/[0-9]+|[^0-9]+/g) ?? []);
  for (let i = 0; i < Math.max(runs[0].length, runs[1].length); i += 1) {
    const [one, other] = [runs[0][i], runs[1][i]];
    if (one === undefined || other === undefined) return one === undefined ? -1 : 1;
    const order = runOrder(one, other);
    if (order) return order;
  }
  return 0;
}

function runOrder(one, other) {
  const [isOne, isOther] = [one, other].map((run) => run[0] >= "0" && run[0] <= "9");
  if (isOne !== isOther) return isOne ? -1 : 1;
  if (!isOne) return textOrder(one, other);
  const [first, second] = [one, other].map((digits) => digits.replace(/^0+/, ""));
  return first.length - second.length || textOrder(first, second);
}

// By code points, as the server does.
function textOrder(a, b) {
  const [one, other] = [[...a], [...b]];
  for (let i = 0; i < Math.min(one.length, other.length); i += 1) {
    const order = one[i].codePointAt(0) - other[i].codePointAt(0);
    if (order) return order;
  }
  return one.length - other.length;
}
