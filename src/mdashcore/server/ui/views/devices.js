// All devices, live.

import {empty, open, tellFailure} from "../dialog.js";
import {AGE_INTERVAL, h, setText} from "../dom.js";
import {EXAMPLES} from "../filter.js";
import {filterField} from "../filter_field.js";
import {jobStrip} from "../jobs.js";
import {countDevices, findDevices, needsShadow, needsSummary} from "../light.js";
import * as live from "../live.js";
import {menuButton} from "../menu.js";
import {go, link} from "../router.js";
import {table} from "../table.js";
import {callMethod, inFigures, register, remove, rename, these, update} from "./devices/acts.js";
import {isUncommitted} from "./devices/columns.js";
import {downloadDevices} from "./devices/download.js";
import {listLayout} from "./devices/layout.js";
import {savedFilters} from "./devices/saved.js";
import {servedRows} from "./devices/served_rows.js";
import {changeTags} from "./devices/tags.js";
import {setDesired} from "./jobs/set_desired.js";

const STATUS = { // label, test, and the same as terms of a filter
  all: ["All", () => true, []],
  online: ["Online", (device) => device.online, ["online"]],
  offline: ["Offline", (device) => !device.online, ["offline"]],
  uncommitted: ["Uncommitted", isUncommitted, ["shadow.reported.ota.is_committed=false"]],
};

// The sorts of the server by column: [ascending, descending].
const SERVED_SORTS = {online: ["-online", "online"], name: ["name", "-name"], id: ["id", "-id"], version: ["fw_version", "-fw_version"], seen: ["last_seen", "-last_seen"]};

const COUNT_INTERVAL = 30_000; // ms between two counts of the devices that are online, by the server: it looks at all of them

// "-last_seen" as {key: "seen", down: true}; null for no sort of the server.
function sortOf(name) {
  for (const [key, names] of Object.entries(SERVED_SORTS)) if (names.includes(name)) return {key, down: names.indexOf(name) === 1};
  return null;
}

// A person who comes back from a device finds the list as it was.
const kept = {sort: {key: "name", down: false}, top: 0, rows: 0};

