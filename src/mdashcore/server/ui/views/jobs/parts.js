// The look of a job: its state, and its values in words.

import {foreign, h} from "../../dom.js";

const JOB_STATES_SHOWN = {
  RUNNING: ["Running", "busy"],
  CANCELING: ["Canceling", "warn"],
  COMPLETED: ["Completed", "good"],
  CANCELED: ["Canceled", ""],
};

export const JOB_ENDS = ["COMPLETED", "CANCELED"];

export const JOB_OUTCOMES = ["changed", "unchanged", "failed", "pending"];

export function jobTag(state) {
  const [words, kind] = JOB_STATES_SHOWN[state] ?? [state, ""];
  return h("span", {class: `tag ${kind}`}, words);
}

const VALUE_LENGTH = 80; // characters of a value in a table

// A value as JSON; a sign in the place of one that is missing.
export function valueText(value) {
  if (value === null) return h("span", {class: "muted"}, "none");
  const text = JSON.stringify(value);
  return h("code", {}, foreign(text.length > VALUE_LENGTH ? `${text.slice(0, VALUE_LENGTH)}…` : text, {title: text.slice(0, 1000)}));
}

// {a: {b: 1}, c: null} as "a.b = 1, c removed"
export function patchText(patch) {
  const found = [];
  const collect = (value, path) => {
    if (value !== null && typeof value === "object" && !Array.isArray(value) && Object.keys(value).length) {
      for (const [key, inner] of Object.entries(value)) collect(inner, [...path, key]);
    } else found.push(value === null ? `${path.join(".")} removed` : `${path.join(".")} = ${JSON.stringify(value)}`);
  };
  collect(patch, []);
  return found.join(", ");
}
