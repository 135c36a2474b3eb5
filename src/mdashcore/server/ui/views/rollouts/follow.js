// What tells of rollouts, live.

import * as live from "../../live.js";

const PAUSE = 1000; // ms between two reads at least: a large rollout tells of its progress every second

// Reads once, and again after notifications of rollouts that `isMine`, and after a lost connection; at most once in `PAUSE`.
export async function follow(read, isMine) {
  await read();
  let timer = 0;
  let stopped = false;
  const again = () => {
    timer ||= setTimeout(async () => {
      timer = 0;
      try {
        if (!stopped) await read();
      } catch {
        // the next notification brings another try, and a lost connection is said at the top
      }
    }, PAUSE);
  };
  const stops = [
    live.onNotification((note) => isMine(note.id) && again(), {name: "rollout.*"}),
    live.onState((state) => state === "live" && again()),
  ];
  return {
    read: again,
    stop: () => {
      stopped = true;
      clearTimeout(timer);
      for (const each of stops) each();
    },
  };
}
