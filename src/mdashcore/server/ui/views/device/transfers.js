// Transfers of files to and from devices. They go on while another view is shown, one at a time for each device.

import {inWords, tellFailure} from "../../dialog.js";
import {guard} from "./drafts.js";

const KEPT_TRANSFERS = 20; // of a device, in the list: ended ones are dropped first

const lists = new Map(); // device id → [transfer, …], newest last
const listeners = new Set();
guard(() => [...lists.values()].flat().some(({state}) => state === "running" || state === "waiting"));
let owner = null; // the user of the transfers; another user sees none of them

// transfer: {label, state: "waiting" | "running" | "done" | "failed" | "stopped", fraction, words, stop()}

export function transfersOf(user, id) {
  if (user !== owner) {
    for (const list of lists.values()) for (const transfer of list) transfer.stop();
    lists.clear();
    owner = user;
  }
  if (!lists.has(id)) lists.set(id, []);
  return lists.get(id);
}

// onTransfers(id, () => …): after every change; returns the function that ends it.
export function onTransfers(id, listener) {
  const entry = {id, listener};
  listeners.add(entry);
  return () => listeners.delete(entry);
}

function tell(id) {
  for (const entry of [...listeners]) if (entry.id === id) entry.listener();
}

const tails = new Map(); // device id → the promise of the last one in its queue

// Queues `run(signal, onProgress(fraction, words))`; a Promise of its result, or undefined if it failed or was stopped.
// A transfer without `keep` is taken out of the list when it is done.
export function transfer(user, id, label, run, {keep = true} = {}) {
  const list = transfersOf(user, id);
  const controller = new AbortController();
  const mine = {label, state: "waiting", fraction: 0, words: "", stop: () => controller.abort()};
  list.push(mine);
  while (list.length > KEPT_TRANSFERS) {
    const old = list.findIndex(({state}) => state !== "waiting" && state !== "running");
    if (old < 0) break;
    list.splice(old, 1);
  }
  const before = tails.get(id) ?? Promise.resolve();
  const result = before.then(async () => {
    if (controller.signal.aborted) return end("stopped", "Stopped before it began.");
    mine.state = "running";
    tell(id);
    try {
      const value = await run(controller.signal, (fraction, words) => {
        Object.assign(mine, {fraction, words});
        tell(id);
      });
      if (!keep) list.splice(list.indexOf(mine), 1);
      end("done", mine.words);
      return value;
    } catch (error) {
      if (error.status === undefined && controller.signal.aborted) return end("stopped", "Stopped.");
      if (error.status === undefined) console.error(error); // a bug
      if (![...listeners].some((entry) => entry.id === id)) tellFailure(label, error); // the list is not shown
      return end("failed", inWords(error));
    }
  });

  function end(state, words) {
    Object.assign(mine, {state, words});
    tell(id);
  }

  const tail = result.then(() => { // without the result, which only the caller needs
    if (tails.get(id) === tail) tails.delete(id);
  });
  tails.set(id, tail);
  tell(id);
  return result;
}

export function forget(id, one) {
  const list = lists.get(id) ?? [];
  const at = list.indexOf(one);
  if (at >= 0) list.splice(at, 1);
  tell(id);
}
