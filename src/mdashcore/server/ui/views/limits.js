// The limits of accounts and their use, for admins.

import {get} from "../api.js";
import {empty} from "../dialog.js";
import {bytes, fill, h} from "../dom.js";
import {freshList} from "../fresh_list.js";
import {amount, nameOf, share} from "./limits/parts.js";

const SHOWN_LIMITS = ["devices", "image_bytes", "keys", "open_rollouts", "subscribers"]; // columns; the other limits are on each account's line

export default async function view({session}) {
  if (!session.admin) {
    return {title: "Limits", element: h("section", {class: "page", "aria-label": "Limits"}, h("h1", {}, "Limits"),
      empty("Only for admins", "An admin sees the use of all users. Your own use is in your profile.", h("a", {class: "button", href: "#/profile"}, "To your profile")))};
  }
  const disk = h("p", {class: "banner", hidden: true});
  const first = await get("/users/limits");
  const limits = Object.fromEntries(first.limits.map((limit) => [limit.name, limit]));
  drawDisk(first.disk);

  const list = freshList({
    items: first.accounts,
    read: async () => {
      const now = await get("/users/limits");
      drawDisk(now.disk);
      return now.accounts;
    },
    keyOf: ({name}) => name,
    head: h("tr", {}, h("th", {scope: "col"}, "User"), SHOWN_LIMITS.map((name, i) => h("th", {scope: "col", class: i > 1 ? "hide-phone" : null}, nameOf(name)))),
    row,
  });

  function row({name}) {
    const cells = SHOWN_LIMITS.map((limit, i) => h("td", {class: i > 1 ? "hide-phone" : null}));
    return {
      element: h("tr", {}, h("th", {scope: "row"}, name), cells),
      draw: ({use}) => SHOWN_LIMITS.forEach((limit, i) => fill(cells[i], share(limits[limit], use[limit]))),
    };
  }

  function drawDisk({free, floor}) {
    disk.hidden = free === null || free >= 2 * floor;
    if (!disk.hidden) {
      fill(disk, free < floor
        ? `The disk has ${bytes(free)} left: below ${bytes(floor)} uploads of images are refused. All other functions work.`
        : `The disk has ${bytes(free)} left. Below ${bytes(floor)} uploads of images are refused.`);
    }
  }

  return {
    title: "Limits",
    element: h("section", {class: "page stack", "aria-label": "Limits"},
      h("header", {class: "page-head flat"}, h("h1", {}, "Limits"), h("p", {class: "muted hide-phone"}, "what each user may have, and has"),
        h("div", {class: "tools"}, h("a", {class: "button", href: "#/users"}, "Users"))),
      disk, list.element,
      h("div", {class: "card stack"}, h("h2", {}, "Of each user"),
        h("dl", {class: "about"}, first.limits.map((limit) => [h("dt", {}, nameOf(limit.name)),
          h("dd", {}, amount(limit.name, limit.limit), limit.per === "process" && " at this server")])),
        h("p", {class: "muted"}, "They are set in the server's configuration, in the table ", h("code", {}, "[limits]"), "."))),
    destroy: list.destroy,
  };
}
