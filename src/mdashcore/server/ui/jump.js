// The dialog to go to a view, or to a device by its name or id.

import {getPage} from "./api.js";
import {inWords, open} from "./dialog.js";
import {fill, foreign, h, setText, uniqueId} from "./dom.js";
import * as live from "./live.js";
import {go, link} from "./router.js";

const MAX_DEVICES = 8; // devices that are offered: as many as are read while typing
const TYPING_PAUSE = 150; // ms without a key before the server is asked

// openJump([[path, label], …] of the views)
export function openJump(views) {
  let found = []; // [{href, label, note}]
  let chosen = 0;
  let timer = null, controller = null;
  const list = h("ul", {role: "listbox", id: uniqueId("jump"), class: "jump-list", "aria-label": "Where to"});
  const state = h("p", {class: "muted", role: "status"});
  const input = h("input", {type: "search", role: "combobox", "aria-label": "Go to", "aria-expanded": "true", "aria-controls": list.id, "aria-autocomplete": "list",
    placeholder: "A view, or a device by name or id", autocomplete: "off", autocapitalize: "none", spellcheck: "false", oninput: search, onkeydown: keys});
  const dialog = open("Go to", h("div", {class: "stack tight"}, input, state, list, h("p", {class: "hint"}, "↑ ↓ and Enter. The key “?” lists all keys.")), () => {
    clearTimeout(timer);
    controller?.abort();
  });

  const words = () => input.value.trim().toLowerCase().split(/\s+/).filter(Boolean);

  function search() {
    clearTimeout(timer);
    controller?.abort();
    const wanted = words();
    const some = views.filter(([, label]) => wanted.every((word) => label.toLowerCase().includes(word))).map(([path, label]) => ({href: link(path), label, note: "view"}));
    if (live.isWhole() || wanted.length === 0) return show([...some, ...(wanted.length ? known(wanted) : [])]);
    show(some, "Searching…");
    timer = setTimeout(ask, TYPING_PAUSE, some);
    return undefined;
  }

  // Returns devices that the page has; those that begin with the text come first.
  function known(wanted) {
    const fitting = [];
    for (const device of live.devices.values()) {
      const text = `${device.name} ${device.id}`.toLowerCase();
      if (wanted.every((word) => text.includes(word))) fitting.push(device);
    }
    const first = input.value.trim().toLowerCase();
    const rank = ({name, id}) => (id.toLowerCase() === first ? 0 : name.toLowerCase().startsWith(first) || id.toLowerCase().startsWith(first) ? 1 : 2);
    return fitting.sort((a, b) => rank(a) - rank(b) || a.name.localeCompare(b.name)).slice(0, MAX_DEVICES).map(entryOf);
  }

  // Of a large fleet the server finds them.
  async function ask(some) {
    const mine = controller = new AbortController();
    const filter = input.value.trim().split(/[^\p{L}\p{N}_.:@-]+/u).filter(Boolean).map((word) => `text~${word}`); // without signs that mean something in a filter
    try {
      const {value} = await getPage("/devices", {filter, limit: MAX_DEVICES, sort: "name", fields: "id,name,online"}, {signal: mine.signal});
      if (!mine.signal.aborted) show([...some, ...value.map(entryOf)]);
    } catch (problem) {
      if (mine.signal.aborted) return;
      if (problem.status === undefined) console.error(problem); // a bug
      show(some, inWords(problem));
    }
  }

  function show(next, said) {
    found = next;
    chosen = 0;
    fill(list, found.map(({label, note}, i) => h("li", {role: "option", id: `${list.id}-${i}`, onclick: () => take(i)}, foreign(label), " ", h("small", {}, foreign(note)))));
    list.hidden = found.length === 0;
    input.setAttribute("aria-expanded", String(found.length > 0));
    setText(state, said ?? (found.length === 0 ? "Nothing has this in its name." : `${found.length} ${found.length === 1 ? "place" : "places"}`));
    mark();
  }

  function mark() {
    [...list.children].forEach((option, i) => option.setAttribute("aria-selected", String(i === chosen)));
    if (found.length) input.setAttribute("aria-activedescendant", list.children[chosen].id);
    else input.removeAttribute("aria-activedescendant");
    list.children[chosen]?.scrollIntoView({block: "nearest"});
  }

  function take(i) {
    const {href} = found[i];
    dialog.close();
    go(href);
  }

  function keys(event) {
    const step = {ArrowDown: 1, ArrowUp: -1}[event.key];
    if (step && found.length) {
      chosen = (chosen + step + found.length) % found.length;
      mark();
    } else if (event.key === "Enter" && found.length) {
      take(chosen);
    } else {
      return;
    }
    event.preventDefault();
  }

  search();
  input.focus();
}

const entryOf = ({id, name, online}) => ({href: link("device", id), label: name || id, note: `${id} · ${online ? "online" : "offline"}`});
