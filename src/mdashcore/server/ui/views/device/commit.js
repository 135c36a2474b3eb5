// The running firmware that is not committed: how long it may stay, and the two choices.

import {call, devicePath, get} from "../../api.js";
import {ask, errorLine, act, toast} from "../../dialog.js";
import {fill, foreign, h, setText} from "../../dom.js";
import * as live from "../../live.js";
import {duration} from "./parts.js";

const DRAW_INTERVAL = 1000; // ms between two drawings of the time left

export const firmware = (device) => device.shadow.state.reported?.ota ?? {};

const STATE_STARTING = 3; // the device's state "taken, about to restart": the uncommitted firmware does not run yet

// Whether the running firmware may be rolled back.
export const onTrial = (device) => firmware(device).is_committed === false && firmware(device).status !== STATE_STARTING;

// {element, update(device), unsaid(whether), destroy()}: hidden while the firmware is committed. `unsaid`: an update
// counts as uncommitted because the device does not report it.
export function commitBanner(device) {
  let present = device;
  let ends = null; // ms by this browser's clock when the device rolls back by itself; null if unknown
  let auto = false; // whether the server commits it
  let unsaid = false;
  let asked = null; // the build for which the device was asked
  let timer = null;
  const words = h("p", {});
  const left = h("p", {class: "time-left"});
  const error = errorLine();
  const commit = h("button", {type: "button", class: "primary", onclick: doCommit}, "Commit");
  const back = h("button", {type: "button", onclick: doRollBack}, "Roll back");
  const element = h("section", {class: "banner commit-banner", "aria-label": "Uncommitted firmware", hidden: true},
    h("div", {}, words, left), h("div", {class: "actions"}, back, commit), error.element);

  function doCommit() {
    return act(commit, error, async () => {
      await call(device.id, "OTA.Commit");
      toast("Committed: the firmware stays.");
      await live.refresh(device.id);
    });
  }

  async function doRollBack() {
    const {fw_version: version} = firmware(present);
    const done = await ask({
      title: "Roll back to the firmware before?",
      lost: `The device restarts with the firmware that it had before. ${version ? `Version ${version} is` : "The new one is"} gone from it, and has to be sent again to be tried again.`,
      action: "Roll back",
      danger: true,
      onConfirm: () => call(device.id, "OTA.Revert").then(() => true),
    });
    if (done) toast("The device rolls back and restarts.");
  }

  async function askWhen(build) {
    asked = build;
    ends = null;
    auto = false;
    try {
      const {commit_seconds_left: seconds, commit, state} = await get(devicePath(device.id, "ota"));
      if (asked !== build) return;
      auto = commit === "auto" && state === "UNCOMMITTED";
      if (typeof seconds === "number") ends = performance.now() + 1000 * seconds;
    } catch (problem) {
      if (problem.status === undefined) console.error(problem);
      // without an answer the time is unknown, and the page says so
    }
    tick();
  }

  function tick() {
    const seconds = ends === null ? null : (ends - performance.now()) / 1000;
    setText(left, auto ? "The server commits it by itself when the device has stayed healthy for long enough." : seconds === null ? "Unless it is committed, the next restart brings the old one back."
      : unsaid ? seconds > 0 ? `If it still runs in ${duration(seconds)}, it counts as committed.` : "The time to commit is over: the server asks the device for its build."
      : seconds > 0 ? `Rolls back by itself in ${duration(seconds)}.` : "The time to commit is over: it rolls back.");
  }

  function update(now) {
    present = now;
    const {fw_version: version, fw_id: build} = firmware(now);
    element.hidden = !onTrial(now) && !unsaid;
    if (element.hidden) {
      asked = null;
      clearInterval(timer);
      timer = null;
      error.clear();
      return;
    }
    timer ??= setInterval(tick, DRAW_INTERVAL);
    const key = `${build} ${now.online} ${unsaid}`;
    if (asked !== key) askWhen(key);
    const name = foreign(String(version ?? "a version without a name"));
    fill(words, ...(unsaid ? [h("strong", {}, "This firmware may be on trial: "), "the device does not say whether ", name, " is committed. "]
      : [h("strong", {}, "This firmware is on trial: "), name, " is not committed. "]),
      now.online ? "Commit it if the device works as it should." : "The device is offline: it can be committed once it is back.");
    for (const button of [commit, back]) if (!button.hasAttribute("aria-busy")) button.disabled = !now.online;
  }

  update(device);
  return {
    element,
    update,
    unsaid: (whether) => {
      if (whether === unsaid) return;
      unsaid = whether;
      update(present);
    },
    destroy: () => {
      clearInterval(timer);
      asked = null;
    },
  };
}
