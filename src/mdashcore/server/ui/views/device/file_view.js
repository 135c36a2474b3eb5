// The content of one file: editable text, or bytes in hex.

import {act, announce, errorLine} from "../../dialog.js";
import {bytes as size, foreign, h, setText, uniqueId} from "../../dom.js";

const HEX_PAGE = 4096; // bytes drawn at a time: 256 lines
const LONGEST_TEXT = 512 * 1024; // bytes of editable text: above, a text area is slow

const CONTROL_CHARACTERS = /[\u0000-\u0008\u000b\u000c\u000e-\u001f]/;

// Returns the text of a file and its line ends: {text, newline}, or null if it is no text.
export function asText(data) {
  if (data.length > LONGEST_TEXT) return null;
  let text;
  try {
    text = new TextDecoder("utf-8", {fatal: true, ignoreBOM: true}).decode(data);
  } catch {
    return null;
  }
  if (CONTROL_CHARACTERS.test(text)) return null;
  const plain = text.replaceAll("\r\n", "");
  const newline = !text.includes("\r") ? "\n" : plain.includes("\n") || plain.includes("\r") ? "mixed" : "\r\n";
  return {text, newline};
}

// fileView({name, data, online, typed, onSave(Uint8Array), onClose()}): {element, update(online), isChanged(), typed(),
// focus()}. `typed` is text that was typed earlier, and not saved.
export function fileView({name, data, online, typed, onSave, onClose}) {
  const error = errorLine();
  const text = asText(data);
  const id = uniqueId("file");
  const kind = h("span", {class: "muted"}, `${size(data.length)}, ${text ? "text" : "binary"}`);
  const close = h("button", {type: "button", onclick: onClose}, "Close");
  let area = null, save = null, saved = "";

  const isChanged = () => area !== null && area.value !== saved;

  function update(now = online) {
    online = now;
    if (save && !save.hasAttribute("aria-busy")) save.disabled = !online || !isChanged();
  }

  function content() {
    if (!text) return hexView(data, name);
    saved = text.text.replaceAll("\r\n", "\n").replaceAll("\r", "\n"); // as a text area changes it
    area = h("textarea", {id, class: "code editor", rows: 18, spellcheck: "false", autocapitalize: "off", autocomplete: "off", value: typed ?? saved, oninput: () => update(),
      onkeydown: (event) => {
        if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "s") {
          event.preventDefault();
          if (!save.disabled) save.click();
        }
      }});
    save = h("button", {type: "button", class: "primary", disabled: true, onclick: async () => {
      const wanted = area.value;
      const ends = text.newline === "\r\n" ? wanted.replaceAll("\n", "\r\n") : wanted;
      const bytes = new TextEncoder().encode(ends);
      const done = await act(save, error, () => onSave(bytes));
      if (done) {
        saved = wanted;
        setText(kind, `${size(bytes.length)}, text · saved on the device`);
        announce("Saved on the device.");
      }
      update();
    }}, "Save");
    return [h("label", {for: id, class: "visually-hidden"}, `Content of ${name}`), area,
      text.newline === "mixed" && h("p", {class: "hint"}, "Its lines end in different ways; saving makes all of them plain newlines.")];
  }

  const body = content();
  update();
  return {
    element: h("section", {class: "card stack file-view", "aria-label": "Content"}, h("header", {class: "section-head"}, h("h2", {}, foreign(name)), kind), body, error.element,
      h("div", {class: "actions"}, close, save)),
    update,
    isChanged,
    typed: () => area?.value,
    focus: () => (area ?? close).focus(),
  };
}

function hexView(data, name) {
  const pre = h("pre", {class: "hex", tabindex: 0, role: "group", "aria-label": `Bytes of ${name}`});
  const more = h("button", {type: "button", onclick: () => { draw(); pre.focus(); }}, "Show more");
  let at = 0;
  function draw() {
    const lines = [];
    const end = Math.min(data.length, at + HEX_PAGE);
    for (; at < end; at += 16) lines.push(hexLine(data, at));
    pre.append(lines.join("\n") + (lines.length ? "\n" : ""));
    more.hidden = at >= data.length;
  }
  draw();
  return [data.length ? pre : h("p", {class: "muted"}, "The file is empty."), more];
}

// "00000010  6d 64 61 73 68 …  |mdash…|"
export function hexLine(data, at) {
  const part = [...data.subarray(at, at + 16)];
  const hex = part.map((byte, i) => (i === 8 ? " " : "") + byte.toString(16).padStart(2, "0")).join(" ").padEnd(48);
  const signs = part.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
  return `${at.toString(16).padStart(8, "0")}  ${hex}  |${signs}|`;
}
