// The tab "ota" of a device: its firmware, and the progress of an update.

import {del, devicePath, get, post, upload} from "../../api.js";
import {ask, errorLine, progress} from "../../dialog.js";
import {bytes, fill, foreign, h, setText, timeTag} from "../../dom.js";
import * as live from "../../live.js";
import {short} from "../../zone.js";
import {commitBanner, firmware, onTrial} from "./commit.js";
import {imageForm} from "./image_form.js";
import {lacks} from "./methods.js";
import {duration, facts} from "./parts.js";
import {UPDATE_STATES, isEnd, label, statePicture} from "./state_picture.js";
import {stateBeforeEnd, stepper} from "./stepper.js";

const CAN_CANCEL = new Set(["QUEUED", "TRANSFERRING"]); // in later states the device has been told to use the image
const DRAW_INTERVAL = 1000; // ms between two drawings of the times

export default function ota(device) {
  let present = device;
  let online = device.online; // a copy, because devices are changed in place
  let update = null; // the newest, as the server describes it
  let past = [];
  let loaded = false;
  let closed = false;
  const error = errorLine();
  const banner = commitBanner(device);
  const steps = stepper();
  const picture = statePicture();
  const allStates = h("details", {class: "all-states"}, h("summary", {}, "All states"), picture.element);
  const running = h("div", {});
  const bar = progress("Transfer to the device");
  const state = h("p", {class: "update-state", role: "status"});
  const about = h("div", {});
  const end = h("button", {type: "button", onclick: doEnd}, "End the old transfer");
  const cancel = h("button", {type: "button", onclick: doCancel}, "Cancel the update");
  const now = h("section", {class: "card stack", "aria-label": "Update"}, h("header", {class: "section-head"}, h("h2", {}, "Update"), h("div", {class: "actions"}, end, cancel)), steps.element, state, bar.element, banner.element, error.element, about, allStates);
  const history = h("div", {});
  const form = imageForm(device, {
    send: (file, query, options) => {
      const path = `${devicePath(device.id, "ota")}?${new URLSearchParams(query)}`;
      return file === null ? post(path) : upload(path, file, options);
    },
    onDone: (made) => {
      update = made;
      draw();
      read();
      now.scrollIntoView({block: "nearest"});
    },
  });

  async function read() {
    try {
      const found = await get(devicePath(device.id, "ota"));
      past = found.history ?? [];
      if (update === null || update.id !== found.id || found.revision >= update.revision) update = {...found, reached: reachedOf(found)};
      error.clear();
      await findReached();
    } catch (problem) {
      if (problem.status === undefined) throw problem;
      if (problem.status === 404) [update, past] = [null, []];
      else error.show(problem);
    }
    loaded = true;
    if (!closed) draw();
  }

  // The last state before the end, if the page has seen it.
  const reachedOf = ({id, state: is}) => (isEnd(is) ? update?.id === id && (isEnd(update.state) ? update.reached : update.state) : null) || null;

  async function findReached() {
    const mine = update;
    if (!isEnd(mine.state) || mine.state === "COMMITTED" || mine.reached) return;
    const reached = await stateBeforeEnd(mine, device.id);
    if (update?.id === mine.id) update.reached = reached;
  }

  async function doCancel() {
    const waiting = update?.state === "QUEUED";
    await ask({
      title: "Cancel the update?",
      lost: waiting ? "The image is deleted from the server; the device keeps its firmware." : "What was sent is lost; the device keeps its firmware, and can take another update when it has given this one up.",
      action: "Cancel the update",
      danger: true,
      onConfirm: async () => {
        const found = await del(devicePath(device.id, "ota"));
        update = {...found, reached: reachedOf(found)};
        return true;
      },
    });
    await read();
  }

  async function doEnd() {
    const done = await ask({
      title: "End the old transfer?",
      lost: "The device still holds a transfer that no update continues. The server ends it (OTA.End): most devices refuse the part of an image that they have, and some restart. If the device has a whole image, it runs that.",
      action: "End the transfer",
      danger: true,
      onConfirm: () => post(devicePath(device.id, "ota", "end")).then(() => true),
    });
    if (done) await read();
  }

  function draw() {
    const is = update?.state;
    const going = update !== null && !isEnd(is);
    banner.unsaid(is === "UNCOMMITTED" && update.commit_known === false);
    now.hidden = update === null && error.element.hidden && banner.element.hidden;
    state.hidden = allStates.hidden = update === null;
    steps.set(update);
    cancel.hidden = !CAN_CANCEL.has(is);
    const waits = is === "TRANSFERRING" && update.waits_until;
    end.hidden = !waits && !(is === "FAILED" && /already in progress/i.test(update.reason));
    if (picture.state !== is) picture.set(picture.state = is ?? null);
    sendBox.hidden = going || !loaded; // nothing is sent beside an update that is not shown yet
    unable.hidden = !lacks(present, ["OTA.Begin"]);
    if (update) {
      const {image, progress_percent: percent, offset, rate, attempt, reason, changed} = update;
      state.className = `update-state ${is === "COMMITTED" ? "good" : isEnd(is) ? "bad" : ""}`;
      setText(state, `${label(is)}: ${is === "QUEUED" && !present.online ? "waits until the device is online" : waits ? `waits until the device has forgotten the transfer before, at the latest ${short(waits)}` : UPDATE_STATES[is]?.words ?? ""}.${reason && !waits ? ` ${reason.charAt(0).toUpperCase()}${reason.slice(1)}` : ""}`);
      bar.element.hidden = !(is === "TRANSFERRING" || is === "VERIFYING");
      const left = rate ? (image.size - offset) / rate : null;
      bar.set(is === "VERIFYING" ? null : percent / 100, is === "VERIFYING" ? "the device checks it" : `${percent} %, ${bytes(offset)} of ${bytes(image.size)}${rate ? `, ${bytes(Math.round(rate))}/s` : ""}${left > 1 ? `, ${duration(left)} left` : ""}`);
      fill(about, facts([
        ["Image", [foreign(image.name), " ", h("span", {class: "muted"}, bytes(image.size))]],
        ["Version", image.version && foreign(image.version)],
        ["Build", image.build_id && foreign(image.build_id)],
        ["Attempt", attempt > 1 ? `${attempt}` : null],
        ["Commit", is !== "COMMITTED" && !isEnd(is) ? (update.commit === "auto" ? "by itself" : "by hand") : null],
        ["In this state", timeTag(changed)],
      ]));
    }
    drawHistory();
  }

  function drawHistory() {
    const state_ = `${loaded} ${update !== null} ${past.map(({id}) => id)}`;
    if (history.state === state_) return; // keeps its focus and its scroll position
    history.state = state_;
    if (!past.length) {
      fill(history, h("p", {class: "muted"}, !loaded ? "Loading…" : update ? "This is the device's first update." : "The device was never updated from here. Drop a firmware above to begin."));
      return;
    }
    fill(history, h("div", {class: "scroll", tabindex: 0, role: "group", "aria-label": "Past updates"}, h("table", {class: "plain"},
      h("thead", {}, h("tr", {}, ["Ended", "Result", "Version", "Image"].map((title) => h("th", {scope: "col"}, title)))),
      h("tbody", {}, past.map(({state: end, reason, ended, version, build_id: build, name, size}) => h("tr", {}, h("td", {class: "when"}, timeTag(ended)),
        h("td", {}, h("strong", {class: end === "COMMITTED" ? "good" : end === "FAILED" || end === "TIMED_OUT" || end === "ROLLED_BACK" || end === "REJECTED" ? "bad" : null}, label(end)), reason && h("div", {class: "hint"}, foreign(reason))),
        h("td", {}, version ? foreign(version) : "–", build && h("div", {class: "hint"}, foreign(build))), h("td", {}, foreign(name), h("div", {class: "hint"}, bytes(size)))))))));
  }

  function drawFirmware(device_) {
    const {app, fw_version: version, fw_id: build, arch} = firmware(device_);
    fill(running, h("h2", {}, "Firmware"), version === undefined ? h("p", {class: "muted"}, "The device has not reported its firmware yet. It does when it connects.")
      : facts([["Version", [foreign(String(version)), onTrial(device_) && h("span", {class: "tag warn"}, "uncommitted")]], ["Build", build && foreign(String(build))],
        ["Application", app && foreign(String(app))], ["Architecture", arch && foreign(String(arch))]]));
  }

  const unable = h("p", {class: "note"}, "This device lists no ", h("code", {}, "OTA.Begin"), ": it takes no update from here.");
  const sendBox = h("section", {class: "card stack", "aria-label": "New firmware"}, h("h2", {}, "Send new firmware"), unable, form.element);
  const element = h("div", {class: "stack"}, now, h("section", {class: "card", "aria-label": "Firmware"}, running), sendBox,
    h("section", {class: "card stack", "aria-label": "History"}, h("h2", {}, "History"), history));

  const unsubscribe = live.onNotification(({name, data}) => {
    if (name === "ota.progress") {
      if (!update || update.id !== data.id) return;
      Object.assign(update, data, {state: update.state === "QUEUED" ? "TRANSFERRING" : update.state});
      return draw();
    }
    update = {...update, ...data, reached: reachedOf({...update, ...data})};
    draw();
    if (isEnd(update.state)) read(); // reads the history
    return undefined;
  }, {id: device.id, name: "ota.*"});
  const unlisten = live.onState((connection) => connection === "live" && read()); // notifications may have been missed meanwhile
  const timer = setInterval(() => update && !isEnd(update.state) && draw(), DRAW_INTERVAL);

  drawFirmware(device);
  draw();
  read();
  return {
    element,
    update: (next) => {
      const came = next.online !== online;
      present = next;
      online = next.online;
      banner.update(next);
      form.update(next);
      drawFirmware(next);
      now.hidden = update === null && error.element.hidden && banner.element.hidden;
      if (came && loaded) draw();
    },
    destroy: () => {
      closed = true;
      banner.destroy();
      unsubscribe();
      unlisten();
      clearInterval(timer);
    },
  };
}
