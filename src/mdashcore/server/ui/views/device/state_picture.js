// The states of an update, drawn.

import {fill, h, s} from "../../dom.js";

// Every state, with its meaning and the states that can follow.
export const UPDATE_STATES = {
  QUEUED: {words: "waits", to: ["TRANSFERRING", "CANCELED", "SUPERSEDED", "REJECTED", "ALREADY_INSTALLED", "TIMED_OUT"]},
  TRANSFERRING: {words: "is being sent", to: ["VERIFYING", "CANCELED", "SUPERSEDED", "REJECTED", "ALREADY_INSTALLED", "TIMED_OUT", "FAILED"]},
  VERIFYING: {words: "is being checked by the device", to: ["REBOOTING", "TRANSFERRING", "REJECTED", "ALREADY_INSTALLED", "FAILED"]},
  REBOOTING: {words: "the device restarts with it", to: ["UNCOMMITTED", "COMMITTED", "VERIFYING", "TIMED_OUT", "FAILED", "ROLLED_BACK"]},
  UNCOMMITTED: {words: "runs on trial", to: ["COMMITTED", "TIMED_OUT", "FAILED", "ROLLED_BACK"]},
  COMMITTED: {words: "runs for good", to: []},
  CANCELED: {words: "was taken back", to: []},
  SUPERSEDED: {words: "made way for a newer one", to: []},
  REJECTED: {words: "is not for this device", to: []},
  ALREADY_INSTALLED: {words: "was there already", to: []},
  TIMED_OUT: {words: "the device did not answer in time", to: []},
  FAILED: {words: "the device could not take it", to: []},
  ROLLED_BACK: {words: "the old firmware runs again", to: []},
};

export const isEnd = (state) => UPDATE_STATES[state]?.to.length === 0;
export const label = (state) => (state.charAt(0) + state.slice(1).toLowerCase()).replaceAll("_", " ");

const MAIN_WAY = ["QUEUED", "TRANSFERRING", "VERIFYING", "REBOOTING", "UNCOMMITTED", "COMMITTED"];
const END_STATES = ["SUPERSEDED", "CANCELED", "REJECTED", "ALREADY_INSTALLED", "TIMED_OUT", "FAILED", "ROLLED_BACK"];

// Horizontal: the path from left to right, the other ends below. Vertical: the path downwards, the ends at its side.
const LAYOUTS = {
  lying: {width: 1040, height: 236, box: [132, 40], centre: {
    ...Object.fromEntries(MAIN_WAY.map((state, i) => [state, [76 + i * 177.6, 44]])),
    ...Object.fromEntries(END_STATES.map((state, i) => [state, [76 + i * 148, 202]])),
  }},
  standing: {width: 350, height: 520, box: [132, 38], centre: {
    ...Object.fromEntries(MAIN_WAY.map((state, i) => [state, [72, 40 + i * 88]])),
    ...Object.fromEntries(END_STATES.map((state, i) => [state, [278, 28 + i * 77]])),
  }},
};

// statePicture(): {element, set(state)}; null marks none.
export function statePicture() {
  const element = h("figure", {class: "states"});
  return {
    element,
    set: (state) => fill(element, Object.entries(LAYOUTS).map(([name, layout]) => draw(name, layout, state))),
  };
}

function draw(name, {width, height, box: [w, hgt], centre}, present) {
  const lying = name === "lying";
  const arrows = Object.entries(UPDATE_STATES).flatMap(([from, {to}]) => to.map((target) => {
    const on = MAIN_WAY.indexOf(target) === MAIN_WAY.indexOf(from) + 1 && MAIN_WAY.includes(target);
    const kind = from === present ? "arrow next" : on ? "arrow way" : "arrow";
    return s("path", {class: kind, d: curve(centre[from], centre[target], from, target, w, hgt, lying), "marker-end": `url(#${name}-${from === present ? "next" : on ? "way" : "faint"})`});
  }));
  arrows.sort((a, b) => rank(a) - rank(b)); // the important ones are drawn over the others
  return s("svg", {class: `picture ${name}`, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": describe(present)},
    s("defs", {}, ["faint", "way", "next"].map((kind) => s("marker", {id: `${name}-${kind}`, class: `head ${kind}`, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse"},
      s("path", {d: "M0 0 8 4 0 8z"})))),
    arrows, Object.entries(centre).map(([state, [x, y]]) => {
      const is = state === present;
      const kind = ["state", MAIN_WAY.includes(state) ? "way" : "end", state === "COMMITTED" && "goal", is && "present"].filter(Boolean).join(" ");
      return s("g", {class: kind},
        s("rect", {x: x - w / 2, y: y - hgt / 2, width: w, height: hgt, rx: isEnd(state) ? hgt / 2 : 7}),
        s("text", {x, y: y + 4.5, "text-anchor": "middle"}, label(state)),
        is && s("text", {class: "here", x: x - w / 2 + 8, y: y - hgt / 2 - 6}, "▼ now") /* beside where arrows are */);
    }));
}

const rank = (arrow) => (arrow.classList.contains("next") ? 2 : arrow.classList.contains("way") ? 1 : 0);

// Draws an arrow from the edge of one box to the edge of another.
function curve([x0, y0], [x1, y1], from, to, w, hgt, lying) {
  const [i, j] = [MAIN_WAY.indexOf(from), MAIN_WAY.indexOf(to)];
  if (j === i + 1) return lying ? `M${x0 + w / 2} ${y0}H${x1 - w / 2 - 2}` : `M${x0} ${y0 + hgt / 2}V${y1 - hgt / 2 - 2}`;
  if (j >= 0) { // along the path, past a state or back: a curve above it, or at its side
    const bow = j > i ? 24 : -16;
    if (lying) return j > i ? `M${x0} ${y0 - hgt / 2}C${x0 + 40} ${y0 - hgt / 2 - bow} ${x1 - 40} ${y1 - hgt / 2 - bow} ${x1} ${y1 - hgt / 2 - 2}`
      : `M${x0 - w / 2 + 14} ${y0 + hgt / 2}C${x0 - w / 2} ${y0 + hgt / 2 - bow} ${x1 + w / 2} ${y1 + hgt / 2 - bow} ${x1 + w / 2 - 14} ${y1 + hgt / 2 + 2}`;
    return j > i ? `M${x0 + w / 2} ${y0 + 6}C${x0 + w / 2 + 30} ${y0 + 30} ${x1 + w / 2 + 30} ${y1 - 30} ${x1 + w / 2 + 2} ${y1 - 6}`
      : `M${x0 - w / 2 + 14} ${y0 - hgt / 2}C${x0 - w / 2 - 4} ${y0 - hgt} ${x1 - w / 2 - 4} ${y1 + hgt} ${x1 - w / 2 + 14} ${y1 + hgt / 2 + 2}`;
  }
  if (lying) {
    const [ya, yb] = [y0 + hgt / 2, y1 - hgt / 2 - 2];
    return `M${x0} ${ya}C${x0} ${(ya + yb) / 2} ${x1} ${(ya + yb) / 2} ${x1} ${yb}`;
  }
  const [xa, xb] = [x0 + w / 2, x1 - w / 2 - 2];
  return `M${xa} ${y0}C${(xa + xb) / 2} ${y0} ${(xa + xb) / 2} ${y1} ${xb} ${y1}`;
}

function describe(present) {
  if (!UPDATE_STATES[present]) return "The states of an update; there is none now.";
  const {words, to} = UPDATE_STATES[present];
  return `The states of an update. Now: ${label(present)}, ${words}. ${to.length ? `Next can be: ${to.map(label).join(", ")}.` : "It has ended."}`;
}
