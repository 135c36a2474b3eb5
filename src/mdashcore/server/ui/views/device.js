// One device: its facts, and its tabs.
//
// A tab's default export is (device, context) => {element, update?(device), destroy?}. `update` is called with the
// device after each change; `context.session` is the session, `context.query` the part after the "?".

import {AGE_INTERVAL, damagedTag, fill, foreign, h, setText, timeTag} from "../dom.js";
import {empty, inWords, loading} from "../dialog.js";
import * as live from "../live.js";
import {menuButton} from "../menu.js";
import {go, link} from "../router.js";
import {dropDrafts} from "./device/drafts.js";
import {lacks, methodsOf} from "./device/methods.js";
import {onlineTag} from "./device/parts.js";
import {limitDeltas, remove, rename, renewToken} from "./devices/acts.js";
import {editTags, tagLinks} from "./devices/tags.js";

// The last member: methods of which a device needs one. The tab of a device that lacks them is hidden.
export const TABS = [
  ["overview", "Overview", () => import("./device/overview.js")],
  ["shadow", "Shadow", () => import("./device/shadow.js")],
  ["rpc", "RPC", () => import("./device/rpc.js")],
  ["files", "Files", () => import("./device/files.js"), ["FS.List", "FS.ListExt"]],
  ["config", "Config", () => import("./device/config.js"), ["Config.Get"]],
  ["ota", "OTA", () => import("./device/ota.js"), ["OTA.Begin"]],
  ["log", "Log", () => import("./device/log.js")],
];

export default async function view({id, tab, query, session}) {
  const known = live.devices.get(id);
  const device = known && !known.light ? known : await live.refresh(id);
  if (device === undefined) return gone(id);
  let current = null; // {name, view}
  let wanted = 0;
  let titleOf = () => device.name; // of the document
  let endLoading = () => {};

  const name = h("h1", {}, foreign(device.name));
  const status = h("span", {});
  const menu = menuButton("Actions for this device", () => {
    const now = live.devices.get(id) ?? device;
    return [
      {label: "Rename…", run: () => rename(now)},
      {label: "Tags…", run: () => editTags(now)},
      {label: "Limit of deltas…", run: () => limitDeltas(now)},
      {label: "New token…", run: () => renewToken(now)},
      {label: "Delete…", run: () => deleteIt(now), danger: true},
    ];
  });
  const details = h("p", {class: "device-line"});
  const tags = h("p", {class: "device-tags", "aria-label": "Tags", role: "group"});
  const nav = h("nav", {class: "tabs", "aria-label": "Device"}, TABS.map(([key, label]) =>
    h("a", {href: link("device", id, key), "data-tab": key}, label)));
  const panel = h("div", {class: "panel"});
  const element = h("section", {class: "page device-page"},
    h("a", {class: "back", href: "#/devices"}, "← Devices"),
    h("header", {class: "device-head"}, name, status, menu), details, tags, nav, panel);

  async function deleteIt(now) {
    if (await remove([now]) && element.isConnected) go("#/devices", {replace: true}); // a removed device has no page to come back to
  }

  // Hides the tabs for what the device cannot do, but for one that is open.
  function drawTabs() {
    const now = live.devices.get(id) ?? device;
    TABS.forEach(([, , , needs], i) => {
      nav.children[i].hidden = needs !== undefined && lacks(now, needs) && !nav.children[i].hasAttribute("aria-current");
    });
  }

  let asked = null; // the connection of the device for which its methods were asked

  function askMethods(now) {
    if (!now.online || asked === now.since) return;
    asked = now.since;
    methodsOf(now).then(drawTabs, () => {}); // then all tabs stay
  }

  function draw(now) {
    askMethods(now);
    if (element.isConnected) document.title = `${titleOf()} · mdash`; // it may be renamed
    setText(name.firstChild, now.name);
    fill(status, onlineTag(now), damagedTag(now.damaged));
    fill(details, h("code", {}, foreign(now.id)), now.online ? [" · online since ", timeTag(now.since)] : now.last_seen === null ? " · never seen" : [" · last seen ", timeTag(now.last_seen)]);
    const written = JSON.stringify(now.tags);
    if (tags.dataset.tags === written) return; // a person who works in it keeps it
    tags.dataset.tags = written;
    tags.hidden = Object.keys(now.tags).length === 0;
    fill(tags, tagLinks(now.tags));
  }

  async function open(key, search) {
    const found = TABS.find(([other]) => other === key) ?? TABS[0];
    const mine = ++wanted;
    titleOf = () => `${found[1]} of ${(live.devices.get(id) ?? device).name}`;
    shown.title = titleOf();
    for (const anchor of nav.children) {
      if (anchor.dataset.tab === found[0]) anchor.setAttribute("aria-current", "page");
      else anchor.removeAttribute("aria-current");
    }
    drawTabs();
    endLoading();
    const end = endLoading = element.isConnected ? loading() : () => {}; // before, the page shows a sign of its own
    let made;
    try {
      const module = await found[2]();
      made = await module.default(live.devices.get(id) ?? device, {session, query: search});
    } catch (error) {
      if (error.status === undefined) console.error(error); // a bug
      made = {element: empty("This did not work", inWords(error), h("button", {type: "button", onclick: () => open(key, search)}, "Try again"))};
    }
    end();
    if (mine !== wanted) return made.destroy?.();
    current?.destroy?.();
    current = made;
    fill(panel, made.element);
    requestAnimationFrame(() => nav.querySelector("[aria-current]").scrollIntoView({block: "nearest", inline: "center"})); // once it is on the page
    return undefined;
  }

  const unsubscribe = live.onDevice(id, (now) => {
    if (now === undefined) {
      if (live.isLoaded()) removed();
      return;
    }
    draw(now);
    current?.update?.(now);
  });

  function removed() {
    wanted += 1;
    endLoading();
    current?.destroy?.();
    current = null;
    dropDrafts(id);
    const {title, element: instead} = gone(id);
    document.title = `${title} · mdash`;
    fill(element, ...instead.childNodes);
  }

  const clock = setInterval(() => {
    const now = live.devices.get(id);
    if (now) draw(now);
  }, AGE_INTERVAL);

  draw(device);
  const shown = {
    title: device.name,
    element,
    update: (params, search) => {
      if (params.id !== id) return false;
      open(params.tab, search);
      return true;
    },
    destroy: () => {
      wanted += 1;
      endLoading();
      clearInterval(clock);
      unsubscribe();
      current?.destroy?.();
    },
  };
  await open(tab, query);
  return shown;
}

const gone = (id) => ({
  title: "No such device",
  element: h("section", {class: "page"}, h("div", {class: "empty"}, h("h1", {}, "No such device"),
    h("p", {}, "There is no device ", foreign(id), ". It may have been removed."), h("a", {class: "button", href: "#/devices"}, "To the devices"))),
});
