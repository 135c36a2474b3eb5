// Rollouts: one image for many devices, a few of them first.

import {get} from "../api.js";
import {empty, errorLine} from "../dialog.js";
import {damagedTag, fill, foreign, h, setText, timeTag} from "../dom.js";
import {link} from "../router.js";
import {cardList, removeDamaged} from "./rollouts/cards.js";
import create from "./rollouts/create.js";
import detail from "./rollouts/detail.js";
import {follow} from "./rollouts/follow.js";
import {countBar, devices, kindTag, legend, refill, stateTag, total} from "./rollouts/parts.js";

export default async function view(context) {
  if (context.id === "new") return create(context);
  if (context.id) return detail(context);
  const line = errorLine();
  const none = empty("No rollouts yet", "A rollout updates many devices in phases, a few of them first, and pauses by itself when too many fail.",
    h("a", {class: "button primary", href: link("rollouts", "new")}, "Plan the first rollout"));
  const list = cardList({card, none});
  const {stop, again} = await follow(async () => list.draw(await get("/rollouts")), () => true, line);
  return {
    title: "Rollouts",
    element: h("section", {class: "page stack", "aria-label": "Rollouts"},
      h("header", {class: "page-head flat"}, h("h1", {}, "Rollouts"), h("p", {class: "muted hide-phone"}, "one image for many devices"),
        h("div", {class: "tools"}, h("a", {class: "button primary", href: link("rollouts", "new")}, "New rollout"))), line.element, list.element),
    update: ({id}) => {
      if (id) return false;
      again();
      return true;
    },
    destroy: stop,
  };
}

// One rollout in the list.
function card({id}) {
  const name = foreign("");
  const head = h("header", {class: "page-head flat"});
  const [state, about] = [h("span", {}), h("span", {class: "muted"})];
  head.append(h("h2", {}, h("a", {href: link("rollouts", id)}, name)), state, about);
  const bar = h("div", {class: "stack"});
  const reason = h("p", {class: "banner", hidden: true}, foreign(""));
  return {
    element: h("article", {class: "card rollout"}, head, bar, reason),
    draw: (rollout) => {
      setText(name, rollout.name || id);
      if (rollout.damaged) { // the server could read nothing else of it
        fill(state, damagedTag(rollout.damaged));
        fill(about, h("button", {type: "button", class: "bad", "aria-label": `Remove ${id}`, onclick: () => removeDamaged(`/rollouts/${encodeURIComponent(id)}`, "rollout", "Updates that it has begun end by themselves.")}, "Remove…"));
        return;
      }
      refill(state, [rollout.state, rollout.kind], () => [stateTag(rollout.state), kindTag(rollout.kind)]);
      refill(about, [rollout.image.version, total(rollout.counts)], () =>
        [rollout.image.version && ["version ", foreign(rollout.image.version), " · "], devices(total(rollout.counts)), " · ", timeTag(rollout.created)]);
      refill(bar, rollout.counts, () => [countBar(rollout.counts, "Devices"), legend(rollout.counts)]);
      reason.hidden = rollout.state !== "PAUSED" || !rollout.reason;
      setText(reason.firstChild, [rollout.reason, rollout.failures[0]?.reason].filter(Boolean).join(": "));
    },
  };
}
