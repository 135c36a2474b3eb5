// A chosen image before it is sent: the facts of its manifest, whether it fits, and the options of the update.

import {act, errorLine, progress} from "../../dialog.js";
import {bytes, field, fill, foreign, h} from "../../dom.js";
import {libraryChoice} from "../../firmware_choice.js";
import {isZip, readFirmware} from "../../zip.js";
import {firmware, onTrial} from "./commit.js";
import {guard} from "./drafts.js";
import {facts} from "./parts.js";

const MAX_IMAGE = 64 * 2 ** 20; // bytes: the server takes no larger image
const COMMIT_TIMEOUT = 300; // s: the server's default for devices
const MAX_TIME = 86_400; // s: the longest time that the server takes
const LISTED_PARTS = 20; // listed parts of a firmware: real ones have under 10

const FORCED_HINT = " It can be sent all the same: see below, how it is sent.";

const text = (value) => (typeof value === "string" || typeof value === "number" ? String(value).slice(0, 300) : "");

// {element, choose(file), update(device)}; `send(file, query, {onProgress, signal})` sends it. For an image of the
// library `file` is null, and the query names it.
export function imageForm(device, {send, onDone}) {
  let present = device;
  let chosen = null; // {file, read, kept}: a file or an image of the library, and what was read of it
  let sending = null;
  const error = errorLine();
  const element = h("div", {});
  const pick = h("input", {type: "file", accept: ".zip,application/zip,.bin,application/octet-stream", hidden: true, "aria-label": "Firmware to send", onchange: () => {
    if (pick.files[0]) choose(pick.files[0]);
    pick.value = "";
  }});
  const drop = h("div", {class: "dropzone", ondragover: (event) => {
    event.preventDefault();
    drop.classList.add("over");
  }, ondragleave: () => drop.classList.remove("over"), ondrop: (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files[0]) choose(event.dataTransfer.files[0]);
  }}, h("p", {}, h("strong", {}, "Drop a firmware .zip here")), h("button", {type: "button", class: "primary", onclick: () => pick.click()}, "Choose a file"), pick,
  h("p", {class: "hint"}, "You see what is in it before anything is sent."));
  const library = libraryChoice({onChange: (image) => {
    if (image === null) return;
    const {file: name, size, app, version, build_id: build, platform} = image;
    chosen = {file: {name, size}, kept: image, read: image.bare ? null : {manifest: {name: app, version, build_id: build, platform}, problems: []}};
    draw();
  }});

  async function choose(file) {
    error.clear();
    try {
      if (file.size === 0) throw new Error("the file is empty");
      if (file.size > MAX_IMAGE) throw new Error(`the file has ${bytes(file.size)}; an image has at most ${bytes(MAX_IMAGE)}`);
      chosen = {file, kept: null, read: (await isZip(file)) ? await readFirmware(file) : null};
      draw();
    } catch (problem) {
      chosen = null;
      draw();
      error.show(problem instanceof DOMException ? new Error(`${file.name} cannot be read; is it a folder?`) : problem);
    }
  }

  const force = h("input", {type: "checkbox", name: "force", onchange: () => drawFit()});
  const keep = h("input", {type: "checkbox", name: "keep"});
  const commit = h("select", {name: "commit", onchange: () => { wait.hidden = commit.value !== "auto"; }},
    h("option", {value: "manual"}, "by hand, after a look at the device"), h("option", {value: "auto"}, "by itself, when the device stays healthy"));
  const after = h("input", {name: "after", inputmode: "numeric", value: "30", autocomplete: "off"});
  const timeout = h("input", {name: "timeout", inputmode: "numeric", value: String(COMMIT_TIMEOUT), autocomplete: "off"});
  const wait = h("div", {hidden: true}, field("Seconds of health before", after));
  const fit = h("div", {class: "stack tight", role: "status"});
  const go = h("button", {type: "submit", class: "primary"}, "Update the device");
  const bar = progress("Upload to the server");
  const back = h("button", {type: "button", onclick: () => (sending ? sending.abort() : choosing())}, "Cancel");

  function choosing() {
    chosen = null;
    library.clear();
    error.clear();
    draw();
  }

  // Returns the objections: [{words, stops, forced}, …]
  function objections() {
    const {app, arch, fw_id: build, fw_version: version} = firmware(present);
    const {read} = chosen;
    if (!read) {
      return /\.zip$/i.test(chosen.file.name) && !chosen.kept ? [{words: `The server will refuse it: ${chosen.file.name} is no zip file.`, stops: true}]
        : [{words: "This is no zip: it is sent as it is, without a manifest or digests to check it by."}];
    }
    const {manifest, problems} = read;
    const found = problems.map((words) => ({words: `The server will refuse it: ${words}.`, stops: true}));
    if (arch && text(manifest.platform) && text(manifest.platform).toLowerCase() !== String(arch).toLowerCase()) {
      found.push({words: `It is for ${text(manifest.platform)}, and the device is ${arch}.${FORCED_HINT}`, forced: true});
    }
    if (build && manifest.build_id === build && manifest.version === version) found.push({words: `The device runs this very build already.${FORCED_HINT}`, forced: true});
    if (app && text(manifest.name) && manifest.name !== app) found.push({words: `It is another application: ${text(manifest.name)}, and the device runs ${app}.${FORCED_HINT}`, forced: true});
    if (onTrial(present)) found.push({words: "What the device runs now is not committed: it refuses another update until that is committed or rolled back.", stops: true});
    if (!present.online) found.push({words: "The device is offline: the update waits on the server until it connects."});
    return found;
  }

  function drawFit() {
    if (!chosen) return;
    const found = objections();
    fill(fit, found.map(({words, stops, forced}) => h("p", {class: stops || (forced && !force.checked) ? "objection stops" : "objection"}, foreign(words))),
      found.length === 0 && h("p", {class: "objection fits"}, "It fits this device."));
    go.disabled = sending !== null || found.some(({stops, forced}) => stops || (forced && !force.checked));
  }

  function draw() {
    if (!chosen) {
      fill(element, drop, library.element, error.element);
      return;
    }
    const {file, read} = chosen;
    const {fw_version: now} = firmware(present);
    const manifest = read?.manifest ?? {};
    force.checked = false;
    bar.element.hidden = true;
    fill(element, h("form", {class: "image-form", "aria-label": "Update", novalidate: true, onsubmit: (event) => {
      event.preventDefault();
      if (!go.disabled) submit();
    }}, facts([
      ["File", [foreign(file.name), " ", h("span", {class: "muted"}, bytes(file.size))]],
      ["Application", read && foreign(text(manifest.name))],
      ["Version", read && [now !== undefined && [foreign(text(now)), " → "], h("strong", {}, foreign(text(manifest.version)))]],
      ["Build", read && foreign(text(manifest.build_id))],
      ["Platform", read && foreign(text(manifest.platform))],
    ]), read && parts(manifest.parts), fit,
    h("details", {}, h("summary", {}, "How it is sent"), h("div", {class: "options"},
      field("Committed", commit), wait, field("Rolls back unless committed within, in seconds", timeout),
      !chosen.kept && h("label", {class: "check"}, keep, " Keep the image in the firmware library"),
      h("label", {class: "check"}, force, " Send it even if the platform, the application or the build speaks against it"))),
    bar.element, error.element, h("div", {class: "actions"}, back, go)));
    drawFit();
  }

  async function submit() {
    const query = {queue: 1, ...(force.checked && !chosen.read && {bare: 1}), ...(chosen.kept ? {firmware: chosen.kept.id} : keep.checked && {keep: 1}), commit: commit.value, commit_timeout: timeout.value.trim(), ...(force.checked && {force: 1}), ...(commit.value === "auto" && {commit_after: after.value.trim()})};
    if (!inRange(timeout, 0) || (commit.value === "auto" && !inRange(after, 1))) return;
    const controller = sending = new AbortController();
    const unguard = guard(() => true);
    bar.element.hidden = chosen.kept !== null;
    bar.set(0, "to the server");
    const update = await act(go, error, async () => {
      try {
        return await send(chosen.kept ? null : chosen.file, query, {signal: controller.signal, onProgress: (fraction) => bar.set(fraction, fraction < 1 ? `${Math.round(100 * fraction)} % to the server` : "being checked")});
      } catch (problem) {
        if (controller.signal.aborted) throw new Error("stopped: nothing was sent to the device");
        throw problem;
      }
    });
    unguard();
    sending = null;
    bar.element.hidden = true;
    if (update) {
      choosing();
      onDone(update);
    } else {
      drawFit();
    }
  }

  function inRange(input, least) {
    const number = Number(input.value);
    const ok = input.value.trim() !== "" && Number.isInteger(number) && number >= least && number <= MAX_TIME;
    input.setAttribute("aria-invalid", !ok);
    if (!ok) {
      error.show(new Error(`seconds are a whole number from ${least} to ${MAX_TIME}`));
      input.closest("details").open = true;
      input.focus();
    }
    return ok;
  }

  draw();
  return {
    element,
    choose,
    update: (now) => {
      present = now;
      if (chosen && !sending) drawFit();
    },
    isSending: () => sending !== null,
  };
}

function parts(found) {
  const list = found !== null && typeof found === "object" ? Object.entries(found) : [];
  if (!list.length) return null;
  return h("div", {class: "scroll", tabindex: 0, role: "group", "aria-label": "Parts"}, h("table", {class: "plain"},
    h("thead", {}, h("tr", {}, ["Part", "File", "Size"].map((title) => h("th", {scope: "col"}, title)))),
    h("tbody", {}, list.slice(0, LISTED_PARTS).map(([name, part]) => h("tr", {}, h("th", {scope: "row"}, foreign(name.slice(0, 100))), h("td", {}, foreign(text(part?.src))),
      h("td", {class: "number"}, typeof part?.size === "number" ? bytes(part.size) : "–"))))));
}
