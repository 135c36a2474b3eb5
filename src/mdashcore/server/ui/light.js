// Light devices: those of a large fleet, of which the page has no shadow but the build in it.

import {getPage} from "./api.js";

const BUILD_FIELDS = ["app", "arch", "fw_id", "fw_version", "is_committed"];
const MEMBERS = ["id", "name", "online", "since", "last_seen", "created_at", "tags", "delta_limit", ...BUILD_FIELDS];

export const LIGHT_PAGE = {limit: 1000, fields: MEMBERS.join()};

// Returns the device of a row with these members.
export function lightDevice(row) {
  const ota = {};
  const device = {...row, shared_with: [], light: true, shadow: {state: {reported: {ota}}, metadata: {}, version: 0, timestamp: 0}};
  for (const name of BUILD_FIELDS) {
    if (row[name] !== null) ota[name] = row[name];
    delete device[name];
  }
  return device;
}

// Whether terms read a place in the shadow that light devices lack.
export const needsShadow = (terms) => terms.some(({field, path}) => field === "shadow" && !isOfBuild(path));

const isOfBuild = ([section, part, name, ...more]) => section === "reported" && part === "ota" && BUILD_FIELDS.includes(name) && more.length === 0;

// Asks the server which devices match all terms. Returns their ids.
export async function findIds(terms, {signal} = {}) {
  const query = {filter: terms.map(({text}) => text), fields: "id", limit: 1000};
  const ids = new Set();
  for (let next = query; next; ) {
    const page = await getPage("/devices", next, {signal});
    for (const {id} of page.value) ids.add(id);
    next = page.next && {...query, after: page.next.after};
  }
  return ids;
}
