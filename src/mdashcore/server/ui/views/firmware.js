// The firmware library: images that are kept for updates and rollouts, and how many devices run each.

import {del, get} from "../api.js";
import {ask, empty, errorLine} from "../dialog.js";
import {bytes, damagedTag, fill, foreign, h, setText, timeTag} from "../dom.js";
import {freshList} from "../fresh_list.js";
import * as live from "../live.js";
import {link} from "../router.js";
import {addImage} from "./firmware/add.js";
import detail from "./firmware/detail.js";
import {READ_PAUSE, changesUse, countTags} from "./firmware/parts.js";
import {reader} from "./rollouts/follow.js";

export default async function view(context) {
  if (context.id) return detail(context);
  const read = () => get("/firmware", {devices: 1});
  const list = freshList({
    items: await read(),
    read,
    keyOf: ({id}) => id,
    head: h("tr", {}, h("th", {scope: "col"}, "Name"), h("th", {scope: "col"}, "Version"), h("th", {scope: "col", class: "hide-phone"}, "Platform"),
      h("th", {scope: "col", class: "hide-phone"}, "Size"), h("th", {scope: "col"}, "Devices"), h("th", {scope: "col", class: "hide-phone"}, "Added"),
      h("th", {scope: "col"}, h("span", {class: "visually-hidden"}, "Actions"))),
    row,
    nothing: empty("No firmware yet", "An image in the library is uploaded once, and then sent to any number of devices. You see which of them run it.", addButton("Add the first image")),
  });

  function row({id, damaged}) {
    const name = foreign(""), notes = h("small", {class: "muted"}), damage = h("span", {});
    const cells = {version: h("td", {}), platform: h("td", {class: "hide-phone"}), size: h("td", {class: "hide-phone"}), devices: h("td", {}), added: h("td", {class: "hide-phone"})};
    return {
      element: h("tr", {}, h("th", {scope: "row"}, h("span", {class: "two-lines"}, damaged ? h("code", {}, id) : h("a", {href: link("firmware", id)}, name), notes), damage), Object.values(cells),
        h("td", {class: "end"}, h("button", {type: "button", class: "bad", "aria-label": `Delete ${id}`, onclick: () => remove(id)}, "Delete…"))),
      draw: (now) => {
        fill(damage, damagedTag(now.damaged));
        if (now.damaged) return;
        setText(name, now.name || now.file);
        fill(notes, foreign(now.notes.split("\n", 1)[0].slice(0, 100)));
        fill(cells.version, foreign(now.version ?? "–"));
        fill(cells.platform, foreign(now.platform ?? "–"));
        setText(cells.size, bytes(now.size));
        fill(cells.devices, countTags(now.devices), now.state === "REMOVING" && h("span", {class: "tag warn"}, "being removed"));
        fill(cells.added, timeTag(now.created));
      },
    };
  }

  async function remove(id) {
    const sure = await ask({
      title: "Delete the image?",
      lost: "No update or rollout can begin with it any more. Devices that run it keep it.",
      action: "Delete",
      danger: true,
      onConfirm: () => del(`/firmware/${encodeURIComponent(id)}`),
    });
    if (sure) list.drop(id);
    list.reload();
  }

  async function add() {
    if (await addImage()) list.reload();
  }

  function addButton(label) {
    return h("button", {type: "button", class: "primary", onclick: add}, label);
  }

  const following = reader(list.reload, errorLine(), READ_PAUSE); // the list shows its own errors
  const unsubscribe = live.onNotification(({name}) => (name.startsWith("firmware.") || changesUse(name)) && following.again());
  return {
    title: "Firmware",
    element: h("section", {class: "page stack", "aria-label": "Firmware"},
      h("header", {class: "page-head flat"}, h("h1", {}, "Firmware"), h("p", {class: "muted hide-phone"}, "images for updates and rollouts"), h("div", {class: "tools"}, addButton("Add an image"))), list.element),
    destroy: () => {
      unsubscribe();
      following.stop();
      list.destroy();
    },
  };
}
