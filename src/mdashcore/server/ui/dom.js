// Builds elements. Text becomes a text node or an attribute, never markup, so the name of a device cannot become part
// of the page. This dashboard has no other way to make elements.

import {isToday, onZone, short, stamp} from "./zone.js";

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

// h("button", {class: "primary", onclick: save, disabled: busy}, "Save", icon)
// props: on… are listeners; `class`, `for` and aria-…/data-… as in HTML; true is a bare attribute; false, null and
// undefined are left out; `value`, `checked`, `selected`, `indeterminate` are set as properties.
// children: nodes, text, numbers, lists of them; false, null and undefined are left out.
export function h(tag, props = {}, ...children) {
  return build(document.createElement(tag), props, children);
}

// The same for SVG.
export function s(tag, props = {}, ...children) {
  return build(document.createElementNS(SVG_NAMESPACE, tag), props, children);
}

const PROPERTIES = new Set(["value", "checked", "selected", "indeterminate"]);

function build(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) set(element, name, value);
  append(element, children);
  return element;
}

function set(element, name, value) {
  if (name.startsWith("on")) {
    if (value) element.addEventListener(name.slice(2), value);
  } else if (PROPERTIES.has(name)) {
    if (value !== undefined) element[name] = value;
  } else if (value === true) {
    element.setAttribute(name, "");
  } else if (value !== false && value !== null && value !== undefined) {
    element.setAttribute(name, value);
  }
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === false || child === null || child === undefined) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

// Replaces the children of an element.
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

// Does the same as `fill`, and keeps what is there already: elements of the same tag and address in the same place get
// the new texts and attributes. So a press and the focus of a person are not lost. For content without listeners.
export function redraw(element, ...children) {
  adopt(element, h("div", {}, children));
}

function adopt(element, next) {
  const before = [...element.childNodes];
  for (const [i, node] of [...next.childNodes].entries()) {
    const kept = before[i];
    if (kept === undefined) element.append(node);
    else if (kept.nodeName !== node.nodeName || kept.href !== node.href) kept.replaceWith(node); // a press never leads elsewhere
    else if (node instanceof Text) setText(kept, node.textContent);
    else adoptElement(kept, node);
  }
  for (const extra of before.slice(next.childNodes.length)) extra.remove();
}

function adoptElement(kept, node) {
  for (const {name} of [...kept.attributes]) if (!node.hasAttribute(name)) kept.removeAttribute(name);
  for (const {name, value} of node.attributes) if (kept.getAttribute(name) !== value) kept.setAttribute(name, value);
  adopt(kept, node);
}

// Sets an element's text only if it differs, so that screen readers do not repeat it.
export function setText(element, text) {
  if (element.textContent !== String(text)) element.textContent = String(text);
}

let lastId = 0;

// Returns an id that is unique on the page, to bind labels to fields.
export function uniqueId(prefix = "id") {
  return `${prefix}-${++lastId}`;
}

// A labelled form field: field("Name", h("input", {name: "name"}), "for people").
export function field(label, input, hint) {
  input.id ||= uniqueId("field");
  const note = hint ? h("small", {class: "hint", id: `${input.id}-hint`}, hint) : null;
  if (note) input.setAttribute("aria-describedby", note.id);
  return h("div", {class: "field"}, h("label", {for: input.id}, label), input, note);
}

// Isolates text from outside, so that it cannot change the direction of the text around it.
export function foreign(text, props = {}) {
  return h("bdi", props, text);
}

// A tag that names the unreadable parts of a record; false if there are none.
export function damagedTag(parts) {
  return Boolean(parts?.length) && h("span", {class: "tag warn", title: `Its stored data are damaged (${parts.join(", ")}). The server's log says more.`}, "damaged");
}

export const AGE_INTERVAL = 30_000; // ms between two drawings of "3 min. ago"
const RELATIVE = new Intl.RelativeTimeFormat("en", {numeric: "auto", style: "short"});
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60]];

// "3 min. ago" for a Date, RFC 3339 text or Unix seconds; "never" for null.
export function ago(time) {
  if (time === null || time === undefined) return "never";
  const seconds = (toDate(time) - Date.now()) / 1000;
  for (const [unit, size] of UNITS) {
    if (Math.abs(seconds) >= size) return RELATIVE.format(Math.trunc(seconds / size), unit);
  }
  return "just now";
}

// Makes a <time> with the age, and the exact time in its title.
export function timeTag(time) {
  return time === null || time === undefined ? h("span", {class: "muted"}, "never") : madeTime(toDate(time), "ago");
}

// Makes a <time> in the form of a log: the time of the day, with the day before it if it is another one.
export const clockTag = (seconds) => madeTime(toDate(seconds), "clock");

const TIME_FORMS = {ago, clock: (date) => short(date / 1000)};

function madeTime(date, form) {
  return h("time", {datetime: date.toISOString(), title: stamp(date / 1000), "data-form": form, class: form === "clock" && !isToday(date / 1000) ? "old" : null}, TIME_FORMS[form](date));
}

onZone(() => {
  for (const tag of document.querySelectorAll("time[data-form]")) {
    const date = new Date(tag.dateTime);
    tag.title = stamp(date / 1000);
    setText(tag, TIME_FORMS[tag.dataset.form](date));
  }
});

function toDate(time) {
  return typeof time === "number" ? new Date(time * 1000) : new Date(time);
}

// 20475 as "20.0 KiB".
export function bytes(count) {
  if (count < 1024) return `${count} B`;
  const unit = count < 2 ** 20 ? ["KiB", 2 ** 10] : count < 2 ** 30 ? ["MiB", 2 ** 20] : ["GiB", 2 ** 30];
  return `${(count / unit[1]).toFixed(1)} ${unit[0]}`;
}

const SHORT_TEXT = 400; // characters of a text that are shown first

// A text of any length, cut, with a button that shows all of it.
export function longText(text, whole = text, limit = SHORT_TEXT) {
  const isLong = text.length > limit || whole !== text;
  const cut = h("bdi", {}, text.length > limit ? `${text.slice(0, limit)}…` : text);
  if (!isLong) return cut;
  const more = h("button", {type: "button", class: "quiet more", "aria-expanded": "false", onclick: () => {
    const open = more.getAttribute("aria-expanded") === "true";
    more.setAttribute("aria-expanded", !open);
    setText(more, open ? "more" : "less");
    if (open) more.nextSibling.remove();
    else more.after(h("pre", {class: "code whole", tabindex: 0}, h("bdi", {}, whole)));
  }}, "more");
  return h("span", {}, cut, more);
}
