// All devices, live.

import {empty, open} from "../dialog.js";
import {AGE_INTERVAL, damagedTag, foreign, h, setText, timeTag} from "../dom.js";
import {EXAMPLES} from "../filter.js";
import {filterField} from "../filter_field.js";
import {jobStrip} from "../jobs.js";
import * as live from "../live.js";
import {menuButton} from "../menu.js";
import {go, link} from "../router.js";
import {sparkline} from "../spark.js";
import {table} from "../table.js";
import {onlineTag} from "./device/parts.js";
import {callMethod, register, remove, rename, renewToken, these, update} from "./devices/acts.js";
import {savedFilters} from "./devices/saved.js";
import {changeTags, editTags, tagChips} from "./devices/tags.js";

const firmware = (device) => {
  const found = device.shadow.state.reported?.ota;
  return live.isObject(found) ? found : {};
};

// A device may report any value; other values than text count as no text.
const word = (value) => (typeof value === "string" ? value : "");

const isUncommitted = (device) => firmware(device).is_committed === false;

const COLUMNS = [
  {key: "online", title: "Status", width: "5.6rem", phone: "5.6rem", cell: onlineTag, sort: (device) => (device.online ? 0 : 1)},
  {key: "name", title: "Name", width: "minmax(8rem, 2.2fr)", phone: "1fr", cell: nameCell, sort: (device) => device.name},
  {key: "id", title: "Id", width: "minmax(6rem, 1.3fr)", hide: "phone", cell: (device) => h("code", {}, foreign(device.id, {title: device.id})), sort: (device) => device.id},
  {key: "arch", title: "Arch", width: "4.5rem", hide: "phone", cell: (device) => text(firmware(device).arch), sort: (device) => word(firmware(device).arch)},
  {key: "version", title: "Firmware", width: "minmax(6rem, 1.2fr)", hide: "phone", cell: firmwareCell, sort: (device) => word(firmware(device).fw_version)},
  {key: "committed", title: "Committed", width: "6.6rem", hide: "phone", cell: committedCell, sort: (device) => (isUncommitted(device) ? 0 : firmware(device).is_committed === true ? 2 : 1)},
  {key: "ram", title: "Free RAM", width: "8.3rem", hide: "phone", cell: ramCell, sort: (device) => device.ram.at(-1) ?? -1},
  {key: "seen", title: "Last seen", width: "6.6rem", hide: "phone", end: true, cell: (device) => timeTag(device.last_seen), sort: (device) => device.last_seen ?? ""},
  {key: "menu", title: h("span", {class: "visually-hidden"}, "Actions"), width: "36px", phone: "36px", end: true, cell: menuCell},
];

const text = (value) => (word(value) ? foreign(value, {title: value}) : h("span", {class: "muted"}, "–"));

