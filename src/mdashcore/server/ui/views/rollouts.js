// Rollouts: one image for many devices, a few of them first.

import {get} from "../api.js";
import {empty} from "../dialog.js";
import {fill, foreign, h, timeTag} from "../dom.js";
import {link} from "../router.js";
import create from "./rollouts/create.js";
import detail from "./rollouts/detail.js";
import {follow} from "./rollouts/follow.js";
import {countBar, devices, legend, stateTag, total} from "./rollouts/parts.js";

export default async function view(context) {
  if (context.id === "new") return create(context);
  if (context.id) return detail(context);
  const list = h("div", {class: "stack"});

  function draw(rollouts) {
    fill(list, rollouts.length === 0
      ? empty("No rollouts yet", "A rollout updates many devices in phases, a few of them first, and pauses by itself when too many fail.",
        h("a", {class: "button primary", href: link("rollouts", "new")}, "Plan the first rollout"))
      : rollouts.map((each) => h("article", {class: "card rollout"},
        h("header", {class: "page-head flat"}, h("h2", {}, h("a", {href: link("rollouts", each.id)}, foreign(each.name || each.id))), stateTag(each.state),
          h("span", {class: "muted"}, each.image.version && ["version ", foreign(each.image.version), " · "], devices(total(each.counts)), " · ", timeTag(each.created))),
        countBar(each.counts, "Devices"), legend(each.counts),
        each.state === "PAUSED" && each.reason && h("p", {class: "banner"}, foreign(each.reason)))));
  }

  const {stop, read} = await follow(async () => draw(await get("/rollouts")), () => true);
  return {
    title: "Rollouts",
    element: h("section", {class: "page stack", "aria-label": "Rollouts"},
      h("header", {class: "page-head flat"}, h("h1", {}, "Rollouts"), h("p", {class: "muted hide-phone"}, "one image for many devices"),
        h("div", {class: "tools"}, h("a", {class: "button primary", href: link("rollouts", "new")}, "New rollout"))), list),
    update: ({id}) => {
      if (id) return false;
      read();
      return true;
    },
    destroy: stop,
  };
}
