// Acts on devices: register, rename, renew the token, delete, update, call.

import {ROOT, call, del, devicePath, post, put} from "../../api.js";
import {ask, copyButton, errorLine, openOnce} from "../../dialog.js";
import {bytes, field, fill, foreign, h, setText} from "../../dom.js";
import {libraryChoice} from "../../firmware_choice.js";
import {showJob, startJob} from "../../jobs.js";
import {jsonEditor} from "../../json_editor.js";
import * as live from "../../live.js";
import {go, link} from "../../router.js";
import {lossOf} from "../device/destroys.js";
import {onlineTag} from "../device/parts.js";
import {draft} from "../rollouts/parts.js";
import {review} from "../rollouts/review.js";

const NAMED_DEVICES = 5; // devices that a confirmation names; the others are counted

const NAME_LENGTH = 60; // characters of each of those names

const PARALLEL_DEVICES = {delete: 8, call: 16}; // devices at a time

const ROLLOUT_SIZE = 50; // devices from which on a rollout is the better way to update

export async function register() {
  const id = h("input", {name: "id", maxlength: 128, autocomplete: "off", autocapitalize: "none", spellcheck: "false"});
  const name = h("input", {name: "name", maxlength: 256, autocomplete: "off"});
  const created = await ask({
    title: "Register a device",
    body: [field("Id", id, "A-Z a-z 0-9 . _ ~ : @ + = - and no space; leave it empty for a generated one"), field("Name", name, "for people; the id if empty")],
    action: "Register",
    onConfirm: () => post("/devices", {...(id.value && {id: id.value}), ...(name.value && {name: name.value})}),
  });
  if (created) showToken("Registered", created);
}

