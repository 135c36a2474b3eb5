// Times in words, local or in UTC: one switch for the whole page, kept in this browser.
//
// clock(seconds): "14:03:22". stamp(seconds): "3 Dec 2026, 14:03:22 UTC". short(seconds): with the day if it is not today.
// both(seconds): local time and UTC, for what happens at the same moment in several places.
// onZone(() => …): after each switch; returns the function that ends it.

const ZONE_KEY = "mdash.utc";

let utc = read() === "1";
const listeners = new Set();

function read() {
  try {
    return localStorage.getItem(ZONE_KEY);
  } catch {
    return null; // the browser keeps nothing: local time, until the switch is used
  }
}

export const isUtc = () => utc;

export function setUtc(value) {
  utc = value;
  try {
    localStorage.setItem(ZONE_KEY, utc ? "1" : "0");
  } catch {
    // it holds until the page is left
  }
  for (const listener of [...listeners]) listener();
}

export function onZone(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

// The UTC offset that times are shown with, at a moment, in seconds.
export const offset = (seconds) => (utc ? 0 : -60 * new Date(seconds * 1000).getTimezoneOffset());

const zone = () => (utc ? {timeZone: "UTC"} : {});
const suffix = () => (utc ? " UTC" : "");
const date = (seconds) => new Date(seconds * 1000);
const day = (seconds, more = zone()) => date(seconds).toLocaleDateString("en-GB", {day: "numeric", month: "short", ...more});

export const clock = (seconds, {withSeconds = true} = {}) =>
  date(seconds).toLocaleTimeString("en-GB", {hour: "2-digit", minute: "2-digit", ...(withSeconds && {second: "2-digit"}), ...zone()});

export const dayOf = (seconds) => day(seconds);

export const isToday = (seconds) => day(seconds) === day(Date.now() / 1000) && Math.abs(Date.now() / 1000 - seconds) < 2 * 86_400;

export const stamp = (seconds) => `${day(seconds, {year: "numeric", ...zone()})}, ${clock(seconds)}${suffix()}`;

export const short = (seconds, options) => (isToday(seconds) ? clock(seconds, options) : `${day(seconds)} ${clock(seconds, options)}`);

export function both(seconds) {
  const text = (more) => `${day(seconds, more)} ${date(seconds).toLocaleTimeString("en-GB", {hour: "2-digit", minute: "2-digit", ...more})}`;
  return `${text({})} local time, ${text({timeZone: "UTC"})} UTC`;
}
