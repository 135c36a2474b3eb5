// One rollout: its progress by phase and by device, and its actions.

import {get, post} from "../../api.js";
import {act, announce, ask, empty, errorLine} from "../../dialog.js";
import {bytes, fill, foreign, h, setText, timeTag} from "../../dom.js";
import * as live from "../../live.js";
import {go, link} from "../../router.js";
import {table} from "../../table.js";
import {isMissing, removal} from "./cards.js";
import {resume, retry} from "./decide.js";
import {follow, reader} from "./follow.js";
import {waitingWords} from "./waiting.js";
import {countBar, devices, failuresList, kindTag, legend, OUTCOMES, ROLLOUT_ENDS, refill, stateTag, total} from "./parts.js";

const MEMBERS_PAGE = 1000; // members in one read
const MEMBERS_INTERVAL = 3000; // ms between two reads of all members at least: those of 20 000 devices have 4 MB

export default async function detail({id}) {
  const path = `/rollouts/${encodeURIComponent(id)}`;
  const title = foreign("");
  const state = h("span", {});
  const reason = h("div", {class: "banner", hidden: true, role: "status"});
  const error = errorLine(); // of the actions
  const stale = errorLine(); // of the reads
  const phases = h("div", {class: "stack"});
  const plan = h("dl", {class: "about"});
  const element = h("section", {class: "page stack"});
  let present = null;

  function draw(rollout) {
    present = rollout;
    setText(title, rollout.name || rollout.id);
    refill(state, [rollout.state, rollout.kind], () => [stateTag(rollout.state), kindTag(rollout.kind)]);
    reason.hidden = !rollout.reason || rollout.state === "COMPLETED";
    refill(reason, [rollout.reason, rollout.failures, rollout.counts.failed], () =>
      h("div", {class: "stack tight"}, foreign(rollout.reason), rollout.state === "PAUSED" && rollout.counts.failed > 0 && failuresList(rollout)));
    refill(phases, rollout.phases, () => rollout.phases.map((phase, i) => h("section", {class: "phase", "aria-label": `Phase ${i + 1}`},
      h("header", {}, h("h3", {}, rollout.kind === "bulk" ? "All devices" : `Phase ${i + 1}`), h("span", {class: "muted"}, rollout.kind !== "bulk" && `to ${phase.percent} % · `, `${devices(phase.devices)} · `,
        phase.started ? ["begun ", timeTag(phase.started)] : "not begun")),
      countBar(phase.counts, `Phase ${i + 1}`), legend(phase.counts))));
    refill(plan, [rollout.image, rollout.plan, rollout.deadline], () => describe(rollout));
    const had = actions.some(({button}) => button === document.activeElement);
    for (const {button, label, fits} of actions) {
      setText(button, label(rollout));
      button.hidden = !fits(rollout);
    }
    if (had) focusActions();
  }

  function describe({kind, image, plan: asked, counts, filter, created, deadline}) {
    const facts = [
      ["Image", [foreign(image.name), image.version && [", version ", foreign(image.version)], image.platform && [", for ", foreign(image.platform)], `, ${bytes(image.size)}`]],
      ["Devices", [devices(total(counts)), filter.length > 0 && [" of the filter ", h("code", {}, foreign(filter.join(" ")))]]],
      kind !== "bulk" && ["Goes on", `when ${asked.success_percent} % of a phase have succeeded; pauses when more than ${asked.error_percent} % fail`],
      ["Pace", `${asked.rate === null ? "no limit" : `${asked.rate} devices a minute`}, ${asked.max_active} at a time${asked.window ? `, ${inWords(asked.window)}` : ""}`],
      ["Commit", asked.auto_commit ? `by itself, after ${asked.commit_after} s of health` : "by hand"],
      ["Made", timeTag(created)],
      deadline && ["Ends", ["at the latest ", new Date(deadline * 1000).toLocaleString()]],
    ];
    return facts.filter(Boolean).map(([term, words]) => [h("dt", {}, term), h("dd", {}, words)]);
  }

  // The actions: the buttons stay, and show if they are possible

  const action = (text, fits, run, props = {}) => {
    const button = h("button", {type: "button", hidden: true, onclick: () => run(button), ...props});
    return {button, label: typeof text === "function" ? text : () => text, fits};
  };
  const change = (name) => async (button) => {
    const had = document.activeElement === button;
    const changed = await act(button, error, () => post(`${path}/${name}`));
    if (changed) draw(changed);
    if (had) focusActions();
  };
  const decide = (run) => async () => {
    const changed = await run(path, present);
    if (changed) draw(changed);
  };
  const focusActions = () => { // the pressed button may not be possible any more
    const fitting = actions.map(({button}) => button).filter(({hidden}) => !hidden);
    if (!fitting.includes(document.activeElement)) fitting[0]?.focus();
  };
  const actions = [
    action("Approve", (now) => now.state === "AWAITING_APPROVAL", change("approve"), {class: "primary"}),
    action((now) => (now.to_forgive ? "Resume…" : "Resume"), (now) => now.state === "PAUSED", (button) => (present.to_forgive ? decide(resume) : change("resume"))(button)),
    action("Pause", (now) => now.state === "RUNNING", change("pause")),
    action(({counts}) => `Retry ${devices(counts.failed)}…`, (now) => ["RUNNING", "PAUSED"].includes(now.state) && now.counts.failed > 0, decide(retry)),
    action("Abort…", (now) => !ROLLOUT_ENDS.includes(now.state) && now.state !== "ABORTING", abort, {class: "bad"}),
    action("Delete…", (now) => ROLLOUT_ENDS.includes(now.state), () => removing.ask(), {class: "bad"}),
  ];

  async function abort() {
    await ask({
      title: "Abort the rollout?",
      lost: `No more devices begin, and updates that can still be canceled are canceled. ${devices(present.counts.succeeded)} that ${present.counts.succeeded === 1 ? "has" : "have"} the image keep it. An aborted rollout cannot be resumed.`,
      action: "Abort the rollout",
      danger: true,
      onConfirm: async () => draw(await post(`${path}/abort`)),
    });
  }

  const removing = removal({path, what: "rollout", lost: "The outcomes of its devices are deleted. The devices keep their firmware.", devices: () => total(present.counts), list: "#/rollouts"});

  // Its devices

  const outcome = h("select", {"aria-label": "Outcome", onchange: () => members.now()}, h("option", {value: ""}, "All devices"),
    OUTCOMES.map((each) => h("option", {value: each.toUpperCase()}, each[0].toUpperCase() + each.slice(1))));
  const list = table({
    label: "Devices of the rollout",
    rowKey: (member) => member.device,
    onOpen: (member) => go(link("device", member.device, "ota")),
    sort: {key: "order", down: false},
    columns: [
      {key: "order", title: "Phase", width: "4.2rem", sort: (member) => member.order, cell: (member) => String(member.phase + 1)},
      {key: "device", title: "Device", width: "minmax(7rem, 1.2fr)", sort: (member) => nameOf(member.device), cell: (member) => h("span", {class: "two-lines"},
        h("a", {href: link("device", member.device, "ota"), tabindex: -1}, foreign(nameOf(member.device))), why(member) && h("small", {class: "only-phone"}, foreign(why(member))))},
      {key: "outcome", title: "Outcome", width: "6.5rem", sort: (member) => OUTCOMES.indexOf(member.outcome.toLowerCase()), cell: (member) =>
        h("span", {class: `outcome ${member.outcome.toLowerCase()}`}, member.outcome.toLowerCase())},
      {key: "reason", title: "Why", width: "minmax(0, 2fr)", hide: "phone", cell: (member) => foreign(why(member), {title: why(member)})},
      {key: "changed", title: "Since", width: "6rem", hide: "phone", end: true, sort: (member) => member.changed ?? 0, cell: (member) => (member.changed ? timeTag(member.changed) : "")},
    ],
    empty: h("p", {class: "stream-edge"}, "No device has this outcome."),
  });
  const nameOf = (device) => live.devices.get(device)?.name || device;
  const missing = errorLine();
  const members = reader(async () => {
    const asked = outcome.value;
    const found = [];
    for (let start = 0; start !== null;) {
      const page = await get(`${path}/members`, {start, limit: MEMBERS_PAGE, outcome: asked || undefined});
      if (isOver || outcome.value !== asked) return; // another list is shown by now
      for (const member of page.members) found.push({...member, order: found.length});
      start = page.next;
    }
    list.set(found);
  }, missing, MEMBERS_INTERVAL);

  // Its end

  let isOver = false; // it was removed, or the view was left

  function destroy() {
    isOver = true;
    followed?.stop();
    members.stop();
  }

  function gone() {
    if (removing.isRunning()) return;
    destroy();
    const had = element.contains(document.activeElement);
    fill(element, h("div", {}, back(), h("h1", {}, title)), empty("This rollout was removed", "The rollout does not exist any more. The devices keep their firmware.",
      h("a", {class: "button", href: "#/rollouts"}, "To the rollouts")));
    announce("This rollout was removed");
    if (had) element.querySelector(".button").focus();
  }

  let followed;
  try {
    followed = await follow(async () => {
      try {
        draw(await get(path));
      } catch (problem) {
        if (present && isMissing(problem)) return gone();
        throw problem;
      }
      return members.again();
    }, (other) => other === id, stale);
  } catch (problem) {
    if (!isMissing(problem)) throw problem;
    return {title: "No such rollout", element: h("section", {class: "page"}, h("h1", {}, "No such rollout"),
      empty("It is not there", "It may have been deleted.", h("a", {class: "button", href: "#/rollouts"}, "To the rollouts")))};
  }

  fill(element, h("div", {}, back(), h("header", {class: "page-head flat"}, h("h1", {}, title), state, h("div", {class: "tools"}, actions.map(({button}) => button)))),
    stale.element, error.element, reason,
    h("div", {class: "card stack"}, h("h2", {}, present.kind === "bulk" ? "Progress" : "Phases"), phases),
    h("div", {class: "card stack"}, h("h2", {}, "Plan"), plan),
    h("header", {class: "page-head flat"}, h("h2", {}, "Devices"), h("div", {class: "tools"}, outcome)), missing.element,
    h("div", {class: "member-table"}, list.element));
  return {title: present.name || present.id, element, destroy};
}

const why = (member) => member.reason || (member.waiting ? waitingWords(member.waiting) : "");
const back = () => h("a", {class: "back", href: "#/rollouts"}, "← Rollouts");
const inWords = ({start, end, days}) => `from ${start} to ${end} UTC ${days.length === 7 ? "every day" : `on ${days.join(", ")}`}`;
