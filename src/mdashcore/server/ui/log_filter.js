// What a person filters a log by: a device and a time, and the text that the server can search for.

import {fill, h} from "./dom.js";
import * as live from "./live.js";
import {isUtc, onZone} from "./zone.js";

export const TYPING_PAUSE = 250; // ms without a key until the server is asked
const SUGGESTED = 300; // devices that are suggested: more is no list for a person

const TIMES = [["", "Any time"], ["hour", "Last hour", 3600], ["day", "Last 24 hours", 86_400], ["week", "Last 7 days", 604_800], ["between", "Between…"]];

const JSON_SIGN = /["{}[\]:,\\]/; // the server has the JSON as the device wrote it, with other spaces

// The word that the server searches for: the longest that stands in a notification as it is stored.
export const servedText = (words) => words.filter((word) => !JSON_SIGN.test(word)).sort((a, b) => b.length - a.length)[0];

// deviceField({value, onChange}): {element, id()}: the id of the device that is named, by id or by its only name.
export function deviceField({value = "", onChange}) {
  const list = h("datalist", {id: "log-devices"});
  const input = h("input", {type: "search", placeholder: "Device", "aria-label": "Device", value, list: list.id, onchange: onChange, spellcheck: "false", autocapitalize: "none",
    onfocus: () => fill(list, [...live.devices.values()].slice(0, SUGGESTED).map(({id, name}) => h("option", {value: id}, name)))});
  return {
    element: h("span", {class: "log-device"}, input, list),
    id: () => {
      const text = input.value.trim();
      const named = [...live.devices.values()].filter(({name}) => name === text);
      return text === "" ? undefined : live.devices.has(text) || named.length !== 1 ? text : named[0].id;
    },
  };
}

// timeField({query, onChange}): {element, times(): {from?, to?} in Unix seconds, asked(): as the address has it, destroy()}
export function timeField({query, onChange}) {
  const select = h("select", {"aria-label": "Time", onchange: () => {
    between.hidden = select.value !== "between";
    onChange();
  }}, TIMES.map(([key, label]) => h("option", {value: key}, label)));
  const moment = (label) => h("input", {type: "datetime-local", step: 1, "aria-label": label, onchange: onChange});
  const from = moment("From"), to = moment("To");
  const between = h("span", {class: "log-between", hidden: true}, from, to);

  // The fields have no offset of their own: they are read in the time that the page shows.
  const toSeconds = (text) => (text === "" ? undefined : new Date(text + (isUtc() ? "Z" : "")).getTime() / 1000);
  const toText = (seconds) => {
    const date = new Date(seconds * 1000);
    return new Date(date - (isUtc() ? 0 : date.getTimezoneOffset() * 60_000)).toISOString().slice(0, 19);
  };

  let kept = {};
  function set({from: start, to: end, since}) {
    const isFixed = Number(start) > 0 || Number(end) > 0;
    select.value = isFixed ? "between" : TIMES.some(([key]) => key === since && key !== "between") ? since : "";
    between.hidden = !isFixed;
    from.value = Number(start) > 0 ? toText(Number(start)) : "";
    to.value = Number(end) > 0 ? toText(Number(end)) : "";
    kept = read();
  }

  const read = () => Object.fromEntries(Object.entries({from: toSeconds(from.value), to: toSeconds(to.value)}).filter(([, value]) => value !== undefined && !Number.isNaN(value)));
  const unlisten = onZone(() => select.value === "between" && set(kept)); // the same moments in other words
  set(query);
  return {
    element: h("span", {class: "log-time"}, select, between),
    times: () => {
      if (select.value === "between") return (kept = read());
      const seconds = TIMES.find(([key]) => key === select.value)[2];
      return seconds === undefined ? {} : {from: Math.floor(Date.now() / 1000 - seconds)};
    },
    asked: () => (select.value === "between" ? read() : select.value ? {since: select.value} : {}),
    destroy: unlisten,
  };
}
