// One rollout: how far it is, phase by phase and device by device, and what one may do about it.

import {ApiError, del, get, post} from "../../api.js";
import {act, ask, empty, errorLine} from "../../dialog.js";
import {bytes, fill, foreign, h, setText, timeTag} from "../../dom.js";
import * as live from "../../live.js";
import {go, link} from "../../router.js";
import {table} from "../../table.js";
import {follow} from "./follow.js";
import {countBar, devices, ENDS, legend, OUTCOMES, stateTag, total} from "./parts.js";

const PAGE = 1000; // members in one read
const MEMBERS = 3000; // ms between two reads of all members: of 20 000 devices they are 4 MB

export default async function detail({id}) {
  const path = `/rollouts/${encodeURIComponent(id)}`;
  const title = h("h1", {});
  const state = h("span", {});
  const reason = h("p", {class: "banner", hidden: true, role: "status"});
  const actions = h("div", {class: "tools"});
  const error = errorLine();
  const phases = h("div", {class: "stack"});
  const plan = h("dl", {class: "about"});
  let present = null;

  function draw(rollout) {
    present = rollout;
    fill(title, foreign(rollout.name || rollout.id));
    fill(state, stateTag(rollout.state));
    reason.hidden = !rollout.reason || rollout.state === "COMPLETED";
    setText(reason, rollout.reason);
    fill(phases, rollout.phases.map((phase, i) => h("section", {class: "phase", "aria-label": `Phase ${i + 1}`},
      h("header", {}, h("h3", {}, `Phase ${i + 1}`), h("span", {class: "muted"}, `to ${phase.percent} % · ${devices(phase.devices)} · `,
        phase.started ? ["begun ", timeTag(phase.started)] : "not begun")),
      countBar(phase.counts, `Phase ${i + 1}`), legend(phase.counts))));
    const {image, plan: asked} = rollout;
    const facts = [
      ["Image", [foreign(image.name), image.version && [", version ", foreign(image.version)], image.platform && [", for ", foreign(image.platform)], `, ${bytes(image.size)}`]],
      ["Devices", [devices(total(rollout.counts)), rollout.filter.length > 0 && [" of the filter ", h("code", {}, foreign(rollout.filter.join(" ")))]]],
      ["Goes on", `when ${asked.success_percent} % of a phase have succeeded; pauses when more than ${asked.error_percent} % fail`],
      ["Pace", `${asked.rate === null ? "no limit" : `${asked.rate} devices a minute`}, ${asked.max_active} at a time${asked.window ? `, from ${asked.window.start} to ${asked.window.end} UTC on ${asked.window.days.join(", ")}` : ""}`],
      ["Commit", asked.auto_commit ? `by itself, after ${asked.commit_after} s of health` : "by hand"],
      ["Made", timeTag(rollout.created)],
      rollout.deadline && ["Ends", ["at the latest ", new Date(rollout.deadline * 1000).toLocaleString()]],
    ];
    fill(plan, facts.filter(Boolean).map(([term, words]) => [h("dt", {}, term), h("dd", {}, words)]));
    drawActions(rollout);
  }

  // What may be done now

  function drawActions({state: now, counts}) {
    const button = (label, run, props = {}) => {
      const made = h("button", {type: "button", onclick: () => run(made), ...props}, label);
      return made;
    };
    const change = (action) => async (made) => {
      const changed = await act(made, error, () => post(`${path}/${action}`));
      if (changed) draw(changed);
    };
    fill(actions,
      now === "AWAITING_APPROVAL" && button("Approve", change("approve"), {class: "primary"}),
      now === "PAUSED" && button("Resume", change("resume"), {class: "primary", title: "What has failed so far is forgiven"}),
      now === "RUNNING" && button("Pause", change("pause")),
      (now === "RUNNING" || now === "PAUSED") && counts.failed > 0 && button(`Retry ${devices(counts.failed)}`, change("retry")),
      !ENDS.includes(now) && now !== "ABORTING" && button("Abort…", abort, {class: "bad"}),
      ENDS.includes(now) && button("Delete…", remove, {class: "bad"}));
  }

  async function abort() {
    await ask({
      title: "Abort the rollout?",
      lost: `No more devices begin, and updates that can still be taken back are. ${devices(present.counts.succeeded)} that ${present.counts.succeeded === 1 ? "has" : "have"} the image keep it. An aborted rollout cannot be resumed.`,
      action: "Abort the rollout",
      danger: true,
      onConfirm: async () => draw(await post(`${path}/abort`)),
    });
  }

  async function remove() {
    const sure = await ask({
      title: "Delete the rollout?",
      lost: "Which device fared how is forgotten. The devices keep what they run.",
      action: "Delete",
      danger: true,
      onConfirm: () => del(path),
    });
    if (sure) go("#/rollouts");
  }

  // Its devices

  const outcome = h("select", {"aria-label": "Outcome", onchange: readMembers}, h("option", {value: ""}, "All devices"),
    OUTCOMES.map((each) => h("option", {value: each.toUpperCase()}, each[0].toUpperCase() + each.slice(1))));
  const list = table({
    label: "Devices of the rollout",
    rowKey: (member) => member.device,
    onOpen: (member) => go(link("device", member.device, "ota")),
    sort: {key: "order", down: false},
    columns: [
      {key: "order", title: "Phase", width: "4.2rem", sort: (member) => member.order, cell: (member) => String(member.phase + 1)},
      {key: "device", title: "Device", width: "minmax(7rem, 1.2fr)", sort: (member) => nameOf(member.device), cell: (member) => h("span", {class: "two-lines"},
        h("a", {href: link("device", member.device, "ota"), tabindex: -1}, foreign(nameOf(member.device))), member.reason && h("small", {class: "only-phone"}, foreign(member.reason)))},
      {key: "outcome", title: "Outcome", width: "6.5rem", sort: (member) => OUTCOMES.indexOf(member.outcome.toLowerCase()), cell: (member) =>
        h("span", {class: `outcome ${member.outcome.toLowerCase()}`}, member.outcome.toLowerCase())},
      {key: "reason", title: "Why", width: "minmax(0, 2fr)", hide: "phone", cell: (member) => foreign(member.reason, {title: member.reason})},
      {key: "changed", title: "Since", width: "6rem", hide: "phone", end: true, sort: (member) => member.changed ?? 0, cell: (member) => (member.changed ? timeTag(member.changed) : "")},
    ],
    empty: h("p", {class: "stream-edge"}, "No device has this outcome."),
  });
  const nameOf = (device) => live.devices.get(device)?.name || device;
  let reading = 0;

  async function readMembers() {
    const mine = ++reading;
    const members = [];
    try {
      for (let start = 0; start !== null;) {
        const page = await get(`${path}/members`, {start, limit: PAGE, outcome: outcome.value || undefined});
        if (mine !== reading) return;
        for (const member of page.members) members.push({...member, order: members.length});
        start = page.next;
      }
      list.set(members);
    } catch (problem) {
      if (mine === reading) error.show(problem);
    }
  }

  let later = 0;
  let behind = false; // something has changed since the read began
  const refreshMembers = () => {
    behind = true;
    later ||= setTimeout(async () => {
      const begun = Date.now();
      behind = false;
      await readMembers();
      later = setTimeout(() => {
        later = 0;
        if (behind) refreshMembers();
      }, Math.max(MEMBERS, 10 * (Date.now() - begun))); // a large one takes a tenth of the server's time at most
    });
  };

  let followed;
  try {
    followed = await follow(async () => {
      draw(await get(path));
      refreshMembers();
    }, (other) => other === id);
  } catch (problem) {
    if (!(problem instanceof ApiError) || problem.status !== 404) throw problem;
    return {title: "No such rollout", element: h("section", {class: "page"}, h("h1", {}, "No such rollout"),
      empty("It is not there", "It may have been deleted.", h("a", {class: "button", href: "#/rollouts"}, "To the rollouts")))};
  }

  return {
    title: present.name || present.id,
    element: h("section", {class: "page stack"}, h("div", {}, h("a", {class: "back", href: "#/rollouts"}, "← Rollouts"),
      h("header", {class: "page-head flat"}, title, state, actions)), error.element, reason,
    h("div", {class: "card stack"}, h("h2", {}, "Phases"), phases),
    h("div", {class: "card stack"}, h("h2", {}, "Plan"), plan),
    h("header", {class: "page-head flat"}, h("h2", {}, "Devices"), h("div", {class: "tools"}, outcome)),
    h("div", {class: "member-table"}, list.element)),
    destroy: () => {
      followed.stop();
      clearTimeout(later);
      reading += 1;
    },
  };
}
