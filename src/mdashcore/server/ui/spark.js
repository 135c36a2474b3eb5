// Line plots in SVG.
//
// sparkline([1, 2, 3], {label}): a small picture for a cell of a table.
// plot({label, unit, format, name}): `name` is the label as text if that is a node. {element, push(time ms, value),
// set([[time, value], …])}: the extremes of both axes, and values on hover and by arrow keys.

import {fill, h, s, setText} from "./dom.js";
import {short} from "./zone.js";

export function sparkline(values, {label, width = 72, height = 20} = {}) {
  if (values.length < 2) return h("span", {class: "muted", "aria-label": `${label}: not enough values`, role: "img"}, "–");
  const points = scale(values.map((value, i) => [i, value]), width, height, 2);
  return s("svg", {class: "spark", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label},
    s("polyline", {points: points.map((point) => point.join(",")).join(" ")}));
}

const MAX_POINTS = 600; // of a plot: more than its pixels

export function plot({label, name = label, unit = "", format = (value) => value.toLocaleString("en"), width = 480, height = 140}) {
  let data = [];
  let active = null;
  const line = s("polyline", {class: "line", "stroke-linecap": "round"});
  const marker = s("line", {class: "marker", y1: 0, y2: height, visibility: "hidden"}) /* a circle would be stretched */;
  const svg = s("svg", {viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", class: "plot", tabindex: 0, role: "img",
    onpointermove: (event) => {
      const box = svg.getBoundingClientRect();
      show(nearest(((event.clientX - box.left) / box.width) * width));
    },
    onpointerleave: () => show(null),
    onblur: () => show(null),
    onkeydown: (event) => {
      const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      if (!step || !data.length) return;
      event.preventDefault();
      show(Math.max(0, Math.min(data.length - 1, (active ?? data.length - 1 + (step < 0 ? 1 : 0)) + step)));
    }}, line, marker);
  const readout = h("output", {class: "readout"});
  const low = h("span", {}), high = h("span", {});
  const element = h("figure", {class: "plot-box"}, h("figcaption", {}, h("span", {}, label), readout),
    h("div", {class: "plot-frame"}, h("div", {class: "scale", "aria-hidden": "true"}, high, low), svg));

  function points() {
    return scale(data, width, height, 6);
  }

  function nearest(x) {
    const all = points();
    let best = null;
    for (let i = 0; i < all.length; i += 1) {
      if (best === null || Math.abs(all[i][0] - x) < Math.abs(all[best][0] - x)) best = i;
    }
    return best;
  }

  const text = (value) => `${format(value)}${unit && ` ${unit}`}`;

  function show(index) {
    active = index;
    if (index === null || !data[index]) {
      marker.setAttribute("visibility", "hidden");
      setText(readout, data.length ? text(data.at(-1)[1]) : "no values yet");
      return;
    }
    const [x] = points()[index];
    marker.setAttribute("x1", x);
    marker.setAttribute("x2", x);
    marker.setAttribute("visibility", "visible");
    setText(readout, `${text(data[index][1])} at ${short(data[index][0] / 1000)}`);
  }

  function draw() {
    const drawn = points();
    line.setAttribute("points", [...drawn, ...drawn.slice(-1)].map((point) => point.join(",")).join(" ")); // a single value is a dot
    const values = data.map(([, value]) => value);
    setText(low, values.length ? format(Math.min(...values)) : "");
    setText(high, values.length ? format(Math.max(...values)) : "");
    svg.setAttribute("aria-label", values.length
      ? `${name}: now ${text(values.at(-1))}, between ${text(Math.min(...values))} and ${text(Math.max(...values))}`
      : `${name}: no values yet`);
    show(active);
  }

  draw();
  return {
    element,
    push: (time, value) => {
      data.push([time, value]);
      if (data.length > MAX_POINTS) data.shift();
      draw();
    },
    set: (next) => {
      data = next.slice(-MAX_POINTS);
      draw();
    },
  };
}

// Scales [[x, y], …] into a box, y upwards; a flat line lies in the middle.
function scale(data, width, height, margin) {
  if (!data.length) return [];
  const xs = data.map(([x]) => x), ys = data.map(([, y]) => y);
  const [x0, x1, y0, y1] = [xs[0], xs.at(-1), Math.min(...ys), Math.max(...ys)];
  const at = (value, from, to) => (to === from ? 0.5 : (value - from) / (to - from));
  const round = (value) => Math.round(value * 10) / 10;
  return data.map(([x, y]) => [
    round(margin + at(x, x0, x1) * (width - 2 * margin)),
    round(height - margin - at(y, y0, y1) * (height - 2 * margin)),
  ]);
}
