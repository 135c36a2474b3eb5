// Light devices: those that were read as rows of a list, of which the page has no shadow but the build in it, and the
// places that the list shows.

import {getPage} from "./api.js";
import {changeAt, keysOfPlace, setAt} from "./places.js";

const LARGEST_PAGE = 1000; // devices in one answer: the server gives no more

const BUILD_FIELDS = ["app", "arch", "fw_id", "fw_version", "is_committed"];
const MEMBERS = ["id", "name", "online", "since", "last_seen", "created_at", "tags", "delta_limit", ...BUILD_FIELDS];

export const LIGHT_FIELDS = MEMBERS.join();

// Returns the device of a row with these members.
export function lightDevice(row) {
  const ota = {};
  const state = {reported: {ota}};
  const device = {...row, shared_with: [], light: true, places: [], shadow: {state, metadata: {}, version: 0, timestamp: 0}};
  for (const name of BUILD_FIELDS) {
    if (row[name] !== null) ota[name] = row[name];
    delete device[name];
  }
  for (const name of Object.keys(row)) {
    if (!name.startsWith("shadow.")) continue;
    const keys = keysOfPlace(name);
    device.places.push(keys);
    if (row[name] !== null) setAt(state, keys, row[name]);
    delete device[name];
  }
  return device;
}

// Follows a change of the shadow at the places that a light device has.
export function followPlaces({places, shadow: {state}}, change) {
  for (const keys of places) {
    const value = changeAt(change, keys);
    if (value !== undefined) setAt(state, keys, value);
  }
}

// Whether terms read a place in the shadow that light devices lack.
export const needsShadow = (terms) => terms.some(({field, path}) => field === "shadow" && !isOfBuild(path));

// Whether terms read what only the server's summary of the account has: no device of the page has it.
export const needsSummary = (terms) => terms.some(({field}) => SUMMARY_FIELDS.includes(field));

const SUMMARY_FIELDS = ["update", "presence_changes", "damaged"];

const isOfBuild = ([section, part, name, ...more]) => section === "reported" && part === "ota" && BUILD_FIELDS.includes(name) && more.length === 0;

// Returns the members of a request that select devices: by the terms that all of them match, if there are any such terms;
// without terms, every device.
export function selectionOf(devices, filter) {
  if (filter === undefined) return {devices: devices.map(({id}) => id)};
  return filter.length ? {filter} : {all: true};
}

// countDevices(["online"]): the number of devices that match.
export const countDevices = async (filter, options) => (await getPage("/devices", {filter, limit: 1, fields: "id", count: 1}, options)).total;

// findDevices(["online"]): {id, name, online} of each device that matches, by id.
export async function findDevices(filter, options) {
  const found = [];
  for (let query = {filter, limit: LARGEST_PAGE, fields: "id,name,online"}; query; ) {
    const page = await getPage("/devices", query, options);
    found.push(...page.value);
    query = page.next;
  }
  return found;
}
