// Follows rollouts live, and reads them neither too often nor in vain.

import {ApiError} from "../../api.js";
import {inWords} from "../../dialog.js";
import * as live from "../../live.js";

const READ_PAUSE = 1000; // ms between two reads at least: a large rollout tells of its progress every second
const LONGEST_PAUSE = 30_000; // ms between two tries: a server that has come back is found within half a minute

// reader(read, line): again() reads, one read at a time; a call meanwhile causes another read after it. Errors show in
// `line`, and the read is tried again, later each time; now() does not wait for that. first() throws its error.
export function reader(read, line, pause = READ_PAUSE) {
  let busy = false;
  let timer = 0; // until the next read may begin
  let wanted = false;
  let hurried = false;
  let failures = 0;
  let stopped = false;

  async function first() {
    busy = true;
    wanted = hurried = false;
    const begun = performance.now();
    try {
      await read();
      failures = 0;
      line.clear();
    } catch (problem) {
      failures += 1;
      throw problem;
    } finally {
      busy = false;
      const wait = Math.max(pause * 2 ** failures, 10 * (performance.now() - begun)); // reads take a tenth of the server's time at most
      if (!stopped) timer = setTimeout(rested, hurried ? 0 : Math.min(wait, LONGEST_PAUSE));
    }
  }

  async function rested() {
    timer = 0;
    if (!wanted) return;
    try {
      await first();
    } catch (problem) {
      if (stopped) return;
      if (!(problem instanceof ApiError)) console.error(problem); // a bug
      wanted = true;
      line.show({message: `${inWords(problem)} It is tried again.`});
    }
  }

  return {
    first,
    again: () => {
      wanted = true;
      if (!busy && !timer) rested();
    },
    now: () => {
      wanted = hurried = true;
      if (busy) return;
      clearTimeout(timer);
      rested();
    },
    stop: () => {
      stopped = true;
      clearTimeout(timer);
    },
  };
}

// Reads once, and again after notifications of that name (by default of rollouts) that `isMine`, and after a lost connection. It subscribes
// before it reads, so that nothing is missed between the two. {again, stop}; throws the error of the first read.
export async function follow(read, isMine, line, name = "rollout.*") {
  const reading = reader(read, line);
  const stops = [
    reading.stop,
    live.onNotification((note) => isMine(note.id) && reading.again(), {name}),
    live.onState((state) => state === "live" && reading.now()),
  ];
  const stop = () => stops.forEach((each) => each());
  try {
    await reading.first();
  } catch (problem) {
    stop();
    throw problem;
  }
  return {again: reading.again, stop};
}
