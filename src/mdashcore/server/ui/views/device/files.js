// The tab "files" of a device: its flat file system.

import {ask, errorLine} from "../../dialog.js";
import {bytes, field, fill, foreign, h, setText} from "../../dom.js";
import {guard, keep, take} from "./drafts.js";
import {listFiles, readFile, removeFile, renameFile, space, writeFile} from "./fs.js";
import {fileView} from "./file_view.js";
import {fromDevice} from "./parts.js";
import {transferList} from "./transfer_list.js";
import {transfer} from "./transfers.js";

const MAX_ROWS = 300; // rows drawn; the filter finds the others
const FILTER_FROM = 12; // files from which on a filter is useful
const MAX_UPLOAD = 16 * 2 ** 20; // bytes: the largest flash of such a device
const MAX_FILES = 100; // uploaded together: half of the files that a device has room for

async function bytesOf(file) {
  try {
    return new Uint8Array(await file.arrayBuffer());
  } catch {
    throw Object.assign(new Error("it cannot be read; a folder cannot be uploaded"), {status: 0});
  }
}

export default function files(device, {session}) {
  let present = device;
  let list = [];
  let view = null; // of the open file
  let opened = null; // its {name, data}, as the device has it
  let gone = false;
  const error = errorLine();

  const run = (label, act, options) => transfer(session.user, device.id, label, act, options);

  // The list

  const source = fromDevice(device, {
    what: "the list of files",
    needs: ["FS.List", "FS.ListExt"],
    offline: "Its files can be read once it is back.",
    load: async (signal) => {
      const found = await listFiles(device.id, signal);
      return {found, room: await space(device.id, signal)};
    },
    show: ({found, room}) => {
      list = found;
      const total = found.reduce((sum, {size}) => sum + (size ?? 0), 0);
      setText(count, `${found.length} ${found.length === 1 ? "file" : "files"}, ${bytes(total)}${room ? ` · ${bytes(room.free)} of ${bytes(room.size)} free` : ""}`);
      search.hidden = found.length < FILTER_FROM;
      drawRows();
      return card;
    },
    onOnline: () => source.reload(),
  });

  const count = h("span", {class: "muted", role: "status"});
  const search = h("input", {type: "search", "aria-label": "Filter files", placeholder: "Name", oninput: () => drawRows()});
  const rows = h("tbody", {});
  const table = h("table", {class: "plain files"}, h("thead", {}, h("tr", {}, h("th", {scope: "col"}, "Name"), h("th", {scope: "col", class: "end"}, "Size"), h("th", {scope: "col"}, h("span", {class: "visually-hidden"}, "Actions")))), rows);
  const nothing = h("p", {class: "muted"});
  const dropHint = h("p", {class: "hint drop-hint"}, "Files can be dropped here, too.");
  const pick = h("input", {type: "file", multiple: true, hidden: true, "aria-label": "Files to upload", onchange: () => {
    uploadAll([...pick.files]);
    pick.value = "";
  }});
  const card = h("div", {class: "card stack drop", ondragover: over, ondragleave: () => card.classList.remove("over"), ondrop: drop},
    h("header", {class: "section-head"}, h("h2", {}, "Files"), count, h("div", {class: "tools"}, search,
      h("button", {type: "button", "data-online": "", onclick: () => source.reload()}, "Refresh"),
      h("button", {type: "button", "data-online": "", onclick: create}, "New file"),
      h("button", {type: "button", class: "primary", "data-online": "", onclick: () => pick.click()}, "Upload"), pick)),
    error.element, nothing, table, dropHint);

  function drawRows() {
    const wanted = search.hidden ? "" : search.value.trim().toLowerCase();
    const found = list.filter(({name}) => name.toLowerCase().includes(wanted));
    const more = found.length - MAX_ROWS;
    table.hidden = found.length === 0;
    nothing.hidden = found.length > 0 && more <= 0;
    dropHint.hidden = list.length === 0; // the empty list says it already
    setText(nothing, list.length === 0 ? "There are no files on the device. Drop one here, or write a new one."
      : found.length === 0 ? "No file has this in its name." : `${more} more files: filter by name to see them.`);
    fill(rows, found.slice(0, MAX_ROWS).map(({name, size}) => h("tr", {},
      h("th", {scope: "row"}, h("button", {type: "button", class: "link", "data-online": "", onclick: () => openFile(name)}, foreign(name))),
      h("td", {class: "end number"}, size === null ? "–" : bytes(size)),
      h("td", {class: "end file-acts"}, [["Download", download], ["Rename", rename], ["Delete", remove]].map(([label, act]) =>
        h("button", {type: "button", class: "quiet", "data-online": "", "aria-label": `${label} ${name}`, onclick: () => act(name)}, label))))));
    buttons();
  }

  function buttons() {
    for (const button of card.querySelectorAll("[data-online]")) button.disabled = !present.online;
  }

  // One file

  const place = h("div", {hidden: true});

  async function leave() {
    if (!view?.isChanged()) return true;
    return ask({title: "Close without saving?", lost: "What you changed in the file is lost.", action: "Close", danger: true});
  }

  async function close() {
    if (!(await leave())) return false;
    view = null;
    fill(place);
    place.hidden = true;
    return true;
  }

  async function openFile(name) {
    if (!(await close())) return;
    const data = await read(name, "Read");
    if (data && !gone) show(name, data);
  }

  function show(name, data, typed) {
    opened = {name, data};
    view = fileView({name, data, typed, online: present.online, onClose: async () => {
      if (await close()) [...rows.querySelectorAll("button.link")].find((button) => button.textContent === name)?.focus();
    }, onSave: async (next) => {
      const why = await write(name, next);
      if (why !== null) throw Object.assign(new Error(`it was not saved: ${why}. What you wrote is still here`), {status: 0});
      opened.data = next;
      return true;
    }});
    fill(place, view.element);
    place.hidden = false;
    view.focus();
    view.element.scrollIntoView({block: "nearest"});
  }

  const read = (name, verb) => run(`${verb} ${name}`, (signal, onProgress) =>
    readFile(device.id, name, {signal, onProgress: (fraction, done) => onProgress(fraction, bytes(done))}), {keep: false});

  // Returns null after the file is written, or the reason of the failure.
  async function write(name, content, keep = false) {
    let why = "it was stopped, and on the device it is as it was";
    await run(`${keep ? "Upload" : "Write"} ${name}`, async (signal, onProgress) => {
      try {
        const data = content instanceof File ? await bytesOf(content) : content; // read only when its turn comes
        await writeFile(device.id, name, data, {signal, onProgress: (fraction, sent) => onProgress(fraction, `${bytes(sent)} of ${bytes(data.length)}`)});
        why = null;
      } catch (problem) {
        if (problem.status !== undefined || !signal.aborted) why = problem.message;
        throw problem;
      }
    }, {keep});
    if (!gone && present.online) source.reload();
    return why;
  }

  async function download(name) {
    const data = await read(name, "Download");
    if (!data) return;
    const url = URL.createObjectURL(new Blob([data]));
    h("a", {href: url, download: name}).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000); // by then the browser has read it
  }

  const has = (name) => list.some((file) => file.name === name);

  function nameField(value = "") {
    return h("input", {name: "name", value, autocomplete: "off", spellcheck: "false", autocapitalize: "none", required: true, dir: "auto"});
  }

  function free(name) {
    if (!name) throw new Error("a name is needed");
    if (has(name)) throw new Error("there is a file of this name already; delete or rename it first");
    return name;
  }

  async function create() {
    const input = nameField();
    const name = await ask({title: "New file", body: field("Name", input, "most devices have room for 31 characters, and no folders"), action: "Write it", onConfirm: () => free(input.value)});
    if (name && (await close())) show(name, new Uint8Array());
  }

  async function rename(name) {
    const input = nameField(name);
    const done = await ask({title: "Rename", body: field("New name", input), action: "Rename", onConfirm: async () => {
      if (input.value === name) return true;
      await renameFile(device.id, name, free(input.value));
      return true;
    }});
    if (done) source.reload();
  }

  async function remove(name) {
    const done = await ask({title: "Delete the file?", lost: [h("strong", {}, foreign(name)), " is deleted on the device, and cannot be brought back."], action: "Delete", danger: true,
      onConfirm: () => removeFile(device.id, name).then(() => true)});
    if (!done) return;
    card.querySelector("button").focus(); // the file's own button disappears
    source.reload();
  }

  // Upload

  function over(event) {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = present.online ? "copy" : "none";
    card.classList.toggle("over", present.online);
  }

  function drop(event) {
    event.preventDefault();
    card.classList.remove("over");
    if (present.online) uploadAll([...event.dataTransfer.files]);
  }

  async function uploadAll(chosen) {
    error.clear();
    if (chosen.length > MAX_FILES) return error.show(new Error(`at most ${MAX_FILES} files at a time; these are ${chosen.length}`));
    const tooLarge = chosen.filter(({size}) => size > MAX_UPLOAD);
    if (tooLarge.length) return error.show(new Error(`${tooLarge[0].name} is larger than any device's file system`));
    const replaced = chosen.filter(({name}) => has(name)).map(({name}) => name);
    if (replaced.length) {
      const go = await ask({title: replaced.length === 1 ? "Replace the file?" : `Replace ${replaced.length} files?`, danger: true, action: "Replace",
        lost: ["What is now in ", replaced.slice(0, 10).map((name, i) => [i > 0 && ", ", h("strong", {}, foreign(name))]), replaced.length > 10 && " …", " is lost."]});
      if (!go) return undefined;
    }
    return Promise.all(chosen.map((file) => write(file.name, file, true)));
  }

  const unguard = guard(() => view?.isChanged() ?? false);
  const kept = take(session.user, device.id, "files");
  if (kept) show(kept.name, kept.data, kept.typed);

  const transfers = transferList(session.user, device.id);
  return {
    element: h("div", {class: "stack"}, source.element, transfers.element, place),
    update: (now) => {
      present = now;
      source.update(now);
      view?.update(now.online);
      buttons();
    },
    destroy: () => {
      gone = true;
      unguard();
      keep(session.user, device.id, "files", view?.isChanged() ? {...opened, typed: view.typed()} : undefined);
      source.destroy();
      transfers.destroy();
    },
  };
}
