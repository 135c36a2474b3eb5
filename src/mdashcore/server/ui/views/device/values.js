// The numbers that a device reports, plotted live.

import {LOG_END, LOG_PAGE, post} from "../../api.js";
import {foreign, h, setText} from "../../dom.js";
import * as live from "../../live.js";
import {plot} from "../../spark.js";
import {formatPath, keyOf, leaves} from "../../tree.js";

const AT_FIRST = 4; // plots shown without a choice: a screen
const MAX_PLOTS = 12; // plots at the same time
const MAX_PATHS = 300; // remembered paths: more than a person chooses from; a device can make up new ones without end
const TITLE_LENGTH = 60; // characters of a path in a plot's title

const RAM_KEY = keyOf(["stats", "ram_free"]);
const STATE_SECTIONS = new Set(["ota"]); // numbers in it are states, not measurements

const numbers = (reported) => leaves(reported).filter(([path, value]) => typeof value === "number" && !STATE_SECTIONS.has(path[0]));

const title = (path) => {
  if (keyOf(path) === RAM_KEY) return "Free RAM";
  const text = formatPath(path);
  return text.length > TITLE_LENGTH ? `${text.slice(0, TITLE_LENGTH)}…` : text;
};

export function values(device) {
  const plots = new Map(); // keyOf(path) → {path, made, element}
  const known = new Map(); // keyOf(path) → path, of all numbers
  const closed = new Set();
  const history = new Map(); // keyOf(path) → [[ms, value], …], oldest first
  const grid = h("div", {class: "plots"});
  const none = h("p", {class: "muted"});
  const select = h("select", {"aria-label": "Plot another value", onchange: () => {
    const path = known.get(select.value);
    if (path) add(path);
    select.value = "";
  }});
  const element = h("section", {class: "values", "aria-label": "Values"}, h("header", {class: "section-head"}, h("h2", {}, "Values"), select), none, grid);
  const controller = new AbortController();

  function add(path) {
    const key = keyOf(path);
    if (plots.has(key) || plots.size >= MAX_PLOTS) return;
    const isRam = path[0] === "stats" && path[1]?.startsWith("ram");
    const made = isRam ? plot({label: foreign(title(path)), name: title(path), unit: "KiB", format: (value) => (value / 1024).toFixed(1)})
      : plot({label: foreign(title(path)), name: title(path), format: (value) => String(Number(value.toPrecision(6)))});
    made.set(history.get(key) ?? []);
    const close = h("button", {type: "button", class: "quiet icon", "aria-label": `Close the plot of ${title(path)}`, onclick: () => {
      closed.add(key);
      plots.delete(key);
      box.remove();
      choices();
      select.focus();
    }}, "×");
    const box = h("div", {class: "card plot-card"}, made.element, close);
    plots.set(key, {made});
    grid.append(box);
    choices();
  }

  function note(time, reported) {
    for (const [path, value] of numbers(reported)) {
      const key = keyOf(path);
      if (!known.has(key) && known.size >= MAX_PATHS) continue;
      known.set(key, path);
      if (!history.has(key)) history.set(key, []);
      const points = history.get(key);
      if (points.length && points.at(-1)[0] >= time) continue; // already known from the log
      points.push([time, value]);
      if (points.length > LOG_PAGE) points.shift();
      plots.get(key)?.made.set(points);
    }
  }

  // Chooses the first plots: RAM, then the other numbers that the device reports.
  function offer() {
    const order = [...known.values()].sort((a, b) => (keyOf(b) === RAM_KEY) - (keyOf(a) === RAM_KEY) || (a[0] === "stats") - (b[0] === "stats"));
    for (const path of order) {
      if (plots.size >= AT_FIRST) break;
      if (path[0] === "stats" && keyOf(path) !== RAM_KEY) continue;
      if (!closed.has(keyOf(path))) add(path);
    }
    choices();
  }

  function choices() {
    const rest = [...known].filter(([key]) => !plots.has(key));
    select.hidden = rest.length === 0 || plots.size >= MAX_PLOTS;
    none.hidden = known.size > 0;
    setText(none, "The device has not reported a number yet. As soon as it does, it is plotted here.");
    const wanted = ["", ...rest.map(([key]) => key)];
    if (wanted.join() === [...select.options].map(({value}) => value).join()) return;
    select.replaceChildren(h("option", {value: ""}, "Plot another value…"), ...rest.map(([key, path]) => h("option", {value: key}, title(path))));
  }

  // Reads the values reported before this page was opened, as far back as the device's stored updates go.
  async function readBack() {
    try {
      const notes = await post("/logs", {before: LOG_END, limit: LOG_PAGE, id: device.id, name: "updated"}, {signal: controller.signal});
      const later = new Map(history);
      history.clear();
      for (const {time, data} of notes) take(time, data);
      for (const [key, points] of later) {
        const older = history.get(key) ?? [];
        const last = older.at(-1)?.[0] ?? 0;
        history.set(key, [...older, ...points.filter(([time]) => time > last)].slice(-LOG_PAGE));
      }
      for (const [key, {made}] of plots) made.set(history.get(key) ?? []);
      offer();
    } catch (problem) {
      if (problem.status === undefined && !controller.signal.aborted) console.error(problem); // else the plots begin now
    }
  }

  function take(time, data) {
    const reported = data?.shadow?.state?.reported;
    if (reported) note(time * 1000, reported);
  }

  const unsubscribe = live.onNotification(({time, data}) => {
    take(time, data);
    offer();
  }, {id: device.id, name: "updated"});

  note(device.shadow.timestamp * 1000, device.shadow.state.reported ?? {});
  offer();
  readBack();
  return {
    element,
    destroy: () => {
      controller.abort();
      unsubscribe();
    },
  };
}
