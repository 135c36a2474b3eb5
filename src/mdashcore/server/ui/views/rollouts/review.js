// The review of a rollout before it begins: the devices that it reaches, how many of them its image fits, and what a
// person has to confirm.

import {post, upload} from "../../api.js";
import {ask, progress} from "../../dialog.js";
import {foreign, h, uniqueId} from "../../dom.js";
import {isZip, readFirmware} from "../../zip.js";
import {devices} from "./parts.js";

const FITS = {fits: "fits", installed: "runs it already", other_platform: "another platform", other_app: "another application"};

// Previews a rollout; throws if the server refuses it. The result's ask() shows the preview and begins the rollout: a
// Promise of the rollout, or of false. `request` is the body of the rollout without its image, `kept` an image of the
// library, `file` another one.
export async function review({request, kept = null, file, keep = false, title, signal}) {
  const source = kept ? {firmware: kept.id} : {image: await imageFacts(file)};
  const preview = await post("/rollouts/preview", {...request, ...source});
  if (preview.devices === 0) throw new Error("The selection has no devices");
  const switches = Object.fromEntries(preview.missing.map((name) => [name, required(SWITCHES[name]?.(preview) ?? name)]));
  const bar = progress("Upload");
  bar.element.hidden = true;
  return {ask: () => ask({
    title,
    body: [h("div", {class: "stack"}, numbers(preview), table(preview), phases(preview), Object.values(switches), bar.element)],
    action: `Start for ${devices(preview.devices)}`,
    onConfirm: () => {
      const wanted = {...request, expect: preview.devices, ...("other_app" in switches && {other_app: true})};
      const path = `/rollouts?${new URLSearchParams({...("bare" in switches && {bare: 1}), ...(!kept && keep && {keep: 1})})}`;
      if (kept) return post(path, {...wanted, firmware: kept.id});
      bar.element.hidden = false;
      return upload(path, file, {fields: {rollout: JSON.stringify(wanted)}, signal, onProgress: (fraction) => bar.set(fraction, fraction < 1 ? `${Math.round(100 * fraction)} %` : "being checked")});
    },
  })};
}

// Returns what a preview has to know of a file: what its manifest says, or that it has none.
async function imageFacts(file) {
  const read = (await isZip(file)) ? await readFirmware(file).catch(() => null) : null;
  if (!read?.manifest || read.problems.length) return {bare: true};
  const said = (value) => (typeof value === "string" ? value : null);
  const {name, platform, version, build_id: build} = read.manifest;
  return {app: said(name), platform: said(platform), version: said(version), build_id: said(build)};
}

const SWITCHES = {
  bare: ({devices: number}) => `It is no firmware zip, so nothing says which devices it is for. Send it as it is to ${devices(number)}`,
  other_app: ({other_app: number}) => `Send it also to the ${devices(number)} that ${number === 1 ? "runs" : "run"} another application`,
};

function required(words) {
  const id = uniqueId("switch");
  return h("div", {class: "check-line banner"}, h("input", {type: "checkbox", required: true, id}), h("label", {for: id}, words));
}

function numbers({devices: all, fits, installed, other_platform: platform, other_app: app, offline, unknown}) {
  const parts = [installed > 0 && `${installed} ${installed === 1 ? "runs" : "run"} it already`,
    platform > 0 && `${platform} ${platform === 1 ? "is" : "are"} of another platform and will refuse it`, app > 0 && `${app} ${app === 1 ? "runs" : "run"} another application`];
  return h("div", {class: "stack tight"},
    h("p", {role: "status", class: fits === 0 ? "banner" : null}, h("span", {}, h("b", {}, `Fits ${fits} of ${devices(all)}`), parts.filter(Boolean).map((each) => `, ${each}`), ".")),
    offline > 0 && h("p", {class: "muted"}, `${offline === all ? "All" : offline} ${offline === 1 && all > 1 ? "is" : "are"} offline now: the update waits for them.`),
    unknown > 0 && h("p", {class: "muted"}, `Of those that it fits, ${unknown} ${unknown === 1 ? "does" : "do"} not say the platform or the application.`));
}

function table({groups, other_groups: others}) {
  const runs = ({platform, app, version}) => (platform ?? app ?? version) === null ? h("span", {class: "muted"}, "not said")
    : [platform, app, version].map((each, n) => [n > 0 && " ", each === null ? h("span", {class: "muted"}, "?") : foreign(each)]);
  const row = (group) => h("tr", {}, h("td", {}, runs(group)), h("td", {class: group.fit === "fits" ? null : "muted"}, FITS[group.fit] ?? group.fit), h("td", {class: "number"}, String(group.devices)));
  return h("div", {class: "preview-table", role: "group", tabindex: 0, "aria-label": "Devices by what they run"}, h("table", {"aria-label": "Devices by what they run"},
    h("thead", {}, h("tr", {}, ["Platform, application, version", "The image", "Devices"].map((title) => h("th", {scope: "col"}, title)))),
    h("tbody", {}, groups.map(row))), others > 0 && h("p", {class: "muted"}, `and ${devices(others)} of other kinds`));
}

function phases({phases: all}) {
  const counts = all.map(({devices: number}) => number).filter((number) => number > 0);
  return counts.length > 1 && h("p", {}, `Phases: ${counts.join(", then ")} devices.`);
}
