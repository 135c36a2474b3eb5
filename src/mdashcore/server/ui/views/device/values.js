// The numbers that a device reports, plotted over a time that a person chooses: as the server has stored them, then live.
//
// The time is in the address (`?range=hour`, `?from=…&to=…`), the plots of each device are kept in this browser.

import {ROOT, devicePath, get} from "../../api.js";
import {chart} from "../../chart.js";
import {errorLine} from "../../dialog.js";
import {foreign, h, setText} from "../../dom.js";
import {keep, recall} from "../../kept.js";
import * as live from "../../live.js";
import {link} from "../../router.js";
import {at, formatPath, keyOf, leaves} from "../../tree.js";
import {both, onZone, short} from "../../zone.js";
import {unitOf} from "./units.js";

const AT_FIRST = 4; // plots shown without a choice: a screen
const MAX_PLOTS = 12; // plots at the same time: one request has all of them
const MAX_PATHS = 300; // remembered paths: more than a person chooses from; a device can make up new ones without end
const MAX_KEYS_TEXT = 500; // characters of a path that the server takes
const TITLE_LENGTH = 60; // characters of a path in a plot's title
const MAX_PLOT_POINTS = 1000; // of a plot, and about its pixels
const MAX_LIVE = 500; // values that came since the last read, of a plot: then all is read anew
const DRAW_PAUSE = 200; // ms between two drawings: a device may report a hundred times a second
const READ_INTERVAL = 60_000; // ms between two reads of a time that ends now
const MOVE_INTERVAL = 10_000; // ms between two drawings without a new value: the time goes on

const RANGES = [["15m", "Last 15 minutes", 900], ["hour", "Last hour", 3600], ["6h", "Last 6 hours", 21_600], ["day", "Last 24 hours", 86_400],
  ["week", "Last 7 days", 604_800], ["all", "All that is stored", null]];
const DEFAULT_RANGE = "hour";

const RAM_KEY = keyOf(["stats", "ram_free"]);
const STATE_SECTIONS = new Set(["ota"]); // numbers in it are states, not measurements

const numbers = (reported) => leaves(reported).filter(([path, value]) => typeof value === "number" && !STATE_SECTIONS.has(path[0])
  && !path.includes("") && path.join().length < MAX_KEYS_TEXT / 2).map(([path]) => path);

const title = (path) => {
  if (keyOf(path) === RAM_KEY) return "Free RAM";
  const text = formatPath(path);
  return text.length > TITLE_LENGTH ? `${text.slice(0, TITLE_LENGTH)}…` : text;
};

// A place as the server reads it.
const placeOf = (path) => ["reported", ...path].map((key) => key.replace(/[\\.]/g, "\\$&")).join(".");

