// What a device of a rollout waits for, in words.

const WAITS = {
  approval: () => "waits for the approval",
  resume: () => "the rollout is paused",
  end: () => "the rollout is being aborted",
  phase: () => "its phase has not begun",
  offline: (until) => (until ? `offline; skipped at ${clock(until)}` : "offline"),
  window: (until) => `window opens at ${clock(until, true)}`,
  other_update: () => "another update of it goes on",
  turn: () => "others are first",
  transfer: () => "gets the image",
  reboot: () => "reboots into the image",
  trial: (until) => (until ? `on trial until ${clock(until)}` : "on trial"),
};

// "on trial until 02:14", "offline", "window opens at 22:00 UTC"
export const waitingWords = ({what, until}) => WAITS[what]?.(until) ?? what;

// A time of today, or with its day.
function clock(seconds, utc = false) {
  const time = new Date(seconds * 1000), zone = utc ? {timeZone: "UTC"} : {};
  const day = (date) => date.toLocaleDateString("en", {...zone, month: "short", day: "numeric"});
  const words = time.toLocaleTimeString("en", {...zone, hour: "2-digit", minute: "2-digit", hourCycle: "h23"});
  return `${day(time) === day(new Date()) ? "" : `${day(time)}, `}${words}${utc ? " UTC" : ""}`;
}
