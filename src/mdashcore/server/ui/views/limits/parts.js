// Limits for people: their names, amounts, and how much of each is used.

import {bytes, h} from "../../dom.js";

const LIMIT_NAMES = {
  devices: "Devices",
  keys: "Keys",
  sessions: "Sessions",
  rollouts: "Rollouts",
  open_rollouts: "Open rollouts",
  firmware: "Firmware library",
  jobs: "Jobs",
  open_jobs: "Open jobs",
  image_bytes: "Images",
  uploads: "Uploads at a time",
  downloads: "Downloads at a time",
  subscribers: "Notification sockets",
  lists: "Lists at a time",
};

const NEARLY_FULL = 0.9; // of a limit: from here on the page marks it

const number = new Intl.NumberFormat("en");

// Returns the name of a limit for people; the server's name if this page does not know the limit.
export const nameOf = (name) => LIMIT_NAMES[name] ?? name;

export const amount = (name, count) => (name.endsWith("_bytes") ? bytes(count) : number.format(count));

// Shows the use of a limit: "3", and a tag if it is nearly used up.
export function share(limit, use) {
  const words = amount(limit.name, use);
  if (use < NEARLY_FULL * limit.limit || use === 0) return words;
  const tag = use >= limit.limit ? "all" : `${Math.floor(100 * use / limit.limit)} %`;
  return [words, h("span", {class: "tag warn", title: `of ${amount(limit.name, limit.limit)}`}, tag)];
}