export default function view({query, session}) {
  if (sortOf(query.sort)) Object.assign(kept, {sort: sortOf(query.sort), top: 0});
  const count = h("p", {class: "muted count", role: "status"});
  const search = filterField({label: "Filter devices", placeholder: "Name, id, arch=esp32, tag=…", value: query.q ?? "", saved: () => saved.names(), onFilter: (filter) => {
    ({text: shown, terms, matches} = filter);
    refilter();
  }});
  const saved = savedFilters({current: () => shown.trim(), choose: (text) => search.set(text)});
  const status = h("select", {"aria-label": "Status", onchange: refilter}, Object.entries(STATUS).map(([value, [label]]) => h("option", {value}, label)));
  status.value = query.status in STATUS ? query.status : "all";
  const layout = listLayout({user: session.user, onChange: layOut});
  const list = table({
    label: "Devices",
    columns: layout.columns(),
    rowKey: (device) => device.id,
    onOpen: (device) => go(link("device", device.id)),
    selectable: true,
    onSelect: drawActions,
    sort: kept.sort,
    onSort: (sort) => {
      kept.sort = sort;
      if (!isHere()) refresh();
    },
    onEnd: () => !isHere() && served.more(),
    empty: h("div", {}),
  });
  const scroller = list.element.querySelector(".table");
  const nothing = list.element.querySelector(".table-empty");
  const strip = jobStrip();
  const menu = menuButton("Columns and download", () => [
    {label: "Columns…", run: layout.choose},
    {label: "Download as CSV", run: download},
  ]);
  const again = h("button", {type: "button", class: "quiet", hidden: true, onclick: () => served.reload()});

  // The columns

  function layOut() {
    list.element.classList.toggle("dense", layout.isDense());
    list.setColumns(layout.columns());
    if (!isHere() && matches !== null) served.reload(); // the rows may lack the places that are shown now
  }

  const servedSort = () => SERVED_SORTS[kept.sort.key]?.[kept.sort.down ? 1 : 0] ?? "name";

  // Downloads what matches: of all devices, from the server.
  function download() {
    if (matches === null) return;
    const fields = new Set(["id", ...layout.columns().flatMap((column) => column.fields)]);
    downloadDevices({fields: [...fields], filter: servedTerms(), sort: servedSort()});
  }

  // The selection

  const chosen = () => [...list.selection].map((id) => live.devices.get(id)).filter(Boolean);
  let everything = null; // the terms that all selected devices match, of which the page knows some; null without
  let offeredFrom = Infinity; // number of selected devices from which on all that match are offered: all rows that were there
  const act = (label, run, props) => h("button", {type: "button", onclick: () => (everything ? actOnAll(run) : run(chosen())), ...props}, label);
  const howMany = h("b", {role: "status"});
  const more = h("button", {type: "button", class: "quiet", onclick: selectAll});
  const one = act("Rename…", ([device]) => rename(device), {class: "hide-phone"});
  const actions = h("div", {class: "selection", role: "toolbar", "aria-label": "Selected devices", hidden: true}, howMany, more,
    h("button", {type: "button", class: "quiet", onclick: () => list.clearSelection()}, "Clear"),
    h("span", {class: "gap"}), one, act("Tags…", changeTags), act("Set desired…", setDesired), act("Update firmware…", update), act("Call a method…", callMethod), act("Delete…", remove, {class: "bad"}));

  function drawActions(selection) {
    const isShownWhole = isHere() || served.isEnd;
    if (everything && (isShownWhole || served.devices === null || selection.size < served.devices.length)) everything = null;
    actions.hidden = selection.size === 0;
    one.hidden = selection.size !== 1;
    if (selection.size > 0 && selection.size >= (served.devices?.length ?? Infinity)) offeredFrom = selection.size;
    else if (selection.size < offeredFrom) offeredFrom = Infinity; // else more rows have come: the offer stays
    more.hidden = everything !== null || isShownWhole || served.total === null || offeredFrom === Infinity;
    setText(more, `Select all ${inFigures(served.total ?? 0)} that match`);
    setText(howMany, everything ? `All ${inFigures(served.total ?? 0)} that match are selected` : `${selection.size} selected`);
  }

  function selectAll() {
    everything = servedTerms();
    showServed();
  }

  // Acts on all devices that match, also those that were not read: the filter says which these are.
  async function actOnAll(run) {
    const filter = everything;
    if (run === update) return go(filter.length ? `#/rollouts/new?q=${encodeURIComponent(filter.join(" "))}` : "#/rollouts/new?all=1"); // so many devices are updated in phases
    actions.inert = true;
    try {
      await run(await findDevices(filter), {filter});
    } catch (problem) {
      tellFailure("Selected devices", problem);
    } finally {
      actions.inert = false;
    }
    return undefined;
  }

  // The shown devices

  let matches = null; // null until the filter has been parsed
  let terms = []; // of the filter
  let shown = query.q ?? ""; // the text of the filter that is applied

  function refilter() {
    const asked = {...(shown.trim() && {q: shown}), ...(status.value !== "all" && {status: status.value})};
    const address = new URLSearchParams(asked).toString();
    history.replaceState(null, "", `#/devices${address && `?${address}`}`);
    saved.draw();
    refresh();
  }

  // Whether the page has what it takes to sort and filter the devices. If not, the server does it.
  const isHere = () => live.isWhole() && !needsSummary(terms);

  const isFiltered = () => shown.trim() !== "" || status.value !== "all";
  const servedTerms = () => [...terms.map(({text}) => text), ...STATUS[status.value][2]];

  const served = servedRows({onChange: showServed, places: layout.places});
  let online = null; // the number of devices that are online; of such a fleet by the last count
  let countTimer = null;

  function refresh() {
    if (matches === null) return explain(null);
    if (!isHere()) {
      if (served.ask({sort: servedSort(), filter: servedTerms()}, {rows: top > 0 ? kept.rows : 0})) scroller.scrollTop = 0;
      return showServed();
    }
    served.forget();
    const right = STATUS[status.value][1];
    const now = Date.now();
    const found = [...live.devices.values()].filter((device) => right(device) && matches(device, now));
    if (everything) for (const {id} of found) list.selection.add(id);
    everything = null;
    list.set(found);
    return explain(found.length);
  }

  function showServed() {
    if (isHere()) return;
    const devices = served.devices ?? [];
    if (devices.length > 0) kept.rows = devices.length;
    if (everything) for (const {id} of devices) list.selection.add(id);
    list.set(devices, {sorted: Object.keys(SERVED_SORTS)});
    if (devices.length > 0 && top > 0) goBack();
    drawActions(list.selection);
    explain(served.devices === null ? null : served.total ?? devices.length);
    if (served.devices !== null && online === null) countOnline();
  }

  async function countOnline() {
    online = NaN; // it is being counted
    online = await countDevices(["online"]).catch(() => NaN);
    if (!isHere()) explain(served.total);
  }

  let top = kept.top; // where a person was who comes back

  function goBack() {
    scroller.scrollTop = top;
    top = 0;
  }

  // `found`: the number of devices that match; null while it is not known.
  function explain(found) {
    if (isHere()) {
      online = 0;
      for (const device of live.devices.values()) online += device.online;
    }
    const all = live.size();
    const isReady = found !== null && (all !== null || found > 0);
    const words = !isReady ? served.error || "Loading…" : isFiltered() ? `${inFigures(found)} of ${all === null ? "all" : these(all)}` : [these(all ?? found), Number.isFinite(online) && `${inFigures(online)} online`].filter(Boolean).join(", ");
    setText(count, words);
    again.hidden = isHere() || !(served.isOld || served.error);
    setText(again, served.error ? "Try again" : "Show changes");
    if (found > 0) return;
    nothing.replaceChildren(
      !isReady ? h("p", {class: "muted"}, words)
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
    if (!isHere()) return ids === null ? checkServed() : touchServed(ids);
    served.forget();
    const size = live.devices.size;
    if (ids === null || size !== known || isFiltered() || [...ids].some((id) => !live.devices.has(id))) refresh();
    else {
      list.touch(ids);
      explain(size);
    }
    known = size;
    return undefined;
  });

  // All devices were read again, or the first ones for the first time.
  function checkServed() {
    if (served.devices?.some((device) => live.devices.get(device.id) !== device)) served.reload();
    refresh();
  }

  function touchServed(ids) {
    if (served.devices === null) return;
    const gone = new Set([...ids].filter((id) => !live.devices.has(id)));
    if (served.devices.some(({id}) => gone.has(id))) {
      served.drop(gone);
      showServed();
    } else {
      list.touch(ids);
      explain(served.total);
    }
  }

  // What may change the order of served rows, or which devices match.
  const unlisten = live.onNotification(({name, data}) => {
    if (isHere()) return;
    const byHand = needsShadow(terms);
    const isPresence = name === "online" || name === "offline";
    if (isPresence) countTimer ??= setTimeout(() => {
      countTimer = null;
      if (!document.hidden && !isHere()) countOnline();
    }, COUNT_INTERVAL);
    if (name === "created" || name === "deleted") served.noteChange({isNew: true, byHand});
    else if (name.startsWith("ota.") && needsSummary(terms)) served.noteChange();
    else if (isPresence ? isFiltered() || ["online", "seen"].includes(kept.sort.key)
      : name === "updated" && (isFiltered() || (kept.sort.key === "name" ? data?.name !== undefined : kept.sort.key === "version" && data?.shadow?.state?.reported?.ota !== undefined))) served.noteChange({byHand});
  });

  const clock = setInterval(() => {
    if (isFiltered() && isHere()) refresh(); // ages go on
    list.touch(live.devices.keys());
  }, AGE_INTERVAL);
  list.element.classList.toggle("dense", layout.isDense());
  refresh();
  search.refresh();
  requestAnimationFrame(() => isHere() && goBack()); // once it is in the page
  scroller.addEventListener("scroll", () => { kept.top = scroller.scrollTop; }, {passive: true});

  return {
    title: "Devices",
    element: h("section", {class: "page fill whole", "aria-label": "Devices"},
      h("header", {class: "page-head"}, h("h1", {}, "Devices"), count, again, h("div", {class: "tools"}, search.element, status,
        h("button", {type: "button", class: "icon", "aria-label": "How to filter", title: "How to filter", onclick: help}, "?"), menu, registerButton("Register"))),
      search.error.element, saved.element, strip.element, list.element, actions),
    update: (_, next) => {
      if (sortOf(next.sort)) return false; // a list in that order from its beginning
      if ((next.q ?? "") !== search.input.value || (next.status ?? "all") !== status.value) {
        status.value = next.status in STATUS ? next.status : "all";
        search.set(next.q ?? "");
      }
      return true;
    },
    destroy: () => {
      unsubscribe();
      unlisten();
      served.destroy();
      clearTimeout(countTimer);
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
