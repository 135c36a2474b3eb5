// The shell: session, navigation, and the current view.

import * as api from "./api.js";
import {announce, forgetToasts, loading, toast} from "./dialog.js";
import {fill, h, setText} from "./dom.js";
import {keepFocus} from "./focus.js";
import {forgetJobs} from "./jobs.js";
import * as live from "./live.js";
import {go, link, match, otherwise, route} from "./router.js";
import {startShortcuts} from "./shortcuts.js";
import {isUtc, onZone, setUtc} from "./zone.js";

// Views. Each module's default export is a view: see router.js. They are loaded when they are first shown.

const view = (load) => Object.assign(async (...args) => (await load()).default(...args), {load});

route("/", view(() => import("./views/home.js")), {nav: ""});
route("/login", view(() => import("./views/login.js")), {public: true});
route("/devices", view(() => import("./views/devices.js")), {nav: "devices"});
route("/device/:id/:tab?", view(() => import("./views/device.js")), {nav: "devices"});
route("/rollouts/:id?", view(() => import("./views/rollouts.js")), {nav: "rollouts"});
route("/firmware/:id?", view(() => import("./views/firmware.js")), {nav: "firmware"});
route("/jobs/:id?", view(() => import("./views/jobs.js")), {nav: "jobs"});
route("/notifications", view(() => import("./views/notifications.js")), {nav: "notifications"});
route("/keys", view(() => import("./views/keys.js")), {nav: "keys"});
route("/users", view(() => import("./views/users.js")), {nav: "users"});
route("/limits", view(() => import("./views/limits.js")), {nav: "users"});
route("/profile", view(() => import("./views/profile.js")), {nav: "profile"});
otherwise(() => ({
  title: "Nothing here",
  element: h("div", {class: "empty"}, h("h1", {}, "Nothing here"), h("p", {}, "This page does not exist."),
    h("a", {class: "button", href: "#/devices"}, "To the devices")),
}));

const NAV = [
  ["", "Home"],
  ["devices", "Devices"],
  ["rollouts", "Rollouts"],
  ["firmware", "Firmware"],
  ["jobs", "Jobs"],
  ["notifications", "Notifications"],
  ["keys", "Keys"],
  ["users", "Users", (who) => who.admin],
];

const main = document.getElementById("main");
const bar = document.getElementById("bar");
const connection = document.getElementById("connection");

let who = null; // the session: {user, admin}, or null
let present = null; // {found, view}
let showing = 0; // counts navigations: the result of an older one that was slow is discarded
let endLoading = () => {};

// Logging in and out

function enter(found) {
  who = found;
  live.start({session: found, onLoggedOut: () => leave("The session has ended. Log in again.")});
  drawBar();
}

function leave(words) {
  if (who === null) return;
  forget();
  if (words) toast(words);
  askToLogIn();
}

function askToLogIn() {
  const here = location.hash;
  const back = here && !here.startsWith("#/login") ? `?to=${encodeURIComponent(here)}` : "";
  go(`#/login${back}`, {replace: true});
}

api.whenLoggedOut(() => leave("The session has ended. Log in again."));

async function logOut({everywhere = false} = {}) {
  try {
    await api.logout(everywhere);
  } catch (error) {
    if (error.status !== 401) {
      toast(`You are still logged in: ${error.message}`, {error: true});
      return;
    }
  }
  forget();
  go("#/login");
}

function forget() {
  who = null;
  closeDialogs({all: true});
  live.stop();
  forgetJobs();
  forgetToasts();
  drawBar();
}

// The bar

function drawBar() {
  document.body.classList.toggle("logged-in", who !== null);
  bar.querySelector("nav")?.remove();
  bar.querySelector(".who")?.remove();
  if (who === null) return;
  bar.append(
    h("nav", {"aria-label": "Main"}, views().slice(0, -1).map(([name, label]) =>
      h("a", {href: link(name), "data-nav": name}, label))),
    h("div", {class: "who"}, h("button", {type: "button", class: "quiet jump-button", "aria-keyshortcuts": "Control+K", title: "Go to a view or a device (Ctrl K)", onclick: jump}, "Go to…"), zoneButton(), h("a", {href: "#/profile", "data-nav": "profile", "aria-label": `Profile of ${who.user}`}, who.user),
      h("button", {type: "button", class: "quiet", onclick: () => logOut()}, "Log out")));
  markNav();
}

