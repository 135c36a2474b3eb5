// Notifications in words.

import {isObject} from "./live.js";

export const KINDS = [
  // [key, label, name as POST /logs takes it (undefined: any), accept(note)]
  ["all", "Everything"],
  ["presence", "Online and offline", undefined, ({name}) => name === "online" || name === "offline"],
  ["devices", "Registered, renamed, deleted", undefined, ({name, data}) => name === "created" || name === "deleted" || (name === "updated" && data?.shadow === undefined)],
  ["trouble", "Not understood, not sent", undefined, ({name}) => name === "rejected" || name === "delta.withheld"],
  ["shadow", "Shadow", "updated", ({data}) => data?.shadow !== undefined],
  ["log", "Device logs", "rpc.out.Log"],
  ["out", "From devices", "rpc.out.*"],
  ["in", "Calls to devices", "rpc.in.*"],
  ["ota", "Firmware updates", "ota.*"],
  ["rollout", "Rollouts", "rollout.*"],
  ["job", "Jobs", "job.*"],
].map(([key, label, name, accept]) => ({key, label, name, accept: accept ?? (() => true)}));

const BAD_NAMES = /^(rejected|delta\.withheld)$|^ota\.(FAILED|REJECTED|TIMED_OUT|ROLLED_BACK)$|^rollout\.(PAUSED|ABORT)/;

// "bad", "muted" or "": how much attention it needs.
export function weight({name}) {
  if (BAD_NAMES.test(name)) return "bad";
  return name === "offline" || name === "deleted" ? "muted" : "";
}

// Describes a notification, beside its name.
export function summary({name, data}) {
  if (name === "online" || name === "offline") return `${name === "online" ? "connected" : "disconnected"}${data?.changes ? `, after ${data.changes} changes` : ""}`;
  if (name === "rejected") return `${data?.reason ?? ""}${data?.count ? `, ${data.count} times` : ""}: ${data?.data ?? ""}`;
  if (name === "delta.withheld") return `the delta has ${data?.size} bytes, the device takes ${data?.limit}: not sent`;
  if (name === "created") return `registered as ${data?.name ?? ""}`;
  if (name === "deleted") return "removed";
  if (name === "updated" && data?.name !== undefined) return `renamed to ${data.name}`;
  if (name === "updated" && data?.delta_limit !== undefined) return `limit of deltas: ${data.delta_limit === null ? "that of the platform" : data.delta_limit || "none"}`;
  if (name === "updated" && data?.shadow) return `version ${data.shadow.version}: ${isObject(data.shadow.state) ? leaves(data.shadow.state) : "all cleared"}`;
  if (name === "rpc.out.Log") return logText(data);
  if (name === "ota.progress") return `${data?.progress_percent} %`;
  if (name.startsWith("ota.") && isObject(data)) return [data.image?.version ?? data.image?.name, data.reason].filter(Boolean).join(": ");
  if (name === "rollout.progress" && isObject(data)) return `phase ${data.phase + 1}: ${counted(data.counts)}`;
  if (name === "job.progress" && isObject(data)) return counted(data.counts);
  if ((name.startsWith("rollout.") || name.startsWith("job.")) && isObject(data)) return [data.name, counted(data.counts), data.reason].filter(Boolean).join(" · ");
  return data === undefined ? "" : JSON.stringify(data);
}

// {reported: {a: {b: 1}, c: null}} as "reported a.b = 1, c removed"
function leaves(state) {
  return Object.entries(state).map(([section, value]) => {
    const found = [];
    collect(value, [], found);
    return `${section} ${found.join(", ")}`;
  }).join(" · ");
}

const MAX_LEAVES = 100; // of an update that are put into words: the rest is in its JSON

function collect(value, path, found) {
  if (found.length >= MAX_LEAVES) return;
  if (isObject(value) && Object.keys(value).length > 0) {
    for (const [key, inner] of Object.entries(value)) collect(inner, [...path, key], found);
  } else {
    found.push(value === null ? `${path.join(".")} removed`.trim() : `${path.join(".")} = ${JSON.stringify(value)}`);
  }
}

const counted = (counts) => (isObject(counts)
  ? Object.entries(counts).filter(([, number]) => number).map(([outcome, number]) => `${number} ${outcome}`).join(", ") : "");

// Returns a line of a device's log: the text of Log {data}, or the JSON of other data.
export function logText(data) {
  if (typeof data?.data === "string") return data.data.replace(/\r?\n$/, "");
  return data === undefined ? "" : JSON.stringify(data);
}
