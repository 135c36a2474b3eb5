// A new rollout: its image, its devices, and its phases.

import {act, errorLine} from "../../dialog.js";
import {bytes, field, fill, foreign, h, setText} from "../../dom.js";
import {filterField} from "../../filter_field.js";
import {libraryChoice} from "../../firmware_choice.js";
import {countDevices, needsShadow, needsSummary} from "../../light.js";
import * as live from "../../live.js";
import {go, link} from "../../router.js";
import {isZip, readFirmware} from "../../zip.js";
import {devices, draft} from "./parts.js";
import {review} from "./review.js";

const DAY_SECONDS = 86_400; // s
const DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const NAMED_DEVICES = 4; // devices that the preview names

export default function create({query}) {
  const ids = query.devices === "selected" ? new Set(draft.ids) : null; // chosen in the list of devices; none after a reload
  const number = (name, value, props = {}) => h("input", {type: "number", name, value, step: "any", required: true, ...props});

  const file = h("input", {type: "file", name: "file", required: true, accept: ".zip,application/zip,.bin,application/octet-stream", onchange: look});
  const about = h("p", {class: "muted", role: "status"});
  let filtered = null; // {terms, matches}: the filter that selects; null until it has been parsed, or while nothing is chosen
  let parsed = null; // what the filter field has, as `filtered`
  let selected = null; // {number, names, online}: the devices that match; null while that is not known
  let counting = null; // what the server is asked for it, an AbortController
  const filter = filterField({label: "Filter", type: "text", value: query.q ?? "", placeholder: "arch=esp32 fw_version<1.4", onFilter: (next) => {
    parsed = next;
    refilter();
  }});
  const found = h("p", {class: "muted", role: "status"});
  const phases = h("input", {name: "phases", value: "1, 10, 100", required: true, autocomplete: "off", oninput: preview});
  const steps = h("p", {class: "muted", role: "status"});
  const name = h("input", {name: "name", maxlength: 256, autocomplete: "off"});
  const success = number("success_percent", 95, {min: 0, max: 100});
  const failures = number("error_percent", 10, {min: 0, max: 100});
  const sample = number("min_sample", 5, {min: 1, max: 1000, step: 1});
  const rate = number("rate", 60, {min: 1, max: 6000, step: 1, required: false});
  const active = number("max_active", 50, {min: 1, max: 1000, step: 1});
  const offline = number("offline_wait", 7, {min: 0, max: 90});
  const limit = number("timeout", 30, {min: 0.001, max: 90});
  const health = number("commit_after", 30, {min: 1, max: DAY_SECONDS, step: 1});
  const from = h("input", {type: "time", name: "from"}), until = h("input", {type: "time", name: "until"});
  const box = (label, checked, id) => {
    const input = h("input", {type: "checkbox", checked, id});
    return {input, element: h("div", {class: "check-line"}, input, h("label", {for: id}, label))};
  };
  const days = DAYS.map((day) => ({day, ...box(day, true, `rollout-${day}`)}));
  const approval = box("Wait for my approval before the first phase", false, "rollout-approval");
  const commit = box("Commit each device by itself once it stays healthy", true, "rollout-commit");
  const force = box("Send the image whatever platform, application and build a device reports", false, "rollout-force");
  const keep = box("Keep the image in the firmware library", false, "rollout-keep");
  const fileField = field("Firmware (.zip of Mongoose OS, or a bare image)", file);
  let isAwaited = Boolean(query.firmware); // until it is known whether the library has the image that was asked for
  const library = libraryChoice({chosen: query.firmware, onChange: (image) => {
    fileField.hidden = keep.element.hidden = image !== null;
    file.required = image === null;
    fill(about, isAwaited && image === null && "The image was not found in the library: choose another.");
    if (image === null) look();
    if (isAwaited) save.disabled = isAwaited = false;
  }});
  const error = errorLine();
  const everything = box("All devices", query.all === "1", "rollout-all");
  everything.input.addEventListener("change", refilter);
  const save = h("button", {type: "submit", class: "primary", disabled: isAwaited}, "Review…");
  fileField.hidden = isAwaited;

  // The preview

  async function look() {
    const [image] = file.files;
    if (!image) return;
    try {
      const read = (await isZip(image)) ? await readFirmware(image) : null;
      const {name: app, version, platform} = read?.manifest ?? {};
      fill(about, read ? [h("b", {}, foreign(String(app ?? "?"))), " version ", h("b", {}, foreign(String(version ?? "?"))), ` for `, foreign(String(platform ?? "?")), `, ${bytes(image.size)}`,
        read.problems.length > 0 && [". It is no good firmware zip: ", foreign(read.problems.join("; "))]] : `No firmware zip: it would be sent as it is, ${bytes(image.size)}, unchecked.`);
    } catch (problem) {
      setText(about, problem.message);
    }
  }

  const isAll = () => ids === null && everything.input.checked;

  function refilter() {
    filter.input.disabled = isAll();
    const isNothing = ids === null && !isAll() && parsed?.terms.length === 0;
    filtered = isAll() ? {terms: [], matches: () => true} : isNothing ? null : parsed;
    if (isNothing) {
      counting?.abort();
      selected = null;
      setText(found, "Give a filter, or choose all devices.");
      preview();
    } else select();
  }

  // Finds the devices: here, or by the server if the page does not have all of them.
  function select() {
    counting?.abort();
    if (filtered === null) return;
    const isHere = !needsSummary(filtered.terms) && (live.isWhole() || (ids !== null && !needsShadow(filtered.terms)));
    if (!isHere && ids === null && !live.isLoaded()) return;
    if (!isHere) {
      count();
      return;
    }
    const all = [...live.devices.values()].filter((device) => (ids === null || ids.has(device.id)) && filtered.matches(device));
    selected = {number: all.length, names: all.slice(0, NAMED_DEVICES).map(nameOf), online: all.filter((device) => device.online).length};
    preview();
  }

  const nameOf = (device) => (device.name || device.id).slice(0, 60);

  async function count() {
    selected = null;
    setText(found, ids === null ? "The server counts them…" : "The server applies this filter to them at the start.");
    preview();
    if (ids !== null) return;
    const mine = counting = new AbortController();
    const terms = filtered.terms.map(({text}) => text);
    try {
      const [page, online] = await Promise.all([live.readRows({filter: terms, sort: "name", limit: NAMED_DEVICES, count: 1}, {signal: mine.signal}),
        countDevices([...terms, "online"], {signal: mine.signal})]);
      if (mine.signal.aborted || page === null) return;
      selected = {number: page.total, names: page.devices.map(nameOf), online};
      preview();
    } catch (problem) {
      if (mine.signal.aborted) return;
      if (problem.status === undefined) console.error(problem); // a bug
      setText(found, `They could not be counted: ${problem.message}`);
    }
  }

  const percents = () => {
    const values = phases.value.split(/[\s,;%]+/).filter(Boolean).map(Number);
    if (!values.length || values.some((value, i) => !(value > (values[i - 1] ?? 0))) || values.at(-1) !== 100) {
      throw new Error("Phases are percents in ascending order, the last of them 100: 1, 10, 100");
    }
    return values;
  };

  function preview() {
    const {number: all, names, online} = selected ?? {number: 0};
    if (selected !== null) {
      fill(found, h("b", {}, devices(all)), all > 0 && ": ", names.map((each, i) => [i > 0 && ", ", foreign(each)]),
        all > names.length && ` and ${all - names.length} more`, all > 0 && `; ${online} online`);
    }
    try {
      const ends = percents().map((percent) => Math.ceil((all * percent) / 100));
      const counts = ends.map((end, i) => end - (ends[i - 1] ?? 0));
      const words = `That is ${counts.filter((count) => count > 0).join(", then ")} ${all === 1 ? "device" : "devices"}.`;
      setText(steps, all ? words + (counts.includes(0) ? " A phase with no device in it is passed over." : "") : "");
      phases.removeAttribute("aria-invalid");
    } catch (problem) {
      setText(steps, problem.message);
      phases.setAttribute("aria-invalid", "true");
    }
  }

  // Returns when devices may begin; null means always.
  function opening() {
    const on = days.filter(({input}) => input.checked).map(({day}) => day.slice(0, 3).toLowerCase());
    if (!on.length) throw new Error("Choose at least one day on which devices may begin");
    if (Boolean(from.value) !== Boolean(until.value)) throw new Error("A window needs both a beginning and an end");
    if (from.value && from.value === until.value) throw new Error("A window cannot end when it begins: leave both times empty for the whole day");
    if (!from.value) return on.length < DAYS.length ? {start: "00:00", end: "24:00", days: on} : null;
    return {start: from.value, end: until.value, days: on};
  }

  async function asked() {
    const terms = isAll() ? [] : (await filter.filter()).terms;
    if (ids === null && !isAll() && !terms.length) throw new Error("Choose the devices: give a filter, or choose all devices");
    return {
      ...(isAll() ? {all: true} : {filter: terms.map(({text}) => text)}),
      ...(ids !== null && {devices: [...ids].filter((id) => !live.isWhole() || live.devices.has(id))}), // those that still exist
      ...(name.value.trim() && {name: name.value.trim()}),
      phases: percents(),
      success_percent: Number(success.value),
      error_percent: Number(failures.value),
      min_sample: Number(sample.value),
      rate: rate.value === "" ? null : Number(rate.value),
      max_active: Number(active.value),
      window: opening(),
      offline_wait: Number(offline.value) * DAY_SECONDS,
      timeout: Number(limit.value) * DAY_SECONDS,
      approval: approval.input.checked,
      auto_commit: commit.input.checked,
      ...(commit.input.checked && {commit_after: Number(health.value)}),
      force: force.input.checked,
    };
  }

  let sending = null;

  async function submit(event) {
    event.preventDefault();
    const reviewed = await act(save, error, async () => {
      const request = await asked();
      sending = new AbortController();
      return review({request, kept: library.image(), file: file.files[0], keep: keep.input.checked, title: "Start this rollout?", signal: sending.signal});
    });
    const made = reviewed && (await reviewed.ask());
    sending = null;
    if (made) go(link("rollouts", made.id));
    else if (reviewed) save.focus();
  }

  const unsubscribe = live.onDevices((changed) => (changed === null || live.isWhole()) && refilter());
  preview();
  filter.refresh();
  return {
    title: "New rollout",
    element: h("section", {class: "page stack narrow", "aria-label": "New rollout"},
      h("div", {}, h("a", {class: "back", href: "#/rollouts"}, "← Rollouts"), h("h1", {}, "New rollout")),
      h("form", {onsubmit: submit},
        h("div", {class: "card stack"}, h("h2", {}, "Image"), library.element, fileField, about, keep.element, field("Name", name, "for people; the image's if empty")),
        h("div", {class: "card stack"}, h("h2", {}, "Devices"), ids !== null && h("p", {}, `Of the ${devices(ids.size)} that you have selected.`),
          h("div", {class: "filter-field"}, field("Filter", filter.input, "words and terms as in the list of devices, all of which have to hold"), filter.list), filter.error.element, ids === null && everything.element, found,
          h("p", {class: "hint"}, "The set of devices does not change after the start.")),
        h("div", {class: "card stack"}, h("h2", {}, "Phases"), field("Percents of the devices", phases, "a few first, the last phase is 100"), steps,
          h("div", {class: "pair"}, field("Success, %", success, "of a phase, before the next begins"), field("Failures, %", failures, "of a phase, more than that and it pauses")),
          approval.element, commit.element,
          h("details", {}, h("summary", {}, "Pace and limits"), h("div", {class: "stack"},
            h("div", {class: "pair"}, field("Devices a minute", rate, "empty for no limit"), field("Devices at a time", active)),
            h("div", {class: "pair"}, field("Not before (UTC)", from), field("Not after (UTC)", until)),
            h("div", {role: "group", "aria-label": "Days of the week", class: "legend"}, days.map(({element}) => element)),
            h("p", {class: "hint"}, "Days of the week on which devices may begin, in UTC; after midnight, the day on which the window has begun counts."),
            h("div", {class: "pair"}, field("Days to wait for offline devices", offline, "0 skips them"), field("Days in all", limit)),
            h("div", {class: "pair"}, field("Seconds of health before a commit", health), field("Devices before failures count", sample)),
            force.element))),
        error.element,
        h("div", {class: "actions"}, h("a", {class: "button", href: "#/rollouts"}, "Cancel"), save))),
    destroy: () => {
      unsubscribe();
      counting?.abort();
      filter.destroy();
      sending?.abort();
    },
  };
}
