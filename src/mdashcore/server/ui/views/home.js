// The fleet as a whole: what a person wants to see in the morning. Each figure leads to the devices that it counts.

import {get} from "../api.js";
import {empty} from "../dialog.js";
import {foreign, h, redraw, setText, timeTag} from "../dom.js";
import * as live from "../live.js";
import {link} from "../router.js";
import {plot} from "../spark.js";
import {total} from "./rollouts/parts.js";

const REFRESH_INTERVAL = 10_000; // ms between two readings of the figures, while the page is seen: one short request each

// The address of the list of devices with a filter.
function listed(terms, sort) {
  const query = new URLSearchParams({...(terms.length > 0 && {q: terms.join(" ")}), ...(sort && {sort})}).toString();
  return `#/devices${query && `?${query}`}`;
}

const count = (number) => number.toLocaleString("en");

export default async function view() {
  const head = h("ul", {class: "figures", "aria-label": "Devices"});
  const day = plot({label: "Online over a day"});
  const builds = h("div", {});
  const work = h("div", {});
  const watch = h("div", {});
  const events = h("div", {});
  const state = h("p", {class: "muted", role: "status"});
  const card = (title, ...content) => h("section", {class: "card stack", "aria-label": title}, h("h2", {}, title), content);
  const nothing = empty("No devices yet", "Register a device: you get the token that it connects with.", h("a", {class: "button primary", href: "#/devices"}, "To the devices"));
  const cards = h("div", {class: "home-cards"}, card("Presence", day.element), card("Firmware", builds), card("Updates and rollouts", work),
    card("To look after", watch), card("Last events", events));

  function draw(found) {
    nothing.hidden = found.devices.all > 0;
    cards.hidden = head.hidden = found.devices.all === 0;
    drawFigures(found);
    drawDay(found.day);
    drawBuilds(found);
    drawWork(found);
    drawWatch(found);
    drawEvents(found.events);
    redraw(state, found.devices.all > 0 && h("a", {href: listed([])}, `${count(found.devices.all)} devices`));
  }

  function drawFigures({devices, filters, updates}) {
    const under = Object.values(updates.under_way).reduce((sum, number) => sum + number, 0);
    const figures = {...devices, under_way: under, failed: updates.failed};
    const figure = (name, words, tone = "") => h("li", {}, h("a", {class: `figure ${figures[name] ? tone : ""}`, href: listed(filters[name])},
      h("b", {}, count(figures[name])), h("span", {}, words)));
    redraw(head, figure("online", "online", "good"), figure("offline", "offline"), figure("never_seen", "never connected"), figure("uncommitted", "uncommitted", "warn"),
      figure("under_way", "updates under way"), figure("failed", "failed in a day", "bad"), devices.damaged > 0 && figure("damaged", "damaged", "bad"));
  }

  function drawDay({step, online}) {
    const now = Date.now();
    day.set(online.map((value, i) => [now - (online.length - 1 - i) * step * 1000, value]));
  }

  function drawBuilds({builds: found, other_builds: others, devices}) {
    const row = ({app, fw_version: version, devices: number, online, filter}) => h("li", {},
      h("a", {href: listed(filter)}, app || version ? foreign([app, version].filter(Boolean).join(" ")) : "no firmware reported"),
      h("meter", {min: 0, max: devices.all, value: number, "aria-hidden": "true"}), h("span", {class: "muted"}, `${count(number)}, `, h("a", {href: listed([...filter, "online"])}, `${count(online)} online`)));
    redraw(builds, h("ul", {class: "bars"}, found.map(row), others > 0 && h("li", {}, h("a", {href: listed([], "fw_version")}, "other builds"), h("span", {}), h("span", {class: "muted"}, count(others)))));
  }

  function drawWork({updates, rollouts}) {
    const states = Object.entries(updates.under_way);
    redraw(work, states.length > 0 && h("p", {}, "Updates: ", states.map(([name, number], i) => [i > 0 && ", ", h("a", {href: listed([`update=${name}`])}, `${count(number)} ${name.toLowerCase()}`)])),
      rollouts.length > 0 && h("ul", {class: "plain"}, rollouts.map(({id, name, state: phase, reason, counts}) => h("li", {},
        h("a", {href: link("rollouts", id)}, foreign(name)), ` ${phase.toLowerCase().replace("_", " ")}: ${count(counts.succeeded)} of ${count(total(counts))}`,
        reason && [" – ", foreign(reason)]))),
      updates.last_failed.length > 0 && h("ul", {class: "plain"}, updates.last_failed.map(({id, name, state: end, reason, changed}) => h("li", {},
        h("a", {href: link("device", id, "ota")}, foreign(name || id)), ` ${end.toLowerCase().replace("_", " ")} `, timeTag(new Date(changed * 1000).toISOString()),
        reason && [": ", foreign(reason)]))),
      states.length + rollouts.length + updates.last_failed.length === 0 && h("p", {class: "muted"}, "Nothing is under way, and nothing has failed in a day."));
  }

  function drawWatch({devices, filters, flapping, silent}) {
    const device = ({id, name}) => h("a", {href: link("device", id)}, foreign(name || id));
    redraw(watch, flapping.length > 0 && [h("h3", {}, h("a", {href: listed(filters.flapping)}, `${count(devices.flapping)} come and go`)), h("ul", {class: "plain"}, flapping.map((each) => h("li", {}, device(each), ` ${count(each.changes)} changes in a day`)))],
      silent.length > 0 && [h("h3", {}, h("a", {href: listed(filters.silent, "last_seen")}, "Silent for longest")), h("ul", {class: "plain"}, silent.map((each) => h("li", {}, device(each), " last seen ", timeTag(each.last_seen))))],
      flapping.length + silent.length === 0 && h("p", {class: "muted"}, "Every device that was ever seen is online."));
  }

  function drawEvents(found) {
    redraw(events, found.length > 0 ? h("ul", {class: "plain"}, found.map(({name, id, time}) => h("li", {},
      timeTag(new Date(time * 1000).toISOString()), " ", h("code", {}, name), " ", name.startsWith("rollout.") ? foreign(id) : h("a", {href: link("device", id)}, foreign(id)))))
      : h("p", {class: "muted"}, "None yet."));
  }

  draw(await get("/fleet"));

  // Changes are shown soon, but the figures are not asked for again and again.
  let timer = null;
  let closed = false;

  async function refresh() {
    timer = null;
    if (document.hidden) return;
    try {
      const found = await get("/fleet");
      if (!closed) draw(found);
    } catch (error) {
      if (!closed) setText(state, `These figures may be old: ${error.message}`);
    }
  }

  const soon = () => { timer ??= setTimeout(refresh, REFRESH_INTERVAL); };
  const ends = [live.onNotification(soon), live.onState((now) => now === "live" && soon())];
  document.addEventListener("visibilitychange", soon);

  return {
    title: "Home",
    element: h("section", {class: "page stack home", "aria-label": "Home"},
      h("header", {class: "page-head flat"}, h("h1", {}, "Home"), state), nothing, head, cards),
    destroy: () => {
      closed = true;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", soon);
      for (const end of ends) end();
    },
  };
}
