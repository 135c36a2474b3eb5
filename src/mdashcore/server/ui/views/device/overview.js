// The tab "overview" of a device: its facts, its presence and its measurements.

import {empty} from "../../dialog.js";
import {bytes, fill, foreign, h, redraw, timeTag} from "../../dom.js";
import {link} from "../../router.js";
import {shortJson} from "../../tree.js";
import {commitBanner, firmware, onTrial} from "./commit.js";
import {facts} from "./parts.js";
import {presenceStrip} from "./presence.js";
import {values} from "./values.js";

export default function overview(device, context) {
  const banner = commitBanner(device);
  const strip = presenceStrip(device);
  const plots = values(device, context);
  const about = h("div", {class: "card device-facts"});
  const first = h("div", {});

  function update(now) {
    banner.update(now);
    const never = now.last_seen === null;
    first.hidden = !never;
    strip.element.parentElement.hidden = plots.element.hidden = never;
    if (never && !first.firstChild) {
      fill(first, empty("It has never been connected", "Start the device with the token that was shown when it was registered. This page fills by itself as soon as it connects.",
        h("a", {class: "button", href: link("device", now.id, "shadow")}, "Set a desired state meanwhile")));
    }
    redraw(about, h("h2", {}, "About"), facts(described(now)));
  }

  const element = h("div", {class: "stack overview"}, banner.element, first,
    h("div", {class: "card"}, strip.element), plots.element, about);
  update(device);
  return {
    element,
    update,
    destroy: () => {
      banner.destroy();
      strip.destroy();
      plots.destroy();
    },
  };
}

const said = (value) => (value === undefined || value === null || value === "" ? null : foreign(typeof value === "string" ? value : shortJson(value)));

function described(device) {
  const {app, arch, fw_version: version, fw_id: build, mac, is_committed: committed, partition} = firmware(device);
  const {ram_free: free, ram_total: total} = device.shadow.state.reported?.stats ?? {};
  return [
    ["Id", h("code", {}, foreign(device.id))],
    ["Application", said(app)],
    ["Firmware", version === undefined ? null : [said(version), onTrial(device) && h("span", {class: "tag warn"}, "uncommitted"), committed === true && h("span", {class: "tag"}, "committed")]],
    ["Build", said(build)],
    ["Architecture", said(arch)],
    ["MAC address", said(mac)],
    ["Slot", said(partition)],
    ["RAM", typeof free === "number" && typeof total === "number" ? `${bytes(free)} of ${bytes(total)} free` : null],
    ["Shadow", h("a", {href: link("device", device.id, "shadow")}, `version ${device.shadow.version}`)],
    ["Registered", timeTag(device.created_at)],
    device.online ? ["Online since", timeTag(device.since)] : ["Last seen", timeTag(device.last_seen)],
  ];
}
