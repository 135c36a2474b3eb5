// One job: its values, its counts, the result of each device, and its actions.

import {get, post} from "../../api.js";
import {announce, ask, empty, errorLine} from "../../dialog.js";
import {fill, foreign, h, setText, timeTag} from "../../dom.js";
import * as live from "../../live.js";
import {go, link} from "../../router.js";
import {table} from "../../table.js";
import {isMissing, removal} from "../rollouts/cards.js";
import {follow, reader} from "../rollouts/follow.js";
import {countBar, legend, devices as number, refill} from "../rollouts/parts.js";
import {JOB_ENDS, JOB_OUTCOMES, jobTag} from "./parts.js";

const RESULTS_PAGE = 1000; // results in one read
const MAX_RESULTS = 20_000; // results in the table: 3 MB; of a larger job the failed ones are more useful
const RESULTS_INTERVAL = 3000; // ms between two reads of all results at least

export default async function detail({id}) {
  const path = `/jobs/${encodeURIComponent(id)}`;
  const title = foreign("");
  const state = h("span", {});
  const reason = h("p", {class: "muted", role: "status"});
  const stale = errorLine(); // of the reads
  const progress = h("div", {class: "stack"});
  const facts = h("dl", {class: "about"});
  const element = h("section", {class: "page stack", "aria-label": "Job"});
  const cancel = h("button", {type: "button", class: "bad", hidden: true, onclick: () => askToCancel()}, "Cancel…");
  const drop = h("button", {type: "button", class: "bad", hidden: true, onclick: () => removing.ask()}, "Delete…");
  let present = null;

  function draw(job) {
    present = job;
    setText(title, job.name || job.id);
    refill(state, job.state, () => jobTag(job.state));
    setText(reason, job.reason);
    refill(progress, job.counts, () => [countBar(job.counts, "Devices", JOB_OUTCOMES), legend(job.counts, JOB_OUTCOMES)]);
    refill(facts, [job.filter, job.devices, job.canceled_by], () => describe(job));
    const had = document.activeElement === cancel || document.activeElement === drop;
    cancel.hidden = job.state !== "RUNNING";
    drop.hidden = !JOB_ENDS.includes(job.state);
    if (had) (cancel.hidden ? drop : cancel).focus();
  }

  function describe({desired, filter, devices, created, created_by: by, canceled_by: canceler}) {
    const rows = [
      ["Values", h("pre", {class: "code"}, foreign(JSON.stringify(desired, null, 1)))],
      ["Devices", [number(devices), filter.length > 0 && [" of the filter ", h("code", {}, foreign(filter.join(" ")))]]],
      ["Made", [timeTag(created), " by ", foreign(by)]],
      canceler !== null && ["Canceled", ["by ", foreign(canceler)]],
    ];
    return rows.filter(Boolean).map(([term, words]) => [h("dt", {}, term), h("dd", {}, words)]);
  }

  async function askToCancel() {
    await ask({
      title: "Cancel the job?",
      lost: `No more devices are changed. ${number(present.counts.changed)} that ${present.counts.changed === 1 ? "was" : "were"} changed ${present.counts.changed === 1 ? "keeps" : "keep"} the values.`,
      action: "Cancel the job",
      danger: true,
      onConfirm: async () => draw(await post(`${path}/cancel`)),
    });
  }

  const removing = removal({path, what: "job", lost: "The results of its devices are deleted. The devices keep the values.", devices: () => present.devices, list: "#/jobs"});

  // Its devices

  const outcome = h("select", {"aria-label": "Outcome", onchange: () => results.now()}, h("option", {value: ""}, "All devices"),
    JOB_OUTCOMES.map((each) => h("option", {value: each.toUpperCase()}, each[0].toUpperCase() + each.slice(1))));
  const nameOf = (device) => live.devices.get(device)?.name || device;
  const list = table({
    label: "Devices of the job",
    rowKey: (result) => result.device,
    onOpen: (result) => go(link("device", result.device, "shadow")),
    sort: {key: "device", down: false},
    columns: [
      {key: "device", title: "Device", width: "minmax(7rem, 1.2fr)", phone: "1fr", sort: (result) => nameOf(result.device), cell: (result) => h("span", {class: "two-lines"},
        h("a", {href: link("device", result.device, "shadow"), tabindex: -1}, foreign(nameOf(result.device))), result.reason && h("small", {class: "only-phone"}, foreign(result.reason)))},
      {key: "outcome", title: "Outcome", width: "6.5rem", phone: "6.5rem", sort: (result) => JOB_OUTCOMES.indexOf(result.outcome.toLowerCase()), cell: (result) =>
        h("span", {class: `outcome ${result.outcome.toLowerCase()}`}, result.outcome.toLowerCase())},
      {key: "reason", title: "Why", width: "minmax(0, 2fr)", hide: "phone", cell: (result) => foreign(result.reason, {title: result.reason})},
      {key: "changed", title: "Since", width: "6rem", hide: "phone", end: true, sort: (result) => result.changed ?? 0, cell: (result) => (result.changed ? timeTag(result.changed) : "")},
    ],
    empty: h("p", {class: "stream-edge"}, "No device has this outcome."),
  });
  const rest = h("p", {class: "muted", hidden: true});
  const lost = h("p", {class: "muted", hidden: true});
  const missing = errorLine();
  const results = reader(async () => {
    const asked = outcome.value;
    const found = [];
    let start = 0;
    let damaged = 0;
    while (start !== null && found.length < MAX_RESULTS) {
      const page = await get(`${path}/devices`, {start, limit: RESULTS_PAGE, outcome: asked || undefined});
      if (isOver || outcome.value !== asked) return; // another list is shown by now
      found.push(...page.results);
      damaged += page.damaged;
      start = page.next;
    }
    list.set(found);
    lost.hidden = damaged === 0;
    setText(lost, `The results of ${number(damaged)} other devices are damaged in the server's store.`);
    rest.hidden = start === null;
    setText(rest, `These are the first ${found.length}. “mdash jobs show ${id} --devices all” lists all of them.`);
  }, missing, RESULTS_INTERVAL);

  // Its end

  let isOver = false; // it was removed, or the view was left
  let followed;

  function destroy() {
    isOver = true;
    followed?.stop();
    results.stop();
  }

  function gone() {
    if (removing.isRunning()) return;
    destroy();
    const had = element.contains(document.activeElement);
    fill(element, h("div", {}, back(), h("h1", {}, title)), empty("This job was removed", "The job does not exist any more. The devices keep the values.",
      h("a", {class: "button", href: "#/jobs"}, "To the jobs")));
    announce("This job was removed");
    if (had) element.querySelector(".button").focus();
  }

  try {
    followed = await follow(async () => {
      try {
        draw(await get(path));
      } catch (problem) {
        if (present && isMissing(problem)) return gone();
        throw problem;
      }
      return results.again();
    }, (other) => other === id, stale, "job.*");
  } catch (problem) {
    if (!isMissing(problem)) throw problem;
    return {title: "No such job", element: h("section", {class: "page"}, h("h1", {}, "No such job"),
      empty("It is not there", "It may have been deleted.", h("a", {class: "button", href: "#/jobs"}, "To the jobs")))};
  }

  fill(element, h("div", {}, back(), h("header", {class: "page-head flat"}, h("h1", {}, title), state, h("div", {class: "tools"}, cancel, drop))),
    stale.element, reason,
    h("div", {class: "card stack"}, h("h2", {}, "Progress"), progress),
    h("div", {class: "card stack"}, h("h2", {}, "What it sets"), facts),
    h("header", {class: "page-head flat"}, h("h2", {}, "Devices"), h("div", {class: "tools"}, outcome)), missing.element, lost, rest,
    h("div", {class: "member-table"}, list.element));
  return {title: present.name || present.id, element, destroy};
}

const back = () => h("a", {class: "back", href: "#/jobs"}, "← Jobs");
