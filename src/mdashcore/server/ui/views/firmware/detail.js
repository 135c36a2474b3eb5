// One image of the library: its facts, which devices run it, and what can be done with it.

import {ROOT, del, devicePath, get, post} from "../../api.js";
import {ask, errorLine, inWords} from "../../dialog.js";
import {bytes, field, foreign, h, redraw, setText, timeTag} from "../../dom.js";
import * as live from "../../live.js";
import {go, link} from "../../router.js";
import {facts} from "../device/parts.js";
import {reader} from "../rollouts/follow.js";
import {READ_PAUSE, changesUse} from "./parts.js";

const SUGGESTED_DEVICES = 100; // ids that are offered while one is typed: more are no help
const USES = [["running", "Running"], ["updating", "Updating"], ["failed", "Failed"]];

export default async function detail({id}) {
  const path = `/firmware/${encodeURIComponent(id)}`;
  const line = errorLine();
  const title = foreign("");
  const about = h("div", {});
  const devices = h("div", {class: "stack"});
  let image = null;

  async function read() {
    const [now, found] = await Promise.all([get(path), get(`${path}/devices`)]);
    image = now;
    setText(title, now.name || now.file);
    redraw(about, facts([
      ["Version", now.version && foreign(now.version)],
      ["Build", now.build_id && foreign(now.build_id)],
      ["Application", now.app && foreign(now.app)],
      ["Platform", now.platform && foreign(now.platform)],
      ["File", [foreign(now.file), " ", h("span", {class: "muted"}, bytes(now.size))]],
      ["SHA-256", h("code", {class: "whole"}, now.sha256)],
      ["Added", [timeTag(now.created), " by ", foreign(now.uploaded_by)]],
      ["Notes", now.notes && h("span", {class: "notes"}, foreign(now.notes))],
    ]));
    drawDevices(found);
  }

  function drawDevices(found) {
    const listed = `#/devices?q=${encodeURIComponent(found.filter.join(" "))}`;
    const item = ({id: device, name, reason, state}) => h("li", {}, h("a", {href: link("device", device, "ota")}, foreign(name || device)), reason && h("span", {class: "muted"}, " ", foreign(`${state}: ${reason}`)));
    const part = ([use, words]) => found.counts[use] > 0 && h("section", {class: "stack tight", "aria-label": words},
      h("h3", {}, `${words} `, use === "running" && found.filter.length ? h("a", {href: listed}, found.counts[use].toLocaleString("en")) : found.counts[use].toLocaleString("en")),
      h("ul", {class: "plain-list"}, found[use].map(item), found.counts[use] > found[use].length && h("li", {class: "muted"}, `and ${found.counts[use] - found[use].length} more`)));
    const parts = USES.map(part).filter(Boolean);
    redraw(devices, parts.length ? parts : h("p", {class: "muted"}, "No device runs it."));
  }

  async function edit() {
    const name = h("input", {name: "name", maxlength: 256, autocomplete: "off", value: image.name});
    const notes = h("textarea", {name: "notes", maxlength: 4096, rows: 5, value: image.notes});
    const done = await ask({title: "Edit", body: [field("Name", name), field("Notes", notes)], action: "Save", onConfirm: () => post(path, {name: name.value.trim(), notes: notes.value.trim()})});
    if (done) following.again();
  }

  async function remove() {
    const sure = await ask({
      title: "Delete the image?",
      lost: "No update or rollout can begin with it any more. Devices that run it keep it.",
      action: "Delete",
      danger: true,
      onConfirm: () => del(path),
    });
    if (sure) go("#/firmware");
  }

  async function update() {
    const known = h("datalist", {id: "firmware-devices"}, [...live.devices.values()].slice(0, SUGGESTED_DEVICES).map((device) => h("option", {value: device.id}, device.name)));
    const device = h("input", {name: "device", required: true, maxlength: 128, list: known.id, autocomplete: "off", autocapitalize: "none", spellcheck: "false"});
    const commit = h("input", {type: "checkbox", checked: true, id: "firmware-commit"}), force = h("input", {type: "checkbox", id: "firmware-force"});
    const made = await ask({
      title: "Update a device",
      body: [known, field("Device", device, "its id"),
        h("div", {class: "check-line"}, commit, h("label", {for: "firmware-commit"}, "Commit when the device is back online with it, and healthy")),
        h("div", {class: "check-line"}, force, h("label", {for: "firmware-force"}, "Send it even if the platform, the application or the build speaks against it"))],
      action: "Update",
      onConfirm: () => {
        const query = new URLSearchParams({queue: 1, firmware: id, ...(commit.checked && {commit: "auto"}), ...(force.checked && {force: 1, ...(image.bare && {bare: 1})})});
        return post(`${devicePath(device.value.trim(), "ota")}?${query}`);
      },
    });
    if (made) go(link("device", device.value.trim(), "ota"));
  }

  const following = reader(async () => {
    try {
      await read();
    } catch (problem) {
      if (problem.status !== 404 || image === null) throw problem;
      line.show(new Error(`${inWords(problem)} It was removed.`));
    }
  }, line, READ_PAUSE);
  await following.first();
  const stops = [following.stop, live.onState((state) => state === "live" && following.now()), live.onNotification((note) => {
    if (note.name.startsWith("firmware.") ? note.id === id : changesUse(note.name)) following.again();
  })];
  const button = (label, onclick, props = {}) => h("button", {type: "button", onclick, ...props}, label);
  return {
    title: title.textContent || "Firmware",
    element: h("section", {class: "page stack narrow", "aria-label": "Image"},
      h("div", {}, h("a", {class: "back", href: "#/firmware"}, "← Firmware"), h("h1", {}, title)), line.element,
      h("div", {class: "card stack"}, about, h("div", {class: "actions"},
        button("Delete…", remove, {class: "bad"}), button("Edit…", edit), h("a", {class: "button", href: `${ROOT}/api/v2${path}/image`, download: ""}, "Download"),
        button("Update a device…", update), h("a", {class: "button primary", href: `#/rollouts/new?firmware=${encodeURIComponent(id)}`}, "Roll it out"))),
      h("div", {class: "card stack"}, h("h2", {}, "Devices"), devices)),
    destroy: () => stops.forEach((stop) => stop()),
  };
}
