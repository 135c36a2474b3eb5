// Tags of devices: shown as chips, and changed for one device or for many.

import {devicePath, post, put} from "../../api.js";
import {ask, toast} from "../../dialog.js";
import {field, foreign, h} from "../../dom.js";
import {selectionOf} from "../../light.js";
import {link} from "../../router.js";
import {these} from "./acts.js";

// "site=berlin", or "indoor" for a tag without a value.
export const tagText = ([name, value]) => (value === true ? name : `${name}=${value}`);

// The tags of a device as chips, each a link to the list of the devices that have it.
export const tagLinks = (tags) => h("span", {class: "tag-chips"}, Object.entries(tags).map((tag) =>
  h("a", {class: "tag-chip", href: link("devices") + `?q=${encodeURIComponent(filterOf(tag))}`, title: "Devices with this tag"}, foreign(tagText(tag)))));

// The same as text, for a row that is a link itself.
export const tagChips = (tags) => Object.entries(tags).map((tag) => h("span", {class: "tag-chip small"}, foreign(tagText(tag), {title: tagText(tag)})));

function filterOf([name, value]) {
  const quoted = (text) => `"${text.replace(/["\\]/g, "\\$&")}"`;
  if (value === true) return /^[A-Za-z0-9_-]+$/.test(name) ? `tag=${name}` : `tag=${quoted(name)}`;
  const key = name.replace(/[^A-Za-z0-9_-]/gu, "\\$&");
  return `tag.${key}=${/^[A-Za-z0-9][A-Za-z0-9_.-]*$/.test(value) ? value : quoted(value)}`;
}

const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);

function parsed(line) {
  const [, name, value] = /^([^=]*)(?:=(.*))?$/s.exec(line);
  return [name.trim(), value === undefined ? true : value.trim()];
}

export async function editTags({id, tags: before}) {
  const text = h("textarea", {name: "tags", rows: 6, spellcheck: "false", autocapitalize: "none"});
  text.value = Object.entries(before).map(tagText).join("\n");
  return ask({
    title: "Tags",
    body: field("Tags", text, "one a line: a name alone, or NAME=VALUE"),
    action: "Save",
    onConfirm: async () => {
      const now = Object.fromEntries(lines(text.value).map(parsed));
      const removed = Object.keys(before).filter((name) => !Object.hasOwn(now, name)).map((name) => [name, null]);
      const changed = Object.entries(now).filter(([name, value]) => !Object.hasOwn(before, name) || before[name] !== value);
      await put(devicePath(id), {tags: Object.fromEntries([...removed, ...changed])});
    },
  });
}

// `filter`: the terms that select these devices. It is sent in their place, as they may be many.
export async function changeTags(devices, {filter} = {}) {
  const added = h("textarea", {name: "added", rows: 3, spellcheck: "false", autocapitalize: "none"});
  const removed = h("textarea", {name: "removed", rows: 2, spellcheck: "false", autocapitalize: "none"});
  const done = await ask({
    title: `Tags of ${these(devices.length)}`,
    body: [field("Set", added, "one a line: a name alone, or NAME=VALUE; other tags stay"), field("Remove", removed, "names, one a line")],
    action: "Change tags",
    onConfirm: () => {
      const patch = Object.fromEntries([...lines(removed.value).map((name) => [name, null]), ...lines(added.value).map(parsed)]);
      return post("/tags", {...selectionOf(devices, filter), tags: patch});
    },
  });
  if (!done) return;
  const full = done.refused.length ? `; ${done.refused.length} would have more than 32, and stay as they are` : "";
  toast(`The tags of ${these(done.changed)} have changed${full}.`, {error: full !== ""});
}