function nameCell(device) {
  return h("span", {class: "two-lines"},
    h("a", {href: link("device", device.id), tabindex: -1, title: device.name}, foreign(device.name || device.id)), damagedTag(device.damaged),
    h("small", {class: "only-phone"}, device.name !== device.id && [foreign(device.id), " · "], timeTag(device.last_seen)),
    Object.keys(device.tags).length > 0 && h("small", {class: "hide-phone row-chips"}, tagChips(device.tags)));
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

const STATUS = {
  all: ["All", () => true],
  online: ["Online", (device) => device.online],
  offline: ["Offline", (device) => !device.online],
  uncommitted: ["Uncommitted", isUncommitted],
};

// A person who comes back from a device finds the list as it was.
const kept = {sort: {key: "name", down: false}, top: 0};

export default function view({query}) {
  const count = h("p", {class: "muted count", role: "status"});
  const search = filterField({label: "Filter devices", placeholder: "Name, id, arch=esp32, tag=…", value: query.q ?? "", saved: () => saved.names(), onFilter: (filter) => {
    ({text: shown, matches, about} = filter);
    refilter();
  }});
  const saved = savedFilters({current: () => shown.trim(), choose: (text) => search.set(text)});
  const status = h("select", {"aria-label": "Status", onchange: refilter}, Object.entries(STATUS).map(([value, [label]]) => h("option", {value}, label)));
  status.value = query.status in STATUS ? query.status : "all";
  const list = table({
    label: "Devices",
    columns: COLUMNS,
    rowKey: (device) => device.id,
    onOpen: (device) => go(link("device", device.id)),
    selectable: true,
    onSelect: drawActions,
    sort: kept.sort,
    onSort: (sort) => { kept.sort = sort; },
    empty: h("div", {}),
  });
  const scroller = list.element.querySelector(".table");
  const nothing = list.element.querySelector(".table-empty");
  const strip = jobStrip();

  // The selection

  const chosen = () => [...list.selection].map((id) => live.devices.get(id)).filter(Boolean);
  const act = (label, run, props) => h("button", {type: "button", onclick: () => run(chosen()), ...props}, label);
  const howMany = h("b", {role: "status"});
  const one = act("Rename…", ([device]) => rename(device), {class: "hide-phone"});
  const actions = h("div", {class: "selection", role: "toolbar", "aria-label": "Selected devices", hidden: true}, howMany,
    h("button", {type: "button", class: "quiet", onclick: () => list.clearSelection()}, "Clear"),
    h("span", {class: "gap"}), one, act("Tags…", changeTags), act("Update firmware…", update), act("Call a method…", callMethod), act("Delete…", remove, {class: "bad"}));

  function drawActions(selection) {
    actions.hidden = selection.size === 0;
    one.hidden = selection.size !== 1;
    setText(howMany, `${selection.size} selected`);
  }

  // The shown devices

  let matches = null; // null until the filter has been parsed, and the server asked if that is needed
  let about = ""; // of the filter, for people
  let shown = query.q ?? ""; // the text of the filter that is applied

  function refilter() {
    const asked = {...(shown.trim() && {q: shown}), ...(status.value !== "all" && {status: status.value})};
    const address = new URLSearchParams(asked).toString();
    history.replaceState(null, "", `#/devices${address && `?${address}`}`);
    saved.draw();
    refresh();
  }

  const isFiltered = () => shown.trim() !== "" || status.value !== "all";
  const isReady = () => live.isLoaded() && matches !== null;

  function refresh() {
    const right = STATUS[status.value][1];
    const now = Date.now();
    const found = matches === null ? [] : [...live.devices.values()].filter((device) => right(device) && matches(device, now));
    list.set(found, {isPart: live.isPartial()});
    explain(found.length);
  }

  function explain(found) {
    const all = live.devices.size;
    let online = 0;
    for (const device of live.devices.values()) online += device.online;
    const words = isFiltered() ? `${found} of ${these(all)}` : `${these(all)}, ${online} online`;
    setText(count, !isReady() ? about || "Loading…" : [words, matches !== null && about, live.isPartial() && "loading more…"].filter(Boolean).join(", "));
    if (found > 0) return;
    nothing.replaceChildren(
      !isReady() ? h("p", {class: "muted"}, about || "Loading…")
        : all === 0 ? empty("No devices yet", "Register a device: you get the token that it connects with.", registerButton("Register the first device"))
          : empty("No device matches", "Try fewer letters, or another status; “?” says how to filter.", h("button", {type: "button", onclick: () => {
            status.value = "all";
            search.set("");
            search.input.focus();
          }}, "Clear the filter")));
  }

  // A new or removed device changes the rows; for other changes only the visible rows are drawn again.
  let known = live.devices.size;
  const unsubscribe = live.onDevices((ids) => {
    const size = live.devices.size;
    if (ids === null || size !== known || isFiltered() || [...ids].some((id) => !live.devices.has(id))) refresh();
    else {
      list.touch(ids);
      explain(size);
    }
    known = size;
  });
  const clock = setInterval(() => {
    if (isFiltered()) refresh(); // ages go on
    list.touch(live.devices.keys());
  }, AGE_INTERVAL);
  refresh();
  search.refresh();
  requestAnimationFrame(() => { scroller.scrollTop = kept.top; }); // once it is in the page
  scroller.addEventListener("scroll", () => { kept.top = scroller.scrollTop; }, {passive: true});

  return {
    title: "Devices",
    element: h("section", {class: "page fill", "aria-label": "Devices"},
      h("header", {class: "page-head"}, h("h1", {}, "Devices"), count, h("div", {class: "tools"}, search.element, status,
        h("button", {type: "button", class: "icon", "aria-label": "How to filter", title: "How to filter", onclick: help}, "?"), registerButton("Register"))),
      search.error.element, saved.element, strip.element, list.element, actions),
    update: (_, next) => {
      if ((next.q ?? "") !== search.input.value || (next.status ?? "all") !== status.value) {
        status.value = next.status in STATUS ? next.status : "all";
        search.set(next.q ?? "");
      }
      return true;
    },
    destroy: () => {
      unsubscribe();
      search.destroy();
      clearInterval(clock);
      strip.destroy();
    },
  };

  function help() {
    const dialog = open("How to filter", h("div", {class: "stack"},
      h("p", {}, "Words are searched in ids and names. A device is shown if all words and filters match."),
      h("dl", {class: "examples"}, EXAMPLES.map(([example, words]) => [
        h("dt", {}, h("button", {type: "button", class: "quiet code", onclick: () => {
          dialog.close();
          search.set(`${search.input.value} ${example}`.trim());
          search.input.focus();
        }}, example)), h("dd", {}, words)])),
      h("div", {class: "actions"}, h("button", {type: "button", class: "primary", onclick: () => dialog.close()}, "Done"))));
  }
}

const registerButton = (label) => h("button", {type: "button", class: "primary", onclick: register}, label);
