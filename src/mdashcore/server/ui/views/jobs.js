// Jobs: values of `desired` for many devices.

import {get} from "../api.js";
import {empty, errorLine} from "../dialog.js";
import {damagedTag, fill, foreign, h, setText, timeTag} from "../dom.js";
import {link} from "../router.js";
import detail from "./jobs/detail.js";
import {JOB_OUTCOMES, jobTag, patchText} from "./jobs/parts.js";
import {cardList, removeDamaged} from "./rollouts/cards.js";
import {follow} from "./rollouts/follow.js";
import {countBar, devices, legend, refill} from "./rollouts/parts.js";

export default async function view(context) {
  if (context.id) return detail(context);
  const line = errorLine();
  const none = empty("No jobs yet", "A job sets desired values of many devices, and keeps the result of each. Select devices in the list, and choose “Set desired…”.",
    h("a", {class: "button primary", href: "#/devices"}, "To the devices"));
  const list = cardList({card, none});
  const {stop, again} = await follow(async () => list.draw(await get("/jobs")), () => true, line, "job.*");
  return {
    title: "Jobs",
    element: h("section", {class: "page stack", "aria-label": "Jobs"},
      h("header", {class: "page-head flat"}, h("h1", {}, "Jobs"), h("p", {class: "muted hide-phone"}, "desired values for many devices; the newest are kept")), line.element, list.element),
    update: ({id}) => {
      if (id) return false;
      again();
      return true;
    },
    destroy: stop,
  };
}

// One job in the list.
function card({id}) {
  const name = foreign("");
  const [state, about] = [h("span", {}), h("span", {class: "muted"})];
  const values = h("p", {class: "muted"}, foreign(""));
  const bar = h("div", {class: "stack"});
  return {
    element: h("article", {class: "card rollout"}, h("header", {class: "page-head flat"}, h("h2", {}, h("a", {href: link("jobs", id)}, name)), state, about), values, bar),
    draw: (job) => {
      setText(name, job.name || id);
      if (job.damaged) { // the server could read nothing else of it
        fill(state, damagedTag(job.damaged));
        fill(about, h("button", {type: "button", class: "bad", "aria-label": `Remove ${id}`, onclick: () => removeDamaged(`/jobs/${encodeURIComponent(id)}`, "job", "The devices keep the values that they have.")}, "Remove…"));
        return;
      }
      refill(state, job.state, () => jobTag(job.state));
      refill(about, [job.devices, job.created], () => [devices(job.devices), " · ", timeTag(job.created)]);
      setText(values.firstChild, patchText(job.desired));
      refill(bar, job.counts, () => [countBar(job.counts, "Devices", JOB_OUTCOMES), legend(job.counts, JOB_OUTCOMES)]);
    },
  };
}