function showToken(title, {id, token}) {
  const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${ROOT}`;
  const lines = [
    ["Try it with a virtual device", `mdash device --server ${url} --token ${token}`],
    ["Mongoose OS, over a cable", `mos config-set dash.enable=true dash.server=${url}/api/v2/rpc dash.token=${token}`],
  ];
  const copyable = (text, props) => h("div", {class: "secret"}, h("code", props, text), copyButton(() => text));
  const state = h("p", {class: "first-contact", role: "status"});
  const draw = (device) => fill(state, device?.online ? [onlineTag(device), " It is connected."] : "Not connected yet: this changes as soon as it is.");
  const unsubscribe = live.onDevice(id, draw);
  draw(live.devices.get(id));
  live.refresh(id).catch(() => {}); // the page may not have it of a large fleet
  const dialog = openOnce(title, h("div", {class: "stack"},
    h("p", {}, "This is the token of ", h("code", {}, foreign(id)), ", with which it connects. It is shown this once: copy it now."),
    copyable(token, {class: "token"}),
    lines.map(([label, line]) => h("div", {class: "stack tight"}, h("h3", {}, label), copyable(line))),
    state, h("div", {class: "actions"}, h("button", {type: "button", class: "primary", onclick: () => dialog.close()}, "Done"))), unsubscribe);
}

// Limits the deltas for a device: some firmware takes no frame of more than 4096 bytes.
export async function limitDeltas({id, delta_limit: before}) {
  const limit = h("input", {name: "delta_limit", type: "number", min: 1024, max: 131072, inputmode: "numeric", autocomplete: "off", value: before || ""});
  const asked = ask({
    title: "Limit of deltas",
    body: [field("Bytes", limit), h("p", {class: "hint"},
      "A larger delta is not sent to the device: it can ask for it with ", h("code", {}, "Dash.Shadow.Get"), ". Mongoose OS takes 4096 bytes. Empty: no limit, but that of the device's platform, if the server has one.")],
    action: "Save",
    onConfirm: async () => {
      await put(devicePath(id), {delta_limit: limit.value === "" ? null : Number(limit.value)});
    },
  });
  limit.select();
  return asked;
}

export async function rename({id, name: before}) {
  const name = h("input", {name: "name", maxlength: 256, autocomplete: "off", value: before, required: true});
  const asked = ask({
    title: "Rename",
    body: [field("Name", name), h("p", {class: "hint"}, "The id stays ", h("code", {}, foreign(id)), ".")],
    action: "Rename",
    onConfirm: async () => {
      await put(devicePath(id), {name: name.value});
    },
  });
  name.select();
  return asked;
}

export async function renewToken({id, name}) {
  const created = await ask({
    title: h("span", {}, "A new token for ", foreign(short(name || id))),
    lost: "Its present token stops working immediately, and its connection is closed. It can connect again only with the new one.",
    action: "Make a new token",
    danger: true,
    onConfirm: () => post(devicePath(id, "token")),
  });
  if (created) showToken("The new token", created);
}

// Returns the names of some devices: "a, b and 12 more".
function names(devices) {
  const some = devices.slice(0, NAMED_DEVICES).map(({name}, i) => [i > 0 && ", ", h("b", {class: "name"}, foreign(short(name)))]);
  return h("span", {}, some, devices.length > NAMED_DEVICES && ` and ${devices.length - NAMED_DEVICES} more`);
}

const short = (name) => (name.length > NAME_LENGTH ? `${name.slice(0, NAME_LENGTH)}…` : name);

export const inFigures = (count) => count.toLocaleString("en");

export const these = (count) => (count === 1 ? "1 device" : `${inFigures(count)} devices`);

// Removes devices after a question; returns whether the person agreed.
export async function remove(devices) {
  const one = devices.length === 1;
  const sure = await ask({
    title: one ? h("span", {}, "Delete ", foreign(short(devices[0].name || devices[0].id)), "?") : `Delete ${these(devices.length)}?`,
    body: h("div", {class: "stack tight"}, !one && h("p", {}, names(devices)),
      h("p", {}, one ? "Its token and its connection end immediately. Its shadow and its firmware updates are lost."
        : "Their tokens and connections end immediately. Their shadows and firmware updates are lost."),
      h("p", {class: "muted"}, "Notifications in the log stay. This cannot be undone.")),
    action: one ? "Delete" : `Delete ${these(devices.length)}`,
    danger: true,
    destroys: devices.length,
    onConfirm: one ? () => del(devicePath(devices[0].id)) : undefined,
  });
  if (!sure || one) return sure;
  showJob(startJob({
    title: `Deleting ${these(devices.length)}`,
    devices,
    width: PARALLEL_DEVICES.delete,
    run: async ({id}) => {
      try {
        await del(devicePath(id));
      } catch (error) {
        if (error.status !== 404) throw error; // the device was removed meanwhile
      }
    },
  }));
  return true;
}

export async function update(devices) {
  const offline = devices.filter(({id}) => !live.devices.get(id)?.online).length;
  const chosen = h("p", {class: "muted"}, "A firmware .zip of Mongoose OS");
  const file = h("input", {type: "file", required: true, autofocus: true, onchange: () => setText(chosen, file.files[0] ? bytes(file.files[0].size) : "")});
  const fileField = field("Image", file);
  const library = libraryChoice({onChange: (image) => {
    fileField.hidden = chosen.hidden = image !== null;
    file.required = image === null;
  }});
  const commit = h("input", {type: "checkbox", checked: true, id: "bulk-commit"});
  let reviewed = null;
  const sure = await ask({
    title: `Update the firmware of ${these(devices.length)}`,
    body: [
      h("p", {}, names(devices)),
      offline > 0 && h("p", {class: "banner"}, offline === devices.length ? "None of them is online now: the update waits for them."
        : `${offline} of them ${offline === 1 ? "is" : "are"} offline now: the update waits for them.`),
      h("p", {class: devices.length > ROLLOUT_SIZE ? "banner" : "hint"}, h("span", {}, "A rollout is safer for many: it goes in phases, and pauses when devices fail. ",
        h("a", {href: "#/rollouts/new?devices=selected", onclick: (event) => {
          draft.ids = devices.map(({id}) => id);
          event.target.closest("dialog").close();
        }}, "Make it a rollout"), ".")),
      library.element, fileField, chosen,
      h("div", {class: "check-line"}, commit, h("label", {for: "bulk-commit"}, "Commit when a device is back online with the new firmware. Otherwise it goes back to the old one, unless you commit it by hand")),
    ],
    action: "Review…",
    onConfirm: async () => {
      const request = {kind: "bulk", devices: devices.map(({id}) => id), auto_commit: commit.checked};
      reviewed = await review({request, kept: library.image(), file: file.files[0], title: `Update ${these(devices.length)}?`});
    },
  });
  const made = sure && (await reviewed.ask());
  if (made) go(link("rollouts", made.id));
}

export async function callMethod(devices) {
  const known = h("datalist", {id: "bulk-methods"});
  const method = h("input", {name: "method", required: true, maxlength: 256, list: known.id, autocomplete: "off", autocapitalize: "none", spellcheck: "false", placeholder: "Sys.GetInfo"});
  const params = jsonEditor({label: "Parameters (JSON, or nothing)", rows: 4, optional: true});
  const hint = errorLine();
  const online = devices.find(({id}) => live.devices.get(id)?.online);
  if (online) {
    call(online.id, "RPC.List").then((list) => {
      if (Array.isArray(list)) known.append(...list.filter((name) => typeof name === "string").map((value) => h("option", {value})));
    }, () => {}); // the list only saves typing
  }
  let wanted;
  const sure = await ask({
    title: `Call a method of ${these(devices.length)}`,
    body: [h("p", {}, names(devices)), known, field("Method", method), params.element, hint.element],
    action: "Call",
    onConfirm: () => {
      wanted = {method: method.value.trim(), params: params.value};
    },
  });
  if (!sure) return;
  const lost = lossOf(wanted.method, wanted.params);
  if (lost && !(await ask({title: `Call ${wanted.method} of ${these(devices.length)}?`, body: h("p", {}, names(devices)), lost, action: "Call", danger: true, destroys: devices.length}))) return;
  showJob(startJob({
    title: `Calling ${wanted.method} of ${these(devices.length)}`,
    devices,
    width: PARALLEL_DEVICES.call,
    run: async ({id}, {signal}) => JSON.stringify(await call(id, wanted.method, wanted.params, {signal}), null, 1),
  }));
}
