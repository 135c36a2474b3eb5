// The desired state of a device, edited as a form of leaves or as JSON.
//
// `base` is the desired state from which the draft was made. While it is the present one, saving sends the differences,
// locked to the shadow's version. Reports of the device raise the version too. Only another desired state is a
// conflict, which the person resolves. If a device reports without a pause, the lock is given up in the end: the patch
// changes only the edited values.

import {devicePath, post} from "../../api.js";
import {act, errorLine, toast} from "../../dialog.js";
import {fill, foreign, h, setText} from "../../dom.js";
import {jsonEditor} from "../../json_editor.js";
import * as live from "../../live.js";
import {changes, keyOf, leaves, patch, shortJson, shortPath, withoutNulls} from "../../tree.js";
import {guard, keep, take} from "./drafts.js";
import {leafForm} from "./leaf_form.js";

const SAVE_TRIES = 5; // locked saves: of a device that reports every second, one in ten meets a report on its way
const LISTED_CHANGES = 50; // changes that are listed before they are sent

const {isObject, merge, same} = live;
const desiredOf = (device) => device.shadow.state.desired ?? {};

export function desiredEditor(device, user) {
  let present = device;
  let base = desiredOf(device);
  let draft = base;
  let mode = "form";
  let valid = true;
  const error = errorLine();

  const form = leafForm({onChange: (next, ok) => changed(next, ok)});
  const editor = jsonEditor({label: "Desired state as JSON", value: {}, rows: 14, onChange: () => {
    if (mode !== "json") return;
    let next = null;
    try {
      next = JSON.parse(editor.area.value.trim() || "{}");
    } catch {
      return void changed(draft, false); // the editor shows the error
    }
    if (!isObject(next)) setText(notObject, "The desired state is an object: {…}");
    notObject.hidden = isObject(next);
    changed(isObject(next) ? next : draft, isObject(next));
  }});
  const notObject = h("p", {class: "json-status", hidden: true, role: "alert"});
  const jsonBox = h("div", {class: "stack tight", hidden: true}, editor.element, notObject,
    h("p", {class: "hint"}, "A key that is taken out, or set to null, is deleted."));

  const switches = ["form", "json"].map((key) => h("button", {type: "button", "aria-pressed": key === mode, "data-mode": key, onclick: () => show(key)},
    key === "form" ? "Form" : "JSON"));
  const preview = h("ul", {class: "changes"});
  const previewBox = h("div", {class: "stack tight", hidden: true}, h("h3", {}, "What will be sent"), preview);
  let theirs = {}; // the desired state that the conflict shows
  const conflictWords = h("p", {}), theirChanges = h("ul", {class: "changes"});
  const putOnTop = h("button", {type: "button", class: "primary", onclick: () => {
    draft = merge(theirs, wanted() ?? {});
    base = theirs;
    fillIn();
  }}, "Put my changes on top");
  const conflict = h("section", {class: "conflict stack tight", "aria-label": "Conflict", role: "alert", hidden: true},
    h("h3", {}, "It was changed elsewhere meanwhile"), conflictWords, theirChanges,
    h("div", {class: "actions"}, h("button", {type: "button", onclick: () => restart(theirs)}, "Discard my changes"), putOnTop));
  const save = h("button", {type: "submit", class: "primary"}, "Save");
  const discard = h("button", {type: "button", onclick: () => restart(desiredOf(present))}, "Discard");

  const element = h("form", {class: "card stack", "aria-label": "Desired", novalidate: true, onsubmit: (event) => {
    event.preventDefault();
    if (save.disabled) return;
    act(save, error, send).then(draw);
    draw();
  }}, h("header", {class: "section-head"}, h("h2", {}, "Desired"), h("div", {class: "switch", role: "group", "aria-label": "Edit as"}, switches)),
  conflict, form.element, jsonBox, previewBox, error.element, h("div", {class: "actions"}, discard, save));

  // The draft

  function changed(next, ok) {
    draft = next;
    valid = ok;
    draw();
  }

  function show(next) {
    if (next === mode) return;
    if (!valid) {
      error.show(new Error("Correct the marked parts first, or discard them"));
      return;
    }
    error.clear();
    mode = next;
    fillIn();
  }

  function fillIn() {
    for (const button of switches) button.setAttribute("aria-pressed", button.dataset.mode === mode);
    form.element.hidden = mode !== "form";
    jsonBox.hidden = mode !== "json";
    notObject.hidden = true;
    valid = true;
    if (mode === "form") form.set(withoutNulls(draft), present.shadow.state.reported);
    else editor.set(draft);
    draw();
  }

  function restart(from) {
    base = draft = from;
    error.clear();
    fillIn();
  }

  const wanted = () => patch(base, draft);

  function draw() {
    const sent = wanted();
    const touched = sent !== undefined || !valid;
    const other = !same(base, desiredOf(present));
    save.disabled = sent === undefined || !valid || other || save.hasAttribute("aria-busy");
    discard.disabled = !touched || save.hasAttribute("aria-busy");
    previewBox.hidden = sent === undefined;
    if (sent) {
      const all = changes(base, withoutNulls(draft));
      fill(preview, all.slice(0, LISTED_CHANGES).map(describe), all.length > LISTED_CHANGES && h("li", {class: "muted"}, `… and ${all.length - LISTED_CHANGES} more`));
    }
    drawConflict(other && touched && !save.hasAttribute("aria-busy")); // a running save is the person's own change
  }

  // The conflict with another desired state

  function drawConflict(is) {
    if (!is) {
      conflict.hidden = true;
      return;
    }
    const mine = new Set(changes(base, withoutNulls(draft)).map(({path}) => keyOf(path)));
    theirs = desiredOf(present);
    const list = changes(base, theirs);
    setText(conflictWords, `Version ${present.shadow.version} has another desired state than the one that you began with:`);
    fill(theirChanges, list.slice(0, LISTED_CHANGES).map((change) => describe(change, mine.has(keyOf(change.path)))));
    putOnTop.disabled = !valid;
    conflict.hidden = false;
  }

  async function send() {
    const sent = wanted(), saved = draft;
    for (let tries = SAVE_TRIES; ; tries -= 1) {
      try {
        const lock = tries > 0 ? {version: present.shadow.version} : {}; // at last without a lock: the version was checked just now
        await post(devicePath(device.id, "shadow"), {state: {desired: sent}, ...lock});
        break;
      } catch (problem) {
        if (problem.status !== 409 || tries === 0) throw problem;
        present = (await live.refresh(device.id)) ?? present;
        if (!same(base, desiredOf(present))) return; // drawn as a conflict
      }
    }
    base = merge(base, sent);
    present = (await live.refresh(device.id)) ?? present;
    toast(present.online ? "Saved, and sent to the device." : "Saved. The device gets it when it connects.");
    if (valid && same(draft, saved)) restart(desiredOf(present)); // else the person types on
  }

  const isUnsent = () => !valid || wanted() !== undefined;
  const unguard = guard(isUnsent);
  const kept = take(user, device.id, "shadow");
  if (kept) {
    ({base, draft, mode} = kept);
    fillIn();
    if (mode === "json" && kept.typed !== undefined) editor.type(kept.typed);
    if (mode === "form") form.type(kept.wrong);
  } else {
    restart(base);
  }
  return {
    element,
    update: (now) => {
      present = now;
      if (!isUnsent() && !save.hasAttribute("aria-busy") && !same(base, desiredOf(now))) restart(desiredOf(now));
      else draw();
      form.suggest(now.shadow.state.reported);
    },
    destroy: () => {
      unguard();
      keep(user, device.id, "shadow", isUnsent() ? {base, draft, mode, wrong: form.wrong(), typed: valid ? undefined : editor.area.value} : undefined);
    },
  };
}

const shown = (value) => (value === undefined ? h("span", {class: "muted"}, "nothing") : h("span", {class: "code"}, foreign(shortJson(value))));

function describe({path, before, after}, alsoMine = false) {
  return h("li", {}, h("span", {class: "code"}, foreign(shortPath(path))), ": ",
    after === undefined ? ["deleted", " (was ", shown(before), ")"] : [shown(before), " → ", shown(after)],
    alsoMine === true && h("span", {class: "tag warn"}, "you changed it too"));
}
