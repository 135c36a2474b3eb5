// The tab "shadow" of a device: its desired state, its reported state, and their difference.

import {fill, foreign, h, setText, timeTag} from "../../dom.js";
import {jsonTree} from "../../json_tree.js";
import {at, keyOf, leaves, shortJson, shortPath} from "../../tree.js";
import {desiredEditor} from "./desired.js";
import {offlineNote} from "./parts.js";

const LISTED_PATHS = 200; // listed paths that differ: people do not read more one by one

// Returns the bytes of the frame with a delta for the device.
const frameSize = (params) => new TextEncoder().encode(JSON.stringify({jsonrpc: "2.0", method: "Shadow.Delta", params})).length;

export default function shadow(device, {session}) {
  const note = offlineNote("It gets the desired state when it connects.");
  const version = h("p", {class: "muted"});
  const state = h("p", {class: "delta-state", role: "status"});
  const rows = h("tbody", {});
  const table = h("div", {class: "scroll", tabindex: 0, role: "group", "aria-label": "Differences"}, h("table", {class: "plain delta"},
    h("thead", {}, h("tr", {}, ["Path", "Desired", "Reported"].map((title) => h("th", {scope: "col"}, title)))), rows));
  const reported = jsonTree({label: "Reported state"});
  const nothing = h("p", {class: "muted"}, "No reported state yet. It appears here when the device reports it.");
  const editor = desiredEditor(device, session.user);

  function update(now) {
    const {state: sections, version: number, timestamp} = now.shadow;
    note.update(now);
    fill(version, `Version ${number}`, timestamp > 0 && [", changed ", timeTag(timestamp)]);
    const different = leaves(sections.delta);
    drawDelta(different, now);
    const marks = new Map(different.map(([path]) => [keyOf(path), "differs"]));
    reported.set(sections.reported ?? {}, marks);
    nothing.hidden = sections.reported !== undefined;
    reported.element.hidden = reported.tools.hidden = !nothing.hidden;
    editor.update(now);
  }

  function drawDelta(different, {online, delta_limit: limit, shadow: {state: sections, version: number, timestamp}}) {
    const size = limit > 0 && sections.delta ? frameSize({state: sections.delta, version: number, timestamp}) : 0;
    const told = size > limit ? `the delta has ${size} bytes and the device takes ${limit}, so it is not sent. The device can ask for it with Dash.Shadow.Get.`
      : online ? "the delta was sent, and the device has not reported it yet." : "the device gets the delta when it connects.";
    table.hidden = different.length === 0;
    state.className = different.length ? "delta-state differs" : "delta-state";
    const many = different.length === 1 ? "One value differs" : `${different.length} values differ`;
    setText(state, different.length ? `${many}: ${told}`
      : sections.desired ? "No delta: the device reports the desired state." : "No delta: there is no desired state yet.");
    fill(rows, different.slice(0, LISTED_PATHS).map(([path, wanted]) => {
      const is = at(sections.reported, path);
      return h("tr", {}, h("th", {scope: "row", class: "code"}, foreign(shortPath(path))), h("td", {class: "code"}, foreign(shortJson(wanted))),
        h("td", {class: "code"}, is === undefined ? h("span", {class: "muted"}, "not there") : foreign(shortJson(is))));
    }), different.length > LISTED_PATHS && h("tr", {}, h("td", {colspan: 3, class: "muted"}, `… and ${different.length - LISTED_PATHS} more`)));
  }

  const element = h("div", {class: "stack"}, note.element,
    h("section", {class: "card stack", "aria-label": "Delta"}, h("header", {class: "section-head"}, h("h2", {}, "Delta"), version), state, table),
    h("div", {class: "columns"},
      editor.element,
      h("section", {class: "card stack", "aria-label": "Reported"}, h("header", {class: "section-head"}, h("h2", {}, "Reported"), reported.tools), nothing, reported.element)));
  update(device);
  return {element, update, destroy: editor.destroy};
}
