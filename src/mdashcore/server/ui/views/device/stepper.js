// The way of an update in five steps: which of them are done, which one runs, and at which one it ended.

import {LOG_END, post} from "../../api.js";
import {fill, h} from "../../dom.js";
import {UPDATE_STATES, isEnd, label} from "./state_picture.js";

// The state of each step, its name, and its name once it is done.
const STEPS = [
  ["QUEUED", "Wait for the device"],
  ["TRANSFERRING", "Transfer"],
  ["VERIFYING", "Verify"],
  ["REBOOTING", "Restart"],
  ["UNCOMMITTED", "Commit"],
];

const READ_NOTES = 20; // stored notifications that are looked through for the last state before the end, or the progress in it

const STEP_SIGNS = {done: "✓", stopped: "✗"};
const STEP_WORDS = {done: "done", present: "now", stopped: "ended here", todo: "not yet"};

// stepper(): {element, set(update)}; `update` is null without one. `reached` of it is the last state before its end; null
// if it is not known.
export function stepper() {
  const element = h("ol", {class: "steps"});
  let drawn = null;

  function set(update) {
    const state = update?.state ?? null;
    const kinds = kindsOf(state, update?.reached ?? null);
    const key = `${state} ${kinds}`;
    element.hidden = state === null;
    if (key === drawn) return; // a screen reader keeps its place
    drawn = key;
    if (state === null) return;
    element.setAttribute("aria-label", `Steps of the update. Now: ${label(state)}, ${UPDATE_STATES[state]?.words ?? ""}.`);
    fill(element, STEPS.map(([, name], i) => h("li", {class: `step ${kinds[i]}`, "aria-current": kinds[i] === "present" ? "step" : null},
      h("span", {class: "step-sign", "aria-hidden": "true"}, STEP_SIGNS[kinds[i]] ?? i + 1), h("span", {class: "step-name"}, name),
      h("span", {class: "visually-hidden"}, `: ${STEP_WORDS[kinds[i]]}`))));
  }

  return {element, set};
}

// Returns the kind of each step: "done", "present", "stopped" or "todo".
function kindsOf(state, reached) {
  if (state === "COMMITTED") return STEPS.map(() => "done");
  const at = STEPS.findIndex(([step]) => step === (isEnd(state) ? reached : state));
  return STEPS.map((_, i) => (i < at ? "done" : i > at ? "todo" : isEnd(state) ? "stopped" : "present"));
}

// Returns the state in which an update was before its end, by the stored notifications; null if they do not have it.
export async function stateBeforeEnd({id}, deviceId, options) {
  const notes = await post("/logs", {before: LOG_END, limit: READ_NOTES, id: deviceId, name: "ota.*"}, options);
  const states = notes.filter(({data}) => data?.id === id).map(({name, data}) => (name === "ota.progress" ? "TRANSFERRING" : data.state));
  return states.findLast((state) => state && !isEnd(state)) ?? null;
}
