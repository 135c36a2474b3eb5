// How limits are said: their names, amounts, and how much of one is used.

import {bytes, h} from "../../dom.js";

const NAMES = {
  devices: "Devices",
  keys: "Keys",
  sessions: "Sessions",
  rollouts: "Rollouts",
  open_rollouts: "Open rollouts",
  image_bytes: "Images",
  uploads: "Uploads at a time",
  subscribers: "Notification sockets",
  lists: "Lists at a time",
};

const NEARLY = 0.9; // of a limit: from here on it is worth a look

const number = new Intl.NumberFormat("en");

// The name of a limit for people; of one that this page does not know, as the server has it.
export const nameOf = (name) => NAMES[name] ?? name;

export const amount = (name, count) => (name.endsWith("_bytes") ? bytes(count) : number.format(count));

// How much of a limit is used: "3", and a tag where it is nearly all.
export function share(limit, use) {
  const words = amount(limit.name, use);
  if (use < NEARLY * limit.limit || use === 0) return words;
  const tag = use >= limit.limit ? "all" : `${Math.floor(100 * use / limit.limit)} %`;
  return [words, h("span", {class: "tag warn", title: `of ${amount(limit.name, limit.limit)}`}, tag)];
}
