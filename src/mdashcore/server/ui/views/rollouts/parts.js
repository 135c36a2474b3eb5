// The look of a rollout: its state, and its devices by progress.

import {fill, foreign, h} from "../../dom.js";
import * as live from "../../live.js";

const ROLLOUT_STATES = {
  AWAITING_APPROVAL: ["Awaiting approval", "warn"],
  RUNNING: ["Running", "busy"],
  PAUSED: ["Paused", "warn"],
  ABORTING: ["Aborting", "warn"],
  COMPLETED: ["Completed", "good"],
  ABORTED: ["Aborted", ""],
};

export const ROLLOUT_ENDS = ["COMPLETED", "ABORTED"];

export function stateTag(state) {
  const [words, kind] = ROLLOUT_STATES[state] ?? [state, ""];
  return h("span", {class: `tag ${kind}`}, words);
}

// Marks an update of many devices at the same time; nothing for a rollout in phases.
export const kindTag = (kind) => kind === "bulk" && [" ", h("span", {class: "tag"}, "Bulk update")];

export const OUTCOMES = ["succeeded", "failed", "updating", "skipped", "pending"];

// "12 succeeded, 1 failed, 20 pending"
export function inTotal(counts, outcomes = OUTCOMES) {
  const parts = outcomes.filter((outcome) => counts[outcome] > 0).map((outcome) => `${counts[outcome]} ${outcome}`);
  return parts.join(", ") || "no devices";
}

// The same, each with its sign in the bar.
export function legend(counts, outcomes = OUTCOMES) {
  return h("p", {class: "legend muted"}, outcomes.filter((outcome) => counts[outcome] > 0).map((outcome) =>
    h("span", {}, h("span", {class: `segment ${outcome}`, "aria-hidden": "true"}), `${counts[outcome]} ${outcome}`)));
}

// A bar of segments, each as long as its number of devices; the text is its name.
export function countBar(counts, label, outcomes = OUTCOMES) {
  return h("div", {class: "count-bar", role: "img", "aria-label": `${label}: ${inTotal(counts, outcomes)}`},
    outcomes.filter((outcome) => counts[outcome] > 0).map((outcome) => {
      const segment = h("span", {class: `segment ${outcome}`});
      segment.style.flexGrow = counts[outcome];
      return segment;
    }));
}

// "6 of 6 devices failed", and why, the most frequent reason first.
export function failuresList({counts, failures}) {
  return h("div", {class: "stack tight"}, h("p", {}, h("b", {}, `${counts.failed} of ${devices(counts.failed + counts.succeeded)} failed`), "."),
    h("ul", {class: "reasons"}, failures.map(({reason, devices: number}) => h("li", {}, foreign(reason || "without a reason"), h("span", {class: "muted"}, ` ${number}×`)))));
}

export const devices = (number) => (number === 1 ? "1 device" : `${number} devices`);

export const total = (counts) => OUTCOMES.reduce((sum, outcome) => sum + counts[outcome], 0);

const shown = new WeakMap(); // element → the facts for which it was filled

// Fills an element with the result of `build` if `facts` have changed since the last time, so that a person who reads,
// selects or clicks there is not disturbed.
export function refill(element, facts, build) {
  const text = JSON.stringify(facts);
  if (shown.get(element) === text) return;
  shown.set(element, text);
  fill(element, build());
}

// The devices chosen in the list, on their way to the form; only for the user who chose them.
export const draft = {ids: null};
live.onState((state) => {
  if (state === "stopped") draft.ids = null;
});
