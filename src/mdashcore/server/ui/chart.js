// Plots with axes, in SVG.
//
// chart({label, name, unit, divide, format, onZoom(from, to), onOut}): values are divided by `divide` to be in that unit.
//   {element, set({from, to, step, points, gaps, now, isRead}), destroy()}
//   points: [{time, min, avg, max}, …], the oldest first; gaps: [{from, to}, …]; times in Unix seconds.
//   step: the length of a part, in seconds: parts that follow one another are joined by a line.
//
// A person zooms by dragging, and by keys: arrows move, Enter zooms in there, Escape zooms out. The values are a table too.

import {fill, h, s, setText} from "./dom.js";
import {clock, dayOf, isToday, offset, onZone, short} from "./zone.js";

const HEIGHT = 190;
const [LEFT, RIGHT, TOP, BOTTOM] = [54, 10, 8, 24]; // room for the axes
const AXIS_LETTERS = 7; // of a number beside the axis
const MIN_DRAG = 8; // px: less is a click
const JOIN = 6; // parts without a value over which the line goes on: a device reports less often than the plot has pixels
const TABLE_ROWS = 60; // of the table: what a person reads
const TIME_STEPS = [1, 5, 10, 30, 60, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 1_209_600, 2_419_200];

export function chart({label, name = label, unit = "", divide = 1, format = (value) => String(Number(value.toPrecision(6))), onZoom, onOut}) {
  let data = {from: 0, to: 1, step: 1, points: [], gaps: [], now: null, isRead: false};
  let width = 480;
  let active = null; // index of the point that is read out
  let drag = null; // where a drag began, in px
  const layer = s("g", {});
  const marker = s("line", {class: "marker", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden"});
  const choice = s("rect", {class: "choice", y: TOP, height: HEIGHT - TOP - BOTTOM, visibility: "hidden"});
  const svg = s("svg", {class: "chart", height: HEIGHT, tabindex: 0, role: "img", onpointermove: pointed, onpointerdown: pressed, onpointerup: released,
    onpointercancel: () => endDrag(), onpointerleave: () => drag === null && show(null), onblur: () => show(null), onkeydown: keys}, layer, choice, marker);
  const readout = h("output", {class: "readout"});
  const table = h("div", {class: "chart-table"});
  const details = h("details", {ontoggle: drawTable}, h("summary", {}, "As a table"), table);
  const element = h("figure", {class: "plot-box"}, h("figcaption", {}, h("span", {}, label), readout), svg, details);

  const text = (value) => `${format(value)}${unit && ` ${unit}`}`;
  const x = (time) => LEFT + ((time - data.from) / (data.to - data.from)) * (width - LEFT - RIGHT);
  const timeAt = (px) => data.from + ((px - LEFT) / (width - LEFT - RIGHT)) * (data.to - data.from);
  const round = (value) => Math.round(value * 10) / 10;
  const middle = (point) => Math.min(point.time + data.step / 2, data.to);

  function draw() {
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const low = Math.min(...data.points.map(({min}) => min)), high = Math.max(...data.points.map(({max}) => max));
    const ticks = data.points.length ? valueTicks(low, high) : [];
    const bottom = Math.min(low, ticks[0] ?? low), top = Math.max(high, ticks.at(-1) ?? high);
    const y = (value) => round(TOP + (1 - (top === bottom ? 0.5 : (value - bottom) / (top - bottom))) * (HEIGHT - TOP - BOTTOM));
    fill(layer,
      data.gaps.map(({from, to}) => s("rect", {class: "gap", x: round(x(Math.max(from, data.from))), y: TOP, height: HEIGHT - TOP - BOTTOM,
        width: round(Math.max(1, x(Math.min(to, data.to)) - x(Math.max(from, data.from))))}, s("title", {}, "offline"))),
      ticks.map((value) => [s("line", {class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value)}),
        s("text", {class: "end", x: LEFT - 6, y: y(value) + 4}, axisText(value))]),
      timeTicks(data.from, data.to, width - LEFT - RIGHT).map(({time, words}) => [s("line", {class: "grid", x1: round(x(time)), x2: round(x(time)), y1: TOP, y2: HEIGHT - BOTTOM}),
        s("text", {class: "mid", x: round(x(time)), y: HEIGHT - 6}, words)]),
      runs().map((run) => [
        s("polygon", {class: "band", points: [...run.map((point) => [x(middle(point)), y(point.max)]), ...[...run].reverse().map((point) => [x(middle(point)), y(point.min)])].map(([a, b]) => `${round(a)},${b}`).join(" ")}),
        s("polyline", {class: "line", points: run.map((point) => `${round(x(middle(point)))},${y(point.avg)}`).join(" ")}),
        run.length === 1 && s("circle", {class: "dot", cx: round(x(middle(run[0]))), cy: y(run[0].avg), r: 2.5})]));
    const said = data.points.length ? `between ${text(low)} and ${text(high)}` : data.isRead ? "no values in this time" : "its values are being read";
    svg.setAttribute("aria-label", `${name}: ${data.now === null ? "" : `now ${text(data.now)}, `}${said}`);
    show(active);
    drawTable();
  }

  // The points that a line joins: none over a gap, nor over a long time without a value.
  function runs() {
    const found = [];
    let last = null;
    for (const point of data.points) {
      const isJoined = last !== null && point.time - last.time <= Math.max(JOIN * data.step, 3 * typical())
        && !data.gaps.some(({from, to}) => from < point.time && to > last.time + data.step);
      if (isJoined) found.at(-1).push(point);
      else found.push([point]);
      last = point;
    }
    return found;
  }

  // The usual time between two points.
  function typical() {
    if (data.typical === undefined) {
      const times = data.points.slice(1).map(({time}, i) => time - data.points[i].time).sort((a, b) => a - b);
      data.typical = times[Math.floor(times.length / 2)] ?? 0;
    }
    return data.typical;
  }

  function drawTable() {
    if (!details.open) return;
    const every = Math.ceil(data.points.length / TABLE_ROWS) || 1;
    const rows = [];
    for (let i = 0; i < data.points.length; i += every) {
      const part = data.points.slice(i, i + every);
      rows.push([part[0].time, Math.min(...part.map(({min}) => min)), part.reduce((sum, {avg}) => sum + avg / part.length, 0), Math.max(...part.map(({max}) => max))]);
    }
    fill(table, h("table", {}, h("caption", {class: "visually-hidden"}, name), h("thead", {}, h("tr", {}, ["Time", "Min", "Mean", "Max"].map((word) => h("th", {scope: "col"}, word)))),
      h("tbody", {}, rows.map(([time, ...values]) => h("tr", {}, h("th", {scope: "row"}, short(time)), values.map((value) => h("td", {}, text(value))))))));
    table.tabIndex = 0; // it scrolls
    table.setAttribute("role", "group");
    table.setAttribute("aria-label", `Values of ${name}`);
  }

  function show(index) {
    active = index !== null && data.points[index] ? index : null;
    marker.setAttribute("visibility", active === null ? "hidden" : "visible");
    if (active === null) return setText(readout, data.now === null ? "" : text(data.now));
    const point = data.points[active];
    marker.setAttribute("x1", round(x(middle(point))));
    marker.setAttribute("x2", round(x(middle(point))));
    const values = point.min === point.max ? text(point.avg) : `${text(point.avg)} (${format(point.min)} to ${format(point.max)})`;
    return setText(readout, `${values} at ${short(point.time)}`);
  }

  // By mouse and by keys

  const place = (event) => {
    const box = svg.getBoundingClientRect();
    return Math.max(LEFT, Math.min(width - RIGHT, ((event.clientX - box.left) / box.width) * width));
  };

  function nearest(px) {
    let best = null;
    for (let i = 0; i < data.points.length; i += 1) {
      if (best === null || Math.abs(x(middle(data.points[i])) - px) < Math.abs(x(middle(data.points[best])) - px)) best = i;
    }
    return best;
  }

  function pointed(event) {
    const px = place(event);
    show(nearest(px));
    if (drag === null) return;
    choice.setAttribute("x", round(Math.min(drag, px)));
    choice.setAttribute("width", round(Math.abs(px - drag)));
    choice.setAttribute("visibility", "visible");
  }

  function pressed(event) {
    if (event.button !== 0 || event.pointerType === "touch") return; // a finger scrolls
    drag = place(event);
    svg.setPointerCapture(event.pointerId);
  }

  function released(event) {
    if (drag === null) return;
    const [from, to] = [drag, place(event)].sort((a, b) => a - b);
    endDrag();
    if (to - from >= MIN_DRAG) onZoom?.(timeAt(from), timeAt(to));
  }

  function endDrag() {
    drag = null;
    choice.setAttribute("visibility", "hidden");
  }

  function keys(event) {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (step && data.points.length) show(Math.max(0, Math.min(data.points.length - 1, (active ?? data.points.length - 1 + (step < 0 ? 1 : 0)) + step)));
    else if (event.key === "Enter" && active !== null) {
      const time = data.points[active].time, part = (data.to - data.from) / 8;
      onZoom?.(time - part, time + part);
    } else if (event.key === "Escape" && drag !== null) endDrag();
    else if (event.key === "Escape" && onOut) onOut();
    else return;
    event.preventDefault();
  }

  const resized = new ResizeObserver(() => {
    const next = Math.round(svg.getBoundingClientRect().width);
    if (next > 0 && next !== width) {
      width = next;
      draw();
    }
  });
  resized.observe(svg);
  const unlisten = onZone(draw);
  draw();
  return {
    element,
    set: (next) => {
      const time = active === null ? null : data.points[active].time;
      data = {...next, points: divide === 1 ? next.points : next.points.map((point) => ({...point, min: point.min / divide, avg: point.avg / divide, max: point.max / divide})),
        now: next.now === null ? null : next.now / divide, typical: undefined};
      if (time !== null) active = nearest(x(time));
      draw();
    },
    destroy: () => {
      resized.disconnect();
      unlisten();
    },
  };
}

const COMPACT = new Intl.NumberFormat("en", {notation: "compact", maximumSignificantDigits: 4});

// A number in the room that the axis has.
function axisText(value) {
  const text = String(Number(value.toPrecision(6)));
  if (text.length <= AXIS_LETTERS) return text;
  return Math.abs(value) >= 1e15 || Math.abs(value) < 1e-3 ? value.toExponential(1) : COMPACT.format(value);
}

// Round numbers over a range, about four of them.
export function valueTicks(low, high) {
  if (low === high) return [low];
  const rough = (high - low) / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((part) => part * power).find((part) => part >= rough);
  if (!Number.isFinite(step) || step === 0) return [low, high];
  const found = [];
  for (let number = Math.floor(low / step); number <= Math.ceil(high / step) && found.length < 10; number += 1) found.push(number * step);
  return found;
}

// Round times over a range, with their words: the day where it changes.
export function timeTicks(from, to, pixels) {
  const most = Math.max(2, Math.floor(pixels / 70));
  const step = TIME_STEPS.find((each) => (to - from) / each <= most) ?? (to - from) / most;
  const shift = offset(to); // of one moment: a change of the clocks shifts the others
  const found = [];
  let before = null;
  for (let time = Math.ceil((from + shift) / step) * step - shift; time <= to && found.length < 50; time += step) {
    const day = dayOf(time);
    const withDay = step >= 86_400 || (before === null ? !isToday(time) : day !== before);
    const words = step >= 86_400 ? day : withDay ? `${day} ${clock(time, {withSeconds: step < 60})}` : clock(time, {withSeconds: step < 60});
    found.push({time, words});
    before = day;
  }
  return found;
}
