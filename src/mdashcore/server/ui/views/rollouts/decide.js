// What a person decides about a rollout that has failures: to resume it, or to try them again.

import {post} from "../../api.js";
import {ask} from "../../dialog.js";
import {h, uniqueId} from "../../dom.js";
import {devices, failuresList} from "./parts.js";

// Resumes a rollout that has failures, after a question. A Promise of the rollout, or of false.
export function resume(path, rollout) {
  const {cause, phase, phases, to_forgive: failures} = rollout;
  const isNeeded = cause !== "request"; // else the failures may also count on
  const id = uniqueId("forgive");
  const forgive = h("input", {type: "checkbox", id, required: isNeeded});
  const next = phases[phase + 1];
  return ask({
    title: "Resume in spite of the failures?",
    body: [h("div", {class: "stack"}, failuresList(rollout),
      h("p", {}, cause === "success" && next ? `Phase ${phase + 2} begins: ${devices(next.devices)} more get the image.`
        : "The devices that have not begun get the image. It pauses again if too many of those fail as well."),
      h("div", {class: "check-line"}, forgive, h("label", {for: id}, `Forgive ${failures === 1 ? "this failure" : `these ${failures} failures`}`, !isNeeded && ": otherwise they count on")))],
    action: "Resume",
    danger: true,
    onConfirm: () => post(`${path}/resume`, forgive.checked ? {forgive: failures} : {}),
  });
}

// Gives the failed devices another try, after a question. A Promise of the rollout, or of false.
export function retry(path, rollout) {
  const {failed} = rollout.counts;
  return ask({
    title: `Retry ${devices(failed)}?`,
    body: [h("div", {class: "stack"}, failuresList(rollout), h("p", {}, `${failed === 1 ? "It gets" : "They get"} the image again. ${failed === 1 ? "Its failure counts" : "Their failures count"} no longer, unless ${failed === 1 ? "it fails" : "they fail"} again.`))],
    action: `Retry ${devices(failed)}`,
    danger: true,
    onConfirm: () => post(`${path}/retry`),
  });
}