export function values(device, {session, query = {}} = {}) {
  const user = session?.user ?? "";
  const {id} = device;
  const plots = new Map(); // keyOf(path) → {path, made, box, points, live: […]}
  const known = new Map(); // keyOf(path) → path, of all numbers
  let pinned = recall(user, "plots", id); // the paths that a person has chosen for this device, or undefined
  let range = RANGES.some(([key]) => key === query.range) ? query.range : DEFAULT_RANGE;
  let fixed = fixedOf(query); // {from, to} that a person has zoomed to, or null
  let read = null; // {from, to, step, gaps, at: performance.now(), complete, readFrom} of the last answer
  let changes = []; // of presence, since the last answer
  let zooms = []; // what was shown before each zoom
  let controller = null;
  let retry = 0; // the timer of the next try
  const grid = h("div", {class: "plots"});
  const none = h("p", {class: "muted"});
  const said = h("p", {class: "muted plots-time", role: "status"});
  const error = errorLine();
  const again = h("button", {type: "button", hidden: true, onclick: load}, "Try again");
  const more = h("select", {"aria-label": "Plot another value", onchange: () => {
    const path = known.get(more.value);
    more.value = "";
    if (!path) return;
    add(path);
    pin();
    load();
  }});
  const time = h("select", {"aria-label": "Time", onchange: () => {
    range = time.value;
    fixed = null;
    zooms = [];
    go();
  }}, RANGES.map(([key, label]) => h("option", {value: key}, label)), h("option", {value: "fixed", hidden: true}, "As zoomed"));
  const out = h("button", {type: "button", hidden: true, onclick: zoomOut}, "Zoom out");
  const unpin = h("button", {type: "button", class: "quiet", hidden: true, onclick: () => {
    pinned = undefined;
    keep(user, "plots", id, undefined);
    for (const key of [...plots.keys()]) drop(key);
    offer();
    load();
  }}, "Default plots");
  const csv = h("a", {class: "button quiet", download: `${id}.csv`}, "CSV");
  const element = h("section", {class: "values", "aria-label": "Values"},
    h("header", {class: "section-head"}, h("h2", {}, "Values"), h("div", {class: "tools"}, time, out, more, unpin, csv)), said, error.element, again, none, grid);

  // The time

  function fixedOf({from, to}) {
    const [start, end] = [Number(from), Number(to)];
    return start > 0 && end > start ? {from: start, to: end} : null;
  }

  const now = () => (read ? read.now + (performance.now() - read.at) / 1000 : Date.now() / 1000); // by the server's clock

  function shownTime() {
    if (fixed) return fixed;
    const seconds = RANGES.find(([key]) => key === range)[2];
    const to = now();
    return {from: seconds === null ? Math.min(read?.from ?? to - 3600, to - 60) : to - seconds, to};
  }

  function zoom(from, to) {
    zooms.push({range, fixed});
    fixed = {from: Math.floor(from), to: Math.max(Math.ceil(to), Math.floor(from) + 2)};
    go();
  }

  function zoomOut() {
    ({range, fixed} = zooms.pop() ?? {range, fixed: null});
    go();
  }

  // Shows another time, which the address has from then on.
  function go() {
    const asked = fixed ? {from: fixed.from, to: fixed.to} : range === DEFAULT_RANGE ? {} : {range};
    const text = new URLSearchParams(asked).toString();
    history.replaceState(null, "", `${link("device", id, "overview")}${text && `?${text}`}`);
    load();
  }

  // The plots

  function add(path) {
    const key = keyOf(path);
    if (plots.has(key) || plots.size >= MAX_PLOTS) return;
    const made = chart({label: foreign(title(path)), name: title(path), ...unitOf(path), onZoom: zoom, onOut: zoomOut});
    const close = h("button", {type: "button", class: "quiet icon", "aria-label": `Close the plot of ${title(path)}`, onclick: () => {
      drop(key);
      pin();
      choices();
      more.focus();
    }}, "×");
    const box = h("div", {class: "card plot-card"}, made.element, close);
    plots.set(key, {path, made, box, points: [], live: []});
    grid.append(box);
    choices();
  }

  function drop(key) {
    const {made, box} = plots.get(key);
    plots.delete(key);
    made.destroy();
    box.remove();
  }

  function pin() {
    pinned = [...plots.values()].map(({path}) => path);
    keep(user, "plots", id, pinned);
  }

  function learn(reported) {
    for (const path of numbers(reported)) if (known.size < MAX_PATHS) known.set(keyOf(path), path);
  }

  // Chooses the plots: those that are pinned, else RAM, then the other numbers that the device reports. Returns whether there are new ones.
  function offer() {
    const before = plots.size;
    if (pinned !== undefined) {
      for (const path of pinned) if (Array.isArray(path) && path.length && path.every((key) => typeof key === "string" && key !== "")) add(path);
    } else {
      const order = [...known.values()].sort((a, b) => (keyOf(b) === RAM_KEY) - (keyOf(a) === RAM_KEY) || (a[0] === "stats") - (b[0] === "stats"));
      for (const path of order) {
        if (plots.size >= AT_FIRST) break;
        if (path[0] !== "stats" || keyOf(path) === RAM_KEY) add(path);
      }
    }
    choices();
    return plots.size > before;
  }

  function choices() {
    const rest = [...known].filter(([key]) => !plots.has(key));
    more.hidden = rest.length === 0 || plots.size >= MAX_PLOTS;
    none.hidden = known.size > 0 || plots.size > 0;
    unpin.hidden = pinned === undefined;
    time.hidden = csv.hidden = plots.size === 0;
    setText(none, "The device has not reported a number yet. As soon as it does, it is plotted here.");
    const wanted = ["", ...rest.map(([key]) => key)];
    if (wanted.join() === [...more.options].map(({value}) => value).join()) return;
    more.replaceChildren(h("option", {value: ""}, "Plot another value…"), ...rest.map(([key, path]) => h("option", {value: key}, title(path))));
  }

  // Reading

  function asked() {
    const {from, to} = shownTime();
    return {path: [...plots.values()].map(({path}) => placeOf(path)), ...((fixed || range !== "all") && {from}), ...(fixed && {to}), points: pointsOf(grid)};
  }

  async function load() {
    controller?.abort();
    clearTimeout(retry);
    again.hidden = true;
    drawFrame();
    if (plots.size === 0) return;
    const mine = (controller = new AbortController());
    const wanted = [...plots.values()];
    const query = asked();
    try {
      const found = await get(devicePath(id, "series"), query, {signal: mine.signal});
      error.clear();
      read = {...found, now: fixed ? now() : found.to, at: performance.now()};
      changes = changes.filter(({time: when}) => when > found.to);
      for (const [i, plot] of wanted.entries()) {
        plot.points = found.series[i].points;
        plot.live = fixed ? [] : plot.live.filter(({time: when}) => when > found.to);
      }
      draw();
    } catch (problem) {
      if (mine.signal.aborted) return;
      if (problem.status === 429) { // too many lists of the account at the moment
        retry = setTimeout(load, 1000 * (problem.retryAfter ?? 1));
        return;
      }
      if (problem.status === undefined) console.error(problem); // a bug
      error.show(problem);
      again.hidden = false;
    }
  }

  function drawFrame() {
    time.value = fixed ? "fixed" : range;
    time.querySelector("[value=fixed]").hidden = !fixed;
    out.hidden = !fixed;
    const {path, ...rest} = asked();
    csv.href = `${ROOT}/api/v2${devicePath(id, "series")}?${new URLSearchParams([...path.map((each) => ["path", each]), ...Object.entries(rest), ["format", "csv"]])}`;
  }

  function draw() {
    const {from, to} = shownTime();
    const reported = (live.devices.get(id) ?? device).shadow.state.reported ?? {};
    const gaps = gapsUntil(to);
    for (const {path, made, points, live: came} of plots.values()) {
      const value = at(reported, path);
      const shown = [...points, ...came].filter(({time: when}) => when >= from - (read?.step ?? 0) && when <= to);
      made.set({from, to, step: read?.step ?? 1, points: shown, gaps, now: typeof value === "number" ? value : null, isRead: read !== null});
    }
    const words = [`${short(from)} to ${fixed ? short(to) : "now"}`, read && !read.complete && `values before ${short(read.read_from)} were not read: that would take too long`,
      read?.complete && read.read_from > from + 60 && `the log goes back to ${short(read.read_from)}`].filter(Boolean).join("; ");
    setText(said, plots.size ? words : "");
    said.title = `${both(from)} to ${both(to)}`;
  }

  // The gaps of the last answer, with those since then: one that ended with the answer goes on until the device is online.
  function gapsUntil(to) {
    const found = (read?.gaps ?? []).map((gap) => ({...gap}));
    let open = found.at(-1)?.to === read?.to ? found.at(-1) : null;
    for (const {name, time: when} of changes) {
      if (name === "online" && open) {
        open.to = when;
        open = null;
      } else if (name === "offline" && !open) {
        found.push(open = {from: when, to: when});
      }
    }
    if (open && !fixed) open.to = to;
    return found.filter(({from}) => from < to);
  }

  let drawing = 0;
  const drawSoon = () => {
    drawing ||= setTimeout(() => {
      drawing = 0;
      draw();
    }, DRAW_PAUSE);
  };

  const stops = [
    live.onNotification(({time: when, data}) => {
      const reported = data?.shadow?.state?.reported;
      if (!reported) return;
      learn(reported);
      if (offer()) load();
      for (const plot of plots.values()) {
        const value = at(reported, plot.path);
        if (typeof value === "number") plot.live.push({time: when, min: value, avg: value, max: value});
      }
      if (!fixed && [...plots.values()].some(({live: came}) => came.length > MAX_LIVE)) load();
      drawSoon();
    }, {id, name: "updated"}),
    live.onNotification(({name, time: when}) => {
      if (name !== "online" && name !== "offline") return;
      changes.push({name, time: when});
      drawSoon();
    }, {id}),
    live.onState((state) => state === "live" && load()),
    onZone(draw),
  ];
  const timers = [setInterval(() => !fixed && !document.hidden && load(), READ_INTERVAL), setInterval(() => !fixed && draw(), MOVE_INTERVAL)];

  learn(device.shadow.state.reported ?? {});
  offer();
  load();
  draw();
  return {
    element,
    destroy: () => {
      controller?.abort();
      clearTimeout(drawing);
      clearTimeout(retry);
      timers.forEach(clearInterval);
      for (const stop of stops) stop();
      for (const key of [...plots.keys()]) drop(key);
    },
  };
}

// As many points as a plot has pixels; before the grid is on the page, those of half a screen.
const pointsOf = (grid) => Math.min(MAX_PLOT_POINTS, Math.max(100, Math.round(grid.firstElementChild?.clientWidth || innerWidth / 2)));
