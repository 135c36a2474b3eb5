// The presence of a device: a strip, made of the stored notifications.

import {LOG_END, LOG_PAGE, post} from "../../api.js";
import {errorLine} from "../../dialog.js";
import {fill, h, s, setText} from "../../dom.js";
import * as live from "../../live.js";
import {onZone, short} from "../../zone.js";
import {duration} from "./parts.js";

const KEPT_CHANGES = 2000; // changes kept: more than the strip has pixels
const DRAW_INTERVAL = 10_000; // ms between two drawings, so that the strip moves on
const [WIDTH, HEIGHT] = [600, 44];

const SPANS = [["hour", "Last hour", 3600], ["day", "Last 24 hours", 86_400], ["week", "Last 7 days", 7 * 86_400], ["month", "Last 30 days", 30 * 86_400]];
let chosen = null; // by the person; stays for the next device

// Returns the segments between two Unix times in seconds: [{online: true | false | null, from, to}, …]; null is
// unknown.
export function segments(changes, from, to) {
  const found = [];
  let state = null, since = from;
  const add = (until) => {
    if (until <= since) return;
    if (found.at(-1)?.online === state) found.at(-1).to = until;
    else found.push({online: state, from: since, to: until});
    since = until;
  };
  for (const {time, online} of changes) {
    if (time >= to) break;
    add(Math.max(from, time));
    state = online;
  }
  add(to);
  return found;
}

const STATE_WORDS = new Map([[true, "Online"], [false, "Offline"], [null, "Not known"]]);
const STATE_NAMES = new Map([[true, "online"], [false, "offline"], [null, "unknown"]]);

