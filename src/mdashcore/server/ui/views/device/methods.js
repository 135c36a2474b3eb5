// The methods that a device lists with RPC.List: they say what its tabs can do.
//
// A device is asked once for each of its connections, because another firmware has other methods. What it has listed
// before holds until it answers. A device that was not asked, or that lists none, may have any.

import {call} from "../../api.js";

const KEPT_LISTS = 20; // devices whose list is kept: those between which a person switches
const LIST_TIMEOUT = 5; // s: some firmware does not answer at all if it lacks a method, and the views wait for it

const NO_METHOD = new Set([404, -32601]); // the codes of devices for an unknown method

// Whether a device has answered a call that it lacks the method.
export const isUnknownMethod = (error) => error.status === 422 && NO_METHOD.has(error.code);

const lists = new Map(); // key of a device → {since, methods: sorted names, or null if it lists none; undefined: not known, asking: a Promise}

const keyOf = (device) => `${device.created_at} ${device.id}`;

// Whether a device is known to lack all of these methods.
export function lacks(device, names) {
  const methods = lists.get(keyOf(device))?.methods;
  return Array.isArray(methods) && !names.some((name) => methods.includes(name));
}

// Returns the names, or null if the device lists none. Throws an ApiError if it does not answer; the next call asks again.
export async function methodsOf(device) {
  const key = keyOf(device), {since} = device;
  const known = lists.get(key);
  if (known?.since === since) return known.asking;
  const mine = {since, methods: known?.methods, asking: read(device.id)};
  lists.delete(key); // moves to the end of the order
  lists.set(key, mine);
  if (lists.size > KEPT_LISTS) lists.delete(lists.keys().next().value);
  try {
    mine.methods = await mine.asking;
  } catch (error) {
    mine.since = NaN;
    throw error;
  }
  return mine.methods;
}

async function read(id) {
  try {
    const found = await call(id, "RPC.List", undefined, {timeout: LIST_TIMEOUT});
    const names = Array.isArray(found) ? found.filter((name) => typeof name === "string").sort() : [];
    return names.length ? names : null;
  } catch (error) {
    if (isUnknownMethod(error)) return null;
    throw error;
  }
}