// Switches all times between local and UTC.
function zoneButton() {
  const button = h("button", {type: "button", class: "quiet zone", title: "Show all times in local time, or in UTC", onclick: () => setUtc(!isUtc())});
  drawZone = () => {
    setText(button, isUtc() ? "UTC" : "Local time");
    button.setAttribute("aria-label", isUtc() ? "UTC, not local time" : "Local time, not UTC");
  };
  drawZone();
  return button;
}
let drawZone = () => {};
onZone(() => drawZone());

function markNav() {
  for (const anchor of bar.querySelectorAll("[data-nav]")) {
    if (anchor.dataset.nav === present?.found.nav) {
      anchor.setAttribute("aria-current", "page");
      anchor.scrollIntoView({block: "nearest", inline: "center"}); // on a phone there is no room for all
    } else {
      anchor.removeAttribute("aria-current");
    }
  }
}

// The connection

live.onState((state, trouble) => {
  const words = {
    connecting: trouble && `No connection yet: ${trouble}. Trying again…`,
    reconnecting: `Reconnecting… what you see may be old.${trouble && ` The last try failed: ${trouble}.`}`,
  }[state] || "";
  connection.hidden = words === "";
  setText(connection, words);
});

// Views

async function show() {
  const mine = ++showing; // before anything else, so that an earlier navigation is given up
  endLoading();
  const found = match();
  if (who === null && !found.public) return askToLogIn();
  if (who !== null && found.path === "/login") return go(found.query.to, {replace: true});
  if (present?.found.view === found.view && present.view.update?.(found.params, found.query)) {
    present.found = found;
    settle(present.view);
    return undefined;
  }
  const end = endLoading = loading();
  let next;
  try {
    next = await found.view({...found.params, query: found.query, session: who, enter, logOut});
  } catch (error) {
    if (!(error instanceof api.ApiError)) console.error(error); // a bug
    next = {title: "Error", element: h("div", {class: "empty"}, h("h1", {}, "This did not work"), h("p", {}, error.message),
      h("button", {type: "button", onclick: show}, "Try again"))};
  }
  end();
  if (mine !== showing) {
    next.destroy?.();
    return undefined;
  }
  present?.view.destroy?.();
  const first = present === null;
  present = {found, view: next};
  fill(main, next.element);
  main.scrollTop = 0;
  settle(next);
  if (next.focus) next.focus();
  else if (!first) main.focus({preventScroll: true});
  return undefined;
}

function settle(shown) {
  document.title = `${shown.title} · mdash`;
  announce(shown.title);
  markNav();
}

document.querySelector(".skip-link").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment is the view's address
  main.focus();
});

// Dialogs belong to the view that is left, but for what is shown once.
function closeDialogs({all = false} = {}) {
  for (const dialog of document.querySelectorAll(all ? "dialog[open]" : "dialog[open]:not([data-once])")) dialog.close();
}

addEventListener("hashchange", () => {
  closeDialogs();
  show();
});

const views = () => [...NAV.filter(([, , may]) => !may || may(who)), ["profile", "Profile"]];

async function jump() {
  const {openJump} = await import("./jump.js");
  if (who !== null && !document.querySelector("dialog[open]")) openJump(views());
}

async function boot() {
  match().view.load?.().catch(() => {}); // its modules come meanwhile; a failure is said when it is shown
  try {
    const found = await api.whoAmI();
    if (found.user !== null) enter(found);
  } catch (error) {
    fill(main, h("div", {class: "empty"}, h("h1", {}, "No connection"), h("p", {}, error.message),
      h("button", {type: "button", onclick: boot}, "Try again")));
    return;
  }
  await show();
}

keepFocus();
startShortcuts({isOn: () => who !== null, jump});
boot();