export function presenceStrip(device) {
  let changes = [];
  let ready = false;
  let shown = [];
  let active = null;
  let period = chosen ?? "day";
  const registered = new Date(device.created_at).getTime() / 1000; // before its registration nothing is known
  const controller = new AbortController();
  const error = errorLine();
  const marks = s("g", {});
  const cursor = s("rect", {class: "cursor", y: 0, height: HEIGHT, visibility: "hidden"});
  const svg = s("svg", {class: "strip", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", tabindex: 0,
    onpointermove: (event) => {
      const box = svg.getBoundingClientRect();
      const time = shown.length ? shown[0].from + ((event.clientX - box.left) / box.width) * (shown.at(-1).to - shown[0].from) : 0;
      point(shown.findIndex(({to}) => time <= to));
    },
    onpointerleave: () => point(null),
    onblur: () => point(null),
    onkeydown: (event) => {
      const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      if (!step || !shown.length) return;
      event.preventDefault();
      point(Math.max(0, Math.min(shown.length - 1, active === null ? shown.length - 1 : active + step)));
    }}, marks, cursor);
  const readout = h("output", {class: "readout"});
  const start = h("span", {}), end = h("span", {}, "now");
  const select = h("select", {"aria-label": "Period", onchange: () => {
    chosen = period = select.value;
    point(null);
    draw();
  }}, SPANS.map(([key, label]) => h("option", {value: key, selected: key === period}, label)));
  const element = h("figure", {class: "presence"},
    h("figcaption", {}, h("h2", {}, "Presence"), readout, select),
    svg, h("div", {class: "strip-scale muted", "aria-hidden": "true"}, start, h("span", {class: "strip-legend"},
      [...STATE_WORDS].map(([state, words]) => h("span", {class: `key ${STATE_NAMES.get(state)}`}, words))), end), error.element);

  function point(index) {
    active = index === -1 ? null : index;
    const segment = active === null ? null : shown[active];
    cursor.setAttribute("visibility", segment ? "visible" : "hidden");
    if (segment) {
      const [x, width] = place(segment);
      cursor.setAttribute("x", x);
      cursor.setAttribute("width", width);
    }
    setText(readout, segment ? `${STATE_WORDS.get(segment.online)} for ${duration(segment.to - segment.from)}, from ${short(segment.from)} to ${short(segment.to)}` : summary());
  }

  function place({from, to}) {
    const [first, last] = [shown[0].from, shown.at(-1).to];
    const x = ((from - first) / (last - first)) * WIDTH;
    return [x, Math.max(1, ((to - from) / (last - first)) * WIDTH)]; // an outage of seconds is visible in a month
  }

  function summary() {
    if (!ready) return error.element.hidden ? "Reading the log…" : "";
    const known = shown.filter(({online}) => online !== null);
    if (!known.length) return "The log has no entries of this time";
    const since = known[0] === shown[0] ? "" : ` since ${short(known[0].from)}`; // the log does not go back further, or the device did not exist
    const sum = (parts) => parts.reduce((total, {from, to}) => total + to - from, 0);
    if (!known.some(({online}) => online)) return `Not connected${since || " in this time"}`;
    const share = (100 * sum(known.filter(({online}) => online))) / sum(known);
    const outages = known.filter(({online}, i) => !online && i > 0).length;
    const percent = share > 99.9 && share < 100 ? "over 99.9" : share >= 10 ? Math.round(share) : share.toFixed(1);
    return `Online ${percent} % of the time${since}${outages ? `, ${outages} ${outages === 1 ? "interruption" : "interruptions"}` : ""}`;
  }

  // The shortest span that shows all that is known, a week at most.
  function fit() {
    const age = Date.now() / 1000 - (changes[0]?.time ?? 0);
    select.value = period = (SPANS.find(([, , seconds]) => age < seconds) ?? SPANS[2])[0];
  }

  function draw() {
    const seconds = SPANS.find(([key]) => key === period)[2];
    const to = Math.max(Date.now() / 1000, (changes.at(-1)?.time ?? 0) + 1);
    const from = Math.max(to - seconds, registered);
    shown = segments(changes, from, Math.max(to, from + 1));
    marks.replaceChildren(...shown.map((segment) => {
      const [x, width] = place(segment);
      const [y, height] = segment.online ? [0, HEIGHT] : segment.online === false ? [HEIGHT - 10, 10] : [HEIGHT - 2, 2];
      return s("rect", {class: STATE_NAMES.get(segment.online), x, width, y, height});
    }));
    setText(start, from === registered ? `registered ${short(from)}` : short(from));
    svg.setAttribute("aria-label", `Presence, ${SPANS.find(([key]) => key === period)[1].toLowerCase()}: ${summary()}`);
    point(active !== null && shown[active] ? active : null);
  }

  // Returns the newest ones of a name, oldest first.
  async function read(name) {
    const found = [];
    let before = LOG_END;
    while (found.length < KEPT_CHANGES) {
      const page = await post("/logs", {before, limit: LOG_PAGE, id: device.id, name}, {signal: controller.signal});
      found.unshift(...page.map(({offset, time}) => ({offset, time, online: name === "online"})));
      if (page.length < LOG_PAGE) break;
      before = page[0].offset;
    }
    return found;
  }

  // Returns the state before the first stored change, as far back as the log goes. Each change has a notification.
  function earlier([first], {offset, time}) {
    if (first?.online) return []; // not connected, or unknown
    const {online} = first ? {online: true} : (live.devices.get(device.id) ?? device);
    return [{offset, time, online}];
  }

  async function load() {
    error.clear();
    try {
      const [[oldest], ...pages] = await Promise.all([post("/logs", {limit: 1}, {signal: controller.signal}), read("online"), read("offline")]);
      const stored = pages.flat();
      const known = new Set(stored.map(({offset}) => offset));
      changes = [...stored, ...changes.filter(({offset}) => !known.has(offset))].sort((a, b) => a.offset - b.offset);
      if (oldest && changes.length <= KEPT_CHANGES) changes.unshift(...earlier(changes, oldest));
      changes = changes.slice(-KEPT_CHANGES);
      ready = true;
      if (chosen === null) fit();
      draw();
    } catch (problem) {
      if (controller.signal.aborted) return;
      error.show(problem);
      setText(readout, "");
    }
  }

  const unsubscribe = live.onNotification(({name, time, offset}) => {
    if (name !== "online" && name !== "offline") return;
    changes.push({offset, time, online: name === "online"});
    if (changes.length > KEPT_CHANGES) changes.shift();
    draw();
  }, {id: device.id});
  const unlisten = live.onState((state) => state === "live" && !error.element.hidden && load());
  const unzone = onZone(draw);
  const timer = setInterval(draw, DRAW_INTERVAL);
  draw();
  load();
  return {
    element,
    destroy: () => {
      controller.abort();
      unsubscribe();
      unlisten();
      unzone();
      clearInterval(timer);
    },
  };
}
