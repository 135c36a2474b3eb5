// All notifications: live, and as far back as the log goes.

import {copyButton, empty} from "../dialog.js";
import {clockTag, foreign, h, longText, setText} from "../dom.js";
import * as live from "../live.js";
import {TYPING_PAUSE, deviceField, servedText, timeField} from "../log_filter.js";
import {KINDS, summary, weight} from "../notes.js";
import {link} from "../router.js";
import {pauseButton, stream} from "../stream.js";

const INLINE_LENGTH = 140; // characters of JSON that are read at a glance

export default function view({query}) {
  const kind = h("select", {"aria-label": "Kind", onchange: refilter}, KINDS.map(({key, label}) => h("option", {value: key}, label)));
  if (KINDS.some(({key}) => key === query.kind)) kind.value = query.kind;
  const search = h("input", {type: "search", placeholder: "Text", "aria-label": "Filter notifications", value: query.q ?? "", oninput: refilterSoon, spellcheck: "false", autocapitalize: "none"});
  const device = deviceField({value: query.device, onChange: refilter});
  const time = timeField({query, onChange: refilter});
  const copy = copyButton(() => shown.shown().map((note) => `${new Date(note.time * 1000).toISOString()} ${note.id} ${note.name} ${summary(note)}`).join("\n"), "Copy");
  const state = h("p", {class: "muted count", role: "status"});
  const pause = pauseButton(() => shown);
  const shown = stream({
    label: "Notifications",
    ...wanted(),
    line: draw,
    nothing: empty("Nothing to show", "Notifications of your devices appear here: connect one, change its shadow, call it. A filter may hide all of them."),
    onState: ({paused, waiting}) => {
      setText(state, paused ? `Paused, ${waiting} waiting` : "Live");
      pause.draw();
    },
  });

  // Lines of a new or renamed device may be shown before its name is known.
  const unsubscribe = live.onDevices((ids) => {
    for (const anchor of shown.element.querySelectorAll("a[data-device]")) {
      const id = anchor.dataset.device;
      if (ids === null || ids.has(id)) setText(anchor.firstChild, nameOf(id));
    }
  });

  function wanted() {
    const {name, accept} = KINDS.find(({key}) => key === kind.value);
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const id = device.id(), times = time.times(), text = servedText(words);
    return {
      query: {...(id && {id}), ...(name && {name}), ...(text && {text}), ...times},
      accept: (note) => accept(note) && note.time >= (times.from ?? 0) && note.time <= (times.to ?? Infinity) && (words.length === 0 || contains(note, words)),
    };
  }

  let typing = 0;

  function refilter() {
    clearTimeout(typing);
    keepAddress();
    const next = wanted();
    shown.setQuery(next.query, next.accept);
  }

  // Asks the server once a person has stopped typing.
  function refilterSoon() {
    clearTimeout(typing);
    keepAddress();
    typing = setTimeout(refilter, TYPING_PAUSE);
  }

  function keepAddress() {
    const id = device.id();
    const asked = {...(search.value.trim() && {q: search.value}), ...(id && {device: id}), ...(kind.value !== "all" && {kind: kind.value}), ...time.asked()};
    const address = new URLSearchParams(asked).toString();
    history.replaceState(null, "", `#/notifications${address && `?${address}`}`);
  }

  return {
    title: "Notifications",
    element: h("section", {class: "page fill", "aria-label": "Notifications"},
      h("header", {class: "page-head"}, h("h1", {}, "Notifications"), state, h("div", {class: "tools"}, search, device.element, kind, time.element, pause.button, copy)),
      shown.element),
    destroy: () => {
      clearTimeout(typing);
      time.destroy();
      unsubscribe();
      shown.destroy();
    },
  };
}

const contains = (note, words) => {
  const text = `${note.name} ${note.id} ${note.data === undefined ? "" : JSON.stringify(note.data)}`.toLowerCase();
  return words.every((word) => text.includes(word));
};

function draw(note) {
  const text = summary(note);
  const isJson = note.data !== undefined && text.length > INLINE_LENGTH && note.name !== "rpc.out.Log";
  return h("div", {class: "line"}, clockTag(note.time), who(note),
    h("span", {class: ["what", weight(note)].filter(Boolean).join(" "), title: note.name}, foreign(note.name)),
    h("span", {class: "data"}, isJson ? longText(text, JSON.stringify(note.data, null, 2), INLINE_LENGTH) : longText(text)));
}

function who({id, name}) {
  if (name.startsWith("firmware.")) return h("a", {href: link("firmware", id)}, foreign(id));
  if (name.startsWith("rollout.")) return h("a", {href: link("rollouts", id)}, foreign(id));
  return h("a", {href: link("device", id), title: id, "data-device": id}, foreign(nameOf(id)));
}

const nameOf = (id) => live.devices.get(id)?.name || id;
