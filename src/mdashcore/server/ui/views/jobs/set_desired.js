// The dialogs that begin a job: the values, then a preview of what they change.

import {post} from "../../api.js";
import {ask} from "../../dialog.js";
import {field, foreign, h} from "../../dom.js";
import {jsonEditor} from "../../json_editor.js";
import {selectionOf} from "../../light.js";
import {go, link} from "../../router.js";
import {devices as count} from "../rollouts/parts.js";
import {patchText, valueText} from "./parts.js";

const SHOWN_REFUSALS = 5; // devices that cannot take the values and are named; the others are counted

// Asks for values, shows what they change in the devices, and begins the job. `filter`: the terms that select these
// devices. It is sent in their place, as they may be many.
export async function setDesired(devices, {filter} = {}) {
  const which = selectionOf(devices, filter);
  const name = h("input", {name: "name", maxlength: 256, autocomplete: "off"});
  const values = jsonEditor({label: "Desired values (JSON)", rows: 6});
  values.type("{\n  \n}");
  let request = null;
  let preview = null;
  const asked = await ask({
    title: `Set desired values of ${count(devices.length)}`,
    body: [values.element, h("p", {class: "hint"}, "Members are set, those that are null are removed, all others stay. Nothing changes before you have seen a preview."), field("Name", name, "for people, in the list of jobs")],
    action: "Preview",
    onConfirm: async () => {
      request = {...which, desired: values.value, name: name.value.trim()};
      preview = await post("/jobs", {...request, preview: true});
    },
  });
  if (!asked) return;
  const nothing = preview.changed === 0;
  let job = null;
  const sure = await ask({
    title: nothing ? "Nothing would change" : `Change ${count(preview.changed)}?`,
    body: [h("p", {}, foreign(patchText(request.desired))), numbers(preview), table(preview), names(preview), refusals(preview)],
    action: nothing ? "Close" : `Set for ${count(preview.changed)}`,
    onConfirm: async () => {
      if (!nothing) job = await post("/jobs", request);
    },
  });
  if (sure && job) go(link("jobs", job.id));
}

function numbers({devices, changed, unchanged, failed}) {
  const parts = [`${changed} of ${count(devices)} would change`, unchanged > 0 && `${unchanged} ${unchanged === 1 ? "has" : "have"} the values already`];
  return h("p", {role: "status"}, parts.filter(Boolean).join(", "), failed > 0 && [", ", h("b", {}, `${failed} cannot take them`)], ".");
}

function table({changes, other_changes: others}) {
  if (!changes.length) return null;
  const row = ({path, before, after, devices}) => h("tr", {}, h("td", {}, foreign(path.join("."))), h("td", {}, valueText(before)), h("td", {}, valueText(after)), h("td", {class: "number"}, String(devices)));
  return h("div", {class: "preview-table"}, h("table", {"aria-label": "Changes"},
    h("thead", {}, h("tr", {}, ["Value", "Before", "After", "Devices"].map((title) => h("th", {scope: "col"}, title)))),
    h("tbody", {}, changes.map(row))), others > 0 && h("p", {class: "muted"}, `and ${others} other changes`));
}

// The devices that would change, which one has to open.
function names({shown, changed}) {
  if (!changed) return null;
  return h("details", {}, h("summary", {}, "Which devices"), h("p", {class: "preview-names"}, shown.map(({device}, i) => [i > 0 && ", ", foreign(device)]),
    changed > shown.length && ` and ${changed - shown.length} more`));
}

function refusals({failures, failed}) {
  if (!failed) return null;
  const some = failures.slice(0, SHOWN_REFUSALS);
  return h("div", {class: "banner"}, h("div", {class: "stack tight"}, some.map(({device, reason}) => h("span", {}, foreign(device), ": ", foreign(reason))),
    failed > some.length && h("span", {}, `and ${failed - some.length} more`)));
}
