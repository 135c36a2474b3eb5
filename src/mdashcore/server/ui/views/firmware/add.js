// The dialog that adds an image to the library.

import {upload} from "../../api.js";
import {ask, progress} from "../../dialog.js";
import {bytes, field, fill, foreign, h, setText} from "../../dom.js";
import {isZip, readFirmware} from "../../zip.js";

// Returns the image as the server keeps it; false if none was added.
export function addImage() {
  const name = h("input", {name: "name", maxlength: 256, autocomplete: "off"});
  const notes = h("textarea", {name: "notes", maxlength: 4096, rows: 3});
  const about = h("p", {class: "muted", role: "status"});
  const bare = h("input", {type: "checkbox", id: "firmware-bare"});
  const bareLine = h("div", {class: "check-line", hidden: true}, bare, h("label", {for: "firmware-bare"}, "It is a bare image, whatever it looks like"));
  const bar = progress("Upload");
  bar.element.hidden = true;
  const file = h("input", {type: "file", name: "file", required: true, autofocus: true, accept: ".zip,application/zip,.bin,application/octet-stream", onchange: look});

  async function look() {
    const [image] = file.files;
    if (!image) return;
    try {
      const read = (await isZip(image)) ? await readFirmware(image) : null;
      bareLine.hidden = read !== null && read.problems.length === 0;
      if (bareLine.hidden) bare.checked = false;
      const {name: app, version, platform} = read?.manifest ?? {};
      if (read === null) setText(about, `No zip: it is kept as it is, ${bytes(image.size)}.`);
      else {
        fill(about, h("b", {}, foreign(String(app ?? "?"))), " version ", h("b", {}, foreign(String(version ?? "?"))), " for ", foreign(String(platform ?? "?")), `, ${bytes(image.size)}`,
          read.problems.length > 0 && [". The server will refuse it: ", foreign(read.problems.join("; "))]);
      }
    } catch (problem) {
      setText(about, problem.message);
    }
  }

  return ask({
    title: "Add an image",
    body: [field("Firmware (.zip of Mongoose OS, or a bare image)", file), about, bareLine, field("Name", name, "for people; the application's if empty"), field("Notes", notes, "what is new"), bar.element],
    action: "Add",
    onConfirm: async () => {
      const query = new URLSearchParams({...(name.value.trim() && {name: name.value.trim()}), ...(notes.value.trim() && {notes: notes.value.trim()}), ...(bare.checked && {bare: 1})});
      bar.element.hidden = false;
      try {
        return await upload(`/firmware?${query}`, file.files[0], {onProgress: (fraction) => bar.set(fraction, fraction < 1 ? `${Math.round(100 * fraction)} %` : "being checked")});
      } finally {
        bar.element.hidden = true;
      }
    },
  });
}
