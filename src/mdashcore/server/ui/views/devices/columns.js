// The columns of the list of devices.

import {damagedTag, foreign, h, timeTag} from "../../dom.js";
import * as live from "../../live.js";
import {menuButton} from "../../menu.js";
import {link} from "../../router.js";
import {sparkline} from "../../spark.js";
import {onlineTag} from "../device/parts.js";
import {remove, rename, renewToken} from "./acts.js";
import {editTags, tagChips} from "./tags.js";

const firmware = (device) => {
  const found = device.shadow.state.reported?.ota;
  return live.isObject(found) ? found : {};
};

// A device may report any value; other values than text count as no text.
const word = (value) => (typeof value === "string" ? value : "");

export const isUncommitted = (device) => firmware(device).is_committed === false;

export const COLUMNS = [
  {key: "online", title: "Status", width: "5.6rem", phone: "5.6rem", cell: onlineTag, sort: (device) => (device.online ? 0 : 1)},
  {key: "name", title: "Name", width: "minmax(8rem, 2.2fr)", phone: "1fr", cell: nameCell, sort: (device) => device.name},
  {key: "id", title: "Id", width: "minmax(6rem, 1.3fr)", hide: "phone", cell: (device) => h("code", {}, foreign(device.id, {title: device.id})), sort: (device) => device.id},
  {key: "arch", title: "Arch", width: "4.5rem", hide: "phone", cell: (device) => text(firmware(device).arch), sort: (device) => word(firmware(device).arch)},
  {key: "version", title: "Firmware", width: "minmax(6rem, 1.2fr)", hide: "phone", cell: firmwareCell, sort: (device) => word(firmware(device).fw_version)},
  {key: "committed", title: "Committed", width: "7.6rem", hide: "phone", cell: committedCell, sort: (device) => (isUncommitted(device) ? 0 : firmware(device).is_committed === true ? 2 : 1)},
  {key: "ram", title: "Free RAM", width: "8.3rem", hide: "phone", cell: ramCell, sort: (device) => device.ram.at(-1) ?? -1},
  {key: "seen", title: "Last seen", width: "6.6rem", hide: "phone", end: true, cell: seenCell, sort: (device) => (device.online ? "~" : device.last_seen ?? "")},
  {key: "menu", title: h("span", {class: "visually-hidden"}, "Actions"), width: "36px", phone: "36px", end: true, cell: menuCell},
];

const text = (value) => (word(value) ? foreign(value, {title: value}) : h("span", {class: "muted"}, "–"));

function nameCell(device) {
  return h("span", {class: "two-lines"},
    h("a", {href: link("device", device.id), tabindex: -1, title: device.name}, foreign(device.name || device.id)), damagedTag(device.damaged),
    h("small", {class: "only-phone"}, device.name !== device.id && [foreign(device.id), " · "], device.online && "since ", timeTag(device.online ? device.since : device.last_seen)),
    Object.keys(device.tags).length > 0 && h("small", {class: "hide-phone row-chips"}, tagChips(device.tags)));
}

// A device that is connected is seen now: how long it has been connected says more.
function seenCell(device) {
  return device.online ? h("span", {class: "two-lines"}, "now", h("small", {}, "since ", timeTag(device.since))) : timeTag(device.last_seen);
}

function firmwareCell(device) {
  const {fw_version: version, fw_id: build} = firmware(device);
  return h("span", {class: "two-lines"}, text(version), typeof build === "string" && h("small", {}, foreign(build, {title: build})));
}

function committedCell(device) {
  const {is_committed: committed} = firmware(device);
  if (committed === false) return h("span", {class: "tag warn"}, "uncommitted");
  return committed === true ? "yes" : h("span", {class: "muted"}, "–");
}

function ramCell(device) {
  const free = device.ram.at(-1);
  if (free === undefined) return h("span", {class: "muted"}, "–");
  const words = `${Math.round(free / 1024)} KiB`;
  return h("span", {class: "ram"}, device.ram.length > 1 && sparkline(device.ram, {label: `Free RAM, now ${words}`, width: 60}), h("span", {}, words));
}

function menuCell(device) {
  return menuButton(`Actions for ${device.name || device.id}`, () => [
    {label: "Rename…", run: () => rename(device)},
    {label: "Tags…", run: () => editTags(device)},
    {label: "New token…", run: () => renewToken(device)},
    {label: "Delete…", run: () => remove([device]), danger: true},
  ], {tabindex: -1});
}
