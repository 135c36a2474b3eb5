// The columns of the list of devices.

import {damagedTag, foreign, h, timeTag} from "../../dom.js";
import * as live from "../../live.js";
import {menuButton} from "../../menu.js";
import {keysOfPlace, valueAt} from "../../places.js";
import {link} from "../../router.js";
import {sparkline} from "../../spark.js";
import {shortJson} from "../../tree.js";
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

// `fields` are what the server calls the values of a column, for CSV. Those with `optional` are shown only if they are
// chosen.
export const COLUMNS = [
  {key: "online", title: "Status", width: "5.6rem", min: 5.6, phone: "5.6rem", fields: ["online"], cell: onlineTag, sort: (device) => (device.online ? 0 : 1)},
  {key: "name", title: "Name", width: "minmax(18rem, 3fr)", min: 18, phone: "1fr", fields: ["name"], isFixed: true, cell: nameCell, sort: (device) => device.name},
  {key: "id", title: "Id", width: "minmax(7rem, 1.6fr)", min: 7, drop: 3, hide: "phone", fields: ["id"], cell: (device) => h("code", {}, foreign(device.id, {title: device.id})), sort: (device) => device.id},
  {key: "app", title: "Application", width: "minmax(7rem, 1fr)", min: 7, drop: 7, hide: "phone", fields: ["app"], cell: (device) => text(firmware(device).app), sort: (device) => word(firmware(device).app)},
  {key: "arch", title: "Arch", width: "4.5rem", min: 4.5, drop: 5, hide: "phone", fields: ["arch"], cell: (device) => text(firmware(device).arch), sort: (device) => word(firmware(device).arch)},
  {key: "version", title: "Firmware", width: "minmax(8rem, 1.2fr)", min: 8, drop: 2, hide: "phone", fields: ["fw_version", "fw_id"], cell: firmwareCell, sort: (device) => word(firmware(device).fw_version)},
  {key: "committed", title: "Committed", width: "7.6rem", min: 7.6, drop: 6, hide: "phone", fields: ["is_committed"], cell: committedCell, sort: (device) => (isUncommitted(device) ? 0 : firmware(device).is_committed === true ? 2 : 1)},
  {key: "ram", title: "Free RAM", width: "8.3rem", min: 8.3, drop: 4, hide: "phone", fields: ["shadow.reported.stats.ram_free"], cell: ramCell, sort: (device) => device.ram.at(-1) ?? -1},
  {key: "tags", title: "Tags", width: "minmax(8rem, 1.4fr)", min: 8, hide: "phone", optional: true, fields: ["tags"], cell: (device) => tagChips(device.tags)},
  {key: "created", title: "Registered", width: "7rem", min: 7, hide: "phone", optional: true, fields: ["created_at"], cell: (device) => timeTag(device.created_at), sort: (device) => device.created_at ?? ""},
  {key: "seen", title: "Last seen", width: "8.6rem", min: 8.6, drop: 1, hide: "phone", end: true, fields: ["last_seen"], cell: seenCell, sort: (device) => (device.online ? "~" : device.last_seen ?? "")},
  {key: "menu", title: h("span", {class: "visually-hidden"}, "Actions"), width: "36px", min: 2.4, phone: "36px", end: true, isFixed: true, fields: [], cell: menuCell},
];

// The column of a place in the shadow, such as "shadow.reported.temperature".
export function placeColumn(place) {
  const keys = keysOfPlace(place);
  const value = (device) => valueAt(device, keys);
  return {
    key: place, title: foreign(keys.at(-1)), hint: place, width: "minmax(7rem, 1fr)", min: 7, hide: "phone", fields: [place],
    cell: (device) => shown(value(device)), sort: (device) => sortable(value(device)),
  };
}

function shown(value) {
  if (value === null) return h("span", {class: "muted"}, "–");
  const words = typeof value === "string" ? value : shortJson(value);
  return foreign(typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(6))) : words, {title: words});
}

const sortable = (value) => (typeof value === "number" || typeof value === "string" ? value : value === null ? "" : JSON.stringify(value));

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
