// Parts shared by several tabs of a device.

import {errorLine} from "../../dialog.js";
import {fill, h, timeTag} from "../../dom.js";
import {onNotification} from "../../live.js";
import {link} from "../../router.js";
import {isUnknownMethod, lacks, methodsOf} from "./methods.js";

// A file dropped beside its target must not make the browser leave the page.
for (const kind of ["dragover", "drop"]) {
  addEventListener(kind, (event) => {
    if (event.defaultPrevented || !event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "none";
  });
}

// A note that shows while the device is offline: {element, update(device)}.
export function offlineNote(words) {
  const element = h("p", {class: "note offline-note", role: "status"});
  return {
    element,
    update: ({online, last_seen: seen}) => {
      element.hidden = online;
      fill(element, !online && [h("strong", {}, "The device is offline."), " ", seen ? ["It was last heard of ", timeTag(seen), ". "] : "It has never been connected. ", words]);
    },
  };
}

// Content that has to be read from the device before it can be shown.
//
// fromDevice(device, {what, needs, offline, load(signal) → value, show(value) → node, online?(is)}):
// {element, update(device), reload(), destroy()}. It is read when the device is online, and again by `reload`. While
// the device is offline, the last content stays, with a note. A device that has none of the methods `needs` is not
// asked: a note says so.
export function fromDevice(device, {what, needs, offline, load, show, onOnline}) {
  let present = device;
  let online = device.online;
  let came = false; // connected since the last update: one update may report that a device went and came
  let loaded = false;
  let controller = null;
  const note = offlineNote(offline);
  const error = errorLine();
  const retry = h("button", {type: "button", onclick: reload}, "Try again");
  const failure = h("div", {class: "stack failure", hidden: true}, error.element, h("div", {}, retry));
  const missing = h("p", {class: "note", role: "status", hidden: true}, "This device has no ", h("code", {}, needs[0]), `, so ${what} cannot be read here. `,
    h("a", {href: link("device", device.id, "rpc")}, "Call its methods"), " instead.");
  const wait = h("p", {class: "muted waiting", role: "status"});
  const body = h("div", {class: "from-device", hidden: true});

  async function reload() {
    controller?.abort();
    const mine = controller = new AbortController();
    failure.hidden = missing.hidden = true;
    wait.hidden = false;
    fill(wait, h("span", {class: "spinner", "aria-hidden": "true"}), loaded ? `Reading ${what} again…` : `Reading ${what} from the device…`);
    try {
      await methodsOf(present).catch(() => {}); // then it is tried
      if (mine.signal.aborted) return;
      if (lacks(present, needs)) {
        missing.hidden = false;
        return;
      }
      const value = await load(mine.signal);
      if (mine.signal.aborted) return;
      const shown = show(value);
      if (body.firstChild !== shown) fill(body, shown); // moving an element drops its focus
      loaded = true;
      body.hidden = false;
    } catch (problem) {
      if (mine.signal.aborted) return;
      if (problem.status === undefined) console.error(problem); // a bug
      if (!online) return; // the note says so
      if (isUnknownMethod(problem)) {
        missing.hidden = false;
        return;
      }
      error.show(problem);
      failure.hidden = false;
    } finally {
      if (mine === controller) wait.hidden = true;
    }
  }

  const unlisten = onNotification(() => { came = true; }, {id: device.id, name: "online"});
  wait.hidden = true;
  note.update(device);
  if (online) reload();
  return {
    element: h("div", {class: "stack"}, note.element, wait, missing, failure, body),
    reload,
    isLoaded: () => loaded,
    update: (now) => {
      note.update(now);
      present = now;
      const again = now.online && came;
      came = false;
      if (now.online === online && !again) return;
      online = now.online;
      if (!online) failure.hidden = missing.hidden = true;
      else if (!loaded) reload();
      else onOnline?.();
    },
    destroy: () => {
      unlisten();
      controller?.abort();
    },
  };
}

export const onlineTag = ({online}) =>
  h("span", {class: online ? "status online" : "status offline"}, h("span", {class: "dot", "aria-hidden": "true"}), online ? "Online" : "Offline");

// A <dl> of [[term, node or text], …]; null and undefined are left out.
export const facts = (pairs) => h("dl", {class: "facts"}, pairs.filter(([, value]) => value !== null && value !== undefined).map(([term, value]) =>
  h("div", {}, h("dt", {}, term), h("dd", {}, value))));

// "4 min 05 s"
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}
