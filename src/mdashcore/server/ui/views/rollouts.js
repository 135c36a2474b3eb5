// Rollouts: one image for many devices, a few of them first.

import {del, get} from "../api.js";
import {ask, empty, errorLine} from "../dialog.js";
import {damagedTag, fill, foreign, h, setText, timeTag} from "../dom.js";
import {link} from "../router.js";
import create from "./rollouts/create.js";
import detail from "./rollouts/detail.js";
import {follow} from "./rollouts/follow.js";
import {countBar, devices, legend, refill, stateTag, total} from "./rollouts/parts.js";

export default async function view(context) {
  if (context.id === "new") return create(context);
  if (context.id) return detail(context);
  const line = errorLine();
  const list = h("div", {class: "stack"});
  const none = empty("No rollouts yet", "A rollout updates many devices in phases, a few of them first, and pauses by itself when too many fail.",
    h("a", {class: "button primary", href: link("rollouts", "new")}, "Plan the first rollout"));
  let cards = new Map(); // id → card

  function draw(rollouts) {
    const before = cards;
    cards = new Map(rollouts.map((each) => [each.id, before.get(each.id) ?? card(each)]));
    for (const each of rollouts) cards.get(each.id).draw(each);
    for (const [id, {element}] of before) if (!cards.has(id)) element.remove();
    none.remove();
    const elements = rollouts.length ? [...cards.values()].map(({element}) => element) : [none];
    elements.forEach((element, i) => list.children[i] === element || list.insertBefore(element, list.children[i] ?? null)); // rows that stay do not move
  }

  const {stop, again} = await follow(async () => draw(await get("/rollouts")), () => true, line);
  return {
    title: "Rollouts",
    element: h("section", {class: "page stack", "aria-label": "Rollouts"},
      h("header", {class: "page-head flat"}, h("h1", {}, "Rollouts"), h("p", {class: "muted hide-phone"}, "one image for many devices"),
        h("div", {class: "tools"}, h("a", {class: "button primary", href: link("rollouts", "new")}, "New rollout"))), line.element, list),
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
        fill(about, h("button", {type: "button", class: "bad", "aria-label": `Remove ${id}`, onclick: () => removeDamaged(id)}, "Remove…"));
        return;
      }
      refill(state, rollout.state, () => stateTag(rollout.state));
      refill(about, [rollout.image.version, total(rollout.counts)], () =>
        [rollout.image.version && ["version ", foreign(rollout.image.version), " · "], devices(total(rollout.counts)), " · ", timeTag(rollout.created)]);
      refill(bar, rollout.counts, () => [countBar(rollout.counts, "Devices"), legend(rollout.counts)]);
      reason.hidden = rollout.state !== "PAUSED" || !rollout.reason;
      setText(reason.firstChild, rollout.reason);
    },
  };
}

async function removeDamaged(id) {
  await ask({
    title: "Remove the rollout?",
    lost: "Its stored data cannot be read, so it does not continue. Updates that it has begun end by themselves.",
    action: "Remove",
    danger: true,
    onConfirm: () => del(`/rollouts/${encodeURIComponent(id)}`),
  });
}
