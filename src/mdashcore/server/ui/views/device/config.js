// The tab "config" of a device: its configuration as a tree, edited in place. Only changed values are sent.

import {call} from "../../api.js";
import {act, ask, errorLine, toast} from "../../dialog.js";
import {fill, foreign, h, setText, uniqueId} from "../../dom.js";
import {isObject, same} from "../../live.js";
import {at, changes, formatPath, keyOf, leaves, patch, put, shortJson, shortPath} from "../../tree.js";
import {guard, keep, take} from "./drafts.js";
import {fieldFor, typeInto} from "./leaf_form.js";
import {fromDevice} from "./parts.js";

const SAVE_TIMEOUT = 30; // s to save: flash is slow while it erases
const OPEN_UP_TO = 80; // values up to which all sections are open at first
const MAX_VALUES = 1500; // values drawn: real configurations have under 500
const SECRET_KEYS = /pass|secret|token|psk|private|license/i; // keys whose values are hidden from other people in the room
const DELICATE_SECTIONS = new Set(["wifi", "eth", "dash", "rpc", "sys"]); // sections that can cut the device off

export default function config(device, {session}) {
  let present = device;
  let base = {};
  let draft = {};
  const wrong = new Map(); // keyOf(path) of invalid fields → their text
  const rows = new Map(); // keyOf(path) → {element, undo()}
  let sections = [];

  const source = fromDevice(device, {
    what: "the configuration",
    needs: ["Config.Get"],
    offline: "Its configuration can be read and changed once it is back.",
    load: async (signal) => {
      const found = await call(device.id, "Config.Get", undefined, {signal, timeout: SAVE_TIMEOUT});
      if (!isObject(found)) throw Object.assign(new Error("the device gave no configuration"), {status: 0});
      return found;
    },
    show: (found) => {
      if (isUnsent() && same(found, base)) return content; // a person's edits are not disturbed
      const kept = isUnsent() ? {base, draft, wrong: [...wrong]} : take(session.user, device.id, "config"); // edits made during the read
      base = draft = found;
      drawTree();
      if (kept) restore(kept);
      return content;
    },
    onOnline: () => {
      if (!isUnsent()) source.reload(); // a person's edits are kept
      else note.hidden = false;
    },
  });

  // The tree

  const count = h("span", {class: "muted", role: "status"});
  const search = h("input", {type: "search", "aria-label": "Filter keys", placeholder: "Filter keys", oninput: filter});
  const body = h("div", {class: "config-tree"});
  const tree = h("section", {class: "card stack", "aria-label": "Configuration"},
    h("header", {class: "section-head"}, h("h2", {}, "Configuration"), count, h("div", {class: "tools"}, search,
      h("button", {type: "button", "data-online": "", onclick: reread}, "Read again"))), body);

  function drawTree() {
    rows.clear();
    wrong.clear();
    sections = [];
    note.hidden = true;
    const total = leaves(base).length;
    fill(body, total ? members(base, [], total <= OPEN_UP_TO) : h("p", {class: "muted"}, "The configuration of this device is empty."),
      total > MAX_VALUES && h("p", {class: "muted"}, `… and ${total - MAX_VALUES} more values.`));
    filter();
    draw();
  }

  function members(value, path, open) {
    const entries = Object.entries(value);
    const plain = entries.filter(([, inner]) => !isObject(inner)), nested = entries.filter(([, inner]) => isObject(inner));
    return [...plain.map(([key, inner]) => row([...path, key], inner)), ...nested.map(([key, inner]) => {
      const content = h("div", {class: "config-members"}, members(inner, [...path, key], open));
      const element = h("details", {open}, h("summary", {class: "code"}, foreign(shortPath([key]))), content);
      sections.push(element);
      return element;
    })];
  }

  function row(path, leaf) {
    if (rows.size >= MAX_VALUES) return null;
    const id = uniqueId("config"), key = keyOf(path);
    const holder = h("div", {class: "config-value"});
    const undo = h("button", {type: "button", class: "quiet", "aria-label": `Undo ${shortPath(path)}`, hidden: true, onclick: () => {
      reset();
      holder.querySelector("input, textarea")?.focus();
      draw();
    }}, "Undo");
    const element = h("div", {class: "config-row", "data-path": formatPath(path).toLowerCase()},
      h("label", {for: id, class: "code"}, foreign(shortPath([path.at(-1)])), h("span", {class: "visually-hidden"}, ` of ${shortPath(path)}`)), holder, undo);

    function reset() {
      draft = put(draft, path, at(base, path));
      wrong.delete(key);
      fillWith(leaf);
    }

    function fillWith(value) {
      const input = fieldFor(value, id, (next, text) => {
        if (next === undefined) wrong.set(key, text);
        else {
          wrong.delete(key);
          draft = put(draft, path, next);
        }
        draw();
      });
      const isSecret = typeof leaf === "string" && SECRET_KEYS.test(path.at(-1)) && input.tagName === "INPUT";
      fill(holder, input, isSecret && showButton(input, path));
    }

    reset();
    rows.set(key, {element, undo, path, fillWith});
    return element;
  }

  // Restores earlier edits, if their keys still exist.
  function restore(kept) {
    for (const {path, after} of changes(kept.base, kept.draft)) {
      const row_ = rows.get(keyOf(path));
      if (!row_ || after === undefined) continue;
      draft = put(draft, path, after);
      row_.fillWith(after);
    }
    for (const [key, text] of kept.wrong) typeInto(rows.get(key)?.element, text);
    draw();
  }

  const isUnsent = () => wrong.size > 0 || patch(base, draft) !== undefined;
  const unguard = guard(isUnsent);

  function showButton(input, path) {
    input.type = "password";
    input.setAttribute("autocomplete", "new-password"); // password managers must not offer the person's own password
    const button = h("button", {type: "button", class: "quiet", "aria-pressed": "false", "aria-label": `Show ${shortPath(path)}`, onclick: () => {
      const hidden = input.type === "password";
      input.type = hidden ? "text" : "password";
      button.setAttribute("aria-pressed", hidden);
    }}, "Show");
    return button;
  }

  function filter() {
    const wanted = search.value.trim().toLowerCase();
    let found = 0;
    for (const {element} of rows.values()) {
      element.hidden = !element.dataset.path.includes(wanted);
      if (!element.hidden) found += 1;
    }
    for (const section of sections) {
      section.hidden = ![...section.querySelectorAll(".config-row")].some((element) => !element.hidden);
      if (wanted && !section.hidden) section.open = true;
    }
    setText(count, wanted ? `${found} of ${rows.size} values` : `${rows.size} values`);
  }

  // The changes

  const error = errorLine();
  const list = h("ul", {class: "changes"});
  const note = h("p", {class: "note", role: "status", hidden: true}, "The device was away, and may have another configuration now. Your changes are still here.");
  const discard = h("button", {type: "button", onclick: drawAnew}, "Discard");
  const apply = h("button", {type: "button", title: "Until the next restart", onclick: () => act(apply, error, () => send({})).then(draw)}, "Try until restart");
  const save = h("button", {type: "button", onclick: () => act(save, error, () => send({save: true})).then(draw)}, "Save");
  const restart = h("button", {type: "button", class: "primary", onclick: saveAndRestart}, "Save and restart");
  const bar = h("section", {class: "card stack tight change-bar", "aria-label": "Changes"}, note, list, error.element, h("div", {class: "actions"}, discard, apply, save, restart));
  const content = h("div", {class: "stack"}, tree, bar);

  function drawAnew() {
    draft = base;
    error.clear();
    drawTree();
  }

  function draw() {
    const all = changes(base, draft);
    const touched = new Set(all.map(({path}) => keyOf(path)));
    for (const [key, {element, undo}] of rows) {
      const is = touched.has(key) || wrong.has(key);
      element.classList.toggle("changed", is);
      element.classList.toggle("wrong", wrong.has(key));
      undo.hidden = !is;
    }
    bar.hidden = touched.size === 0 && wrong.size === 0 && error.element.hidden;
    fill(list, all.map(({path, before, after}) => h("li", {}, h("span", {class: "code"}, foreign(shortPath(path))), ": ",
      SECRET_KEYS.test(path.at(-1)) && typeof after === "string" ? "another value" : h("span", {class: "code"}, foreign(shortJson(before, 60)), " → ", foreign(shortJson(after, 60))))),
    wrong.size > 0 && h("li", {class: "bad"}, wrong.size === 1 ? "One value cannot be read: it is marked." : `${wrong.size} values cannot be read: they are marked.`));
    const sendable = touched.size > 0 && wrong.size === 0 && present.online;
    for (const button of [apply, save, restart]) if (!button.hasAttribute("aria-busy")) button.disabled = !sendable;
    for (const button of tree.querySelectorAll("[data-online]")) button.disabled = !present.online;
  }

  // Sends the differences with Config.Set; `save` keeps them over a restart.
  async function send({save: keep = false, restart: again = false}) {
    const sent = draft;
    await call(device.id, "Config.Set", {config: patch(base, sent)}, {timeout: SAVE_TIMEOUT});
    if (keep) await call(device.id, "Config.Save", again ? {reboot: true} : {}, {timeout: SAVE_TIMEOUT});
    base = sent;
    if (draft === sent) drawTree();
    toast(again ? "Saved: the device restarts." : keep ? "Saved. Some settings come into effect with the next restart." : "Set until the next restart of the device.");
    return true;
  }

  async function saveAndRestart() {
    const delicate = [...new Set(changes(base, draft).map(({path}) => path[0]))].filter((section) => DELICATE_SECTIONS.has(section));
    await ask({
      title: "Save and restart the device?",
      lost: ["It is offline for some seconds, and what it was doing is interrupted.", delicate.length > 0 && [" With a mistake in ", h("strong", {}, delicate.join(", ")),
        ", it may not come back, and has to be set up by cable."]],
      action: "Save and restart",
      danger: delicate.length > 0,
      onConfirm: () => send({save: true, restart: true}),
    });
    draw();
  }

  async function reread() {
    if (isUnsent() && !(await ask({title: "Read it again?", lost: "The changes that you have not sent are lost.", action: "Read again", danger: true}))) return;
    drawAnew();
    source.reload();
  }

  return {
    element: source.element,
    update: (now) => {
      present = now;
      source.update(now);
      draw();
    },
    destroy: () => {
      unguard();
      source.destroy();
      if (source.isLoaded()) keep(session.user, device.id, "config", isUnsent() ? {base, draft, wrong: [...wrong]} : undefined);
    },
  };
}
