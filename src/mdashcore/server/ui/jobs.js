// One act for many devices, with the progress of each device and the reason of each failure.
//
// startJob({title, devices, width, run}): begins immediately, `width` devices at a time; `run(device, {signal})`
// may return words. A job goes on while another view is shown: onJobs reports it, showJob opens its
// dialog again.

import {inWords, open, progress, toast} from "./dialog.js";
import {foreign, h, setText} from "./dom.js";
import {table} from "./table.js";

const JOB_TRIES = 6; // for one device, while the server is busy
const LONGEST_WAIT = 30; // s between two of them
const REPAINT_INTERVAL = 100; // ms

export const jobs = []; // the newest last; a job that has ended stays until its dialog is closed

const listeners = new Set();

export function onJobs(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

const tellAll = () => {
  for (const listener of [...listeners]) listener();
};

// A page that is closed stops its jobs.
addEventListener("beforeunload", (event) => {
  if (jobs.some((job) => !job.ended)) event.preventDefault();
});

export function forgetJobs() {
  for (const job of jobs) job.stop();
  jobs.length = 0;
  tellAll();
}

export function startJob({title, devices, width, run}) {
  const stopping = new AbortController();
  const rows = devices.map(({id, name}) => ({id, name, state: "waiting", words: ""}));
  const job = {
    title,
    rows,
    ended: false,
    shown: null,
    changed: () => {},
    count: (...states) => rows.filter(({state}) => states.includes(state)).length,
    stop: () => stopping.abort(),
    again: () => startJob({title, devices: rows.filter(({state}) => state === "failed" || state === "stopped"), width, run}),
  };
  let next = 0;
  let timer = 0;

  function repaint() {
    timer ||= setTimeout(() => {
      timer = 0;
      job.changed();
      tellAll();
    }, REPAINT_INTERVAL);
  }

  async function one(row) {
    row.state = "running";
    repaint();
    try {
      const words = await patiently(() => run(row, {signal: stopping.signal}), stopping.signal);
      Object.assign(row, {state: "done", words: words ?? ""});
    } catch (error) {
      const stopped = stopping.signal.aborted && !error.status; // without an answer
      Object.assign(row, {state: stopped ? "stopped" : "failed", words: stopped ? "" : inWords(error)});
    }
    repaint();
  }

  async function worker() {
    while (next < rows.length && !stopping.signal.aborted) await one(rows[next++]);
  }

  Promise.all(Array.from({length: Math.min(width, rows.length)}, worker)).then(() => {
    for (const row of rows) if (row.state === "waiting") row.state = "stopped";
    job.ended = true;
    job.changed();
    tellAll();
    if (job.shown || !jobs.includes(job)) return; // it is visible, or forgotten
    const failed = job.count("failed");
    toast(`${title}: ${inTotal(job)}`, {error: failed > 0, action: {label: "Show", run: () => showJob(job)}});
  });
  jobs.push(job);
  tellAll();
  return job;
}

// Waits if the server asks for it. Throws any other error.
async function patiently(run, signal) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await run();
    } catch (error) {
      if (error.status !== 429 || tries === JOB_TRIES || signal.aborted) throw error;
      const wait = Math.min(error.retryAfter ?? tries, LONGEST_WAIT);
      await sleep(1000 * wait * (0.75 + Math.random() / 2), signal);
    }
  }
}

// Throws immediately when stopped.
function sleep(time, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => end(() => reject(signal.reason));
    const timer = setTimeout(() => end(resolve), time);
    const end = (settle) => {
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
      settle();
    };
    signal.addEventListener("abort", stop);
  });
}

// "38 of 40 done, 2 failed"
export function inTotal(job) {
  const [done, failed, stopped] = [job.count("done"), job.count("failed"), job.count("stopped")];
  return [`${done} of ${job.rows.length} done`, failed && `${failed} failed`, stopped && `${stopped} stopped`].filter(Boolean).join(", ");
}

const JOB_STATES = {waiting: "Waiting", running: "Running", done: "Done", failed: "Failed", stopped: "Stopped"};
const STATE_RANK = ["failed", "running", "waiting", "stopped", "done"];

export function showJob(job) {
  if (job.shown) return;
  const bar = progress(job.title);
  const list = table({
    label: "Devices",
    rowKey: (row) => row.id,
    sort: {key: "state", down: false},
    columns: [
      {key: "name", title: "Device", width: "minmax(7rem, 1fr)", sort: (row) => row.name, cell: (row) => h("span", {class: "two-lines"},
        foreign(row.name || row.id, {title: row.name}), row.words && h("small", {class: "only-phone"}, foreign(row.words)))},
      {key: "state", title: "State", width: "5.5rem", sort: (row) => STATE_RANK.indexOf(row.state), cell: stateCell},
      {key: "words", title: "Result", width: "minmax(0, 2fr)", hide: "phone", cell: (row) => foreign(row.words, {title: row.words})},
    ],
    onOpen: (row) => row.words && open(row.name, h("pre", {class: "code whole", tabindex: 0}, foreign(row.words))),
  });
  const stop = h("button", {type: "button", onclick: () => { job.stop(); setText(hint, "Stopping…"); }}, "Stop");
  let isSeen = false; // the person has closed it by its button: Escape only hides the results
  const again = h("button", {type: "button", onclick: () => {
    isSeen = true;
    dialog.close();
    showJob(job.again());
  }}, "Try the others again");
  const close = h("button", {type: "button", class: "primary", onclick: () => {
    isSeen = job.ended;
    dialog.close();
  }});
  const hint = h("p", {class: "muted", role: "status"});

  job.changed = () => {
    const settled = job.count("done", "failed", "stopped");
    bar.set(settled / job.rows.length, job.ended ? "" : `${settled} of ${job.rows.length}`);
    list.touch(job.rows.map((row) => row.id));
    stop.hidden = job.ended;
    again.hidden = !job.ended || job.count("failed", "stopped") === 0;
    setText(close, job.ended ? "Close" : "Hide");
    if (job.ended) setText(hint, inTotal(job));
  };
  const dialog = open(job.title, h("div", {class: "stack"}, bar.element, h("div", {class: "job-table"}, list.element), hint,
    h("div", {class: "actions"}, again, stop, close)), () => {
    job.shown = null;
    job.changed = () => {};
    if (isSeen && jobs.includes(job)) jobs.splice(jobs.indexOf(job), 1);
    tellAll();
  });
  dialog.classList.add("wide");
  job.shown = dialog;
  setText(hint, "You can hide this: the work continues while this page is open.");
  list.set(job.rows);
  job.changed();
  close.focus();
}

function stateCell(row) {
  return h("span", {class: `job-${row.state}`}, JOB_STATES[row.state]);
}

// A strip with the progress of each job that is not in a dialog. A job keeps its line, so that its button can be pressed.
export function jobStrip() {
  const element = h("div", {class: "stack tight job-strip"});
  const lines = new Map(); // job → its line
  const lineOf = (job) => h("div", {class: "banner calm"}, h("span", {}), h("button", {type: "button", onclick: () => showJob(job)}, "Show"));
  const draw = () => {
    const hidden = jobs.filter((job) => !job.shown);
    for (const [job, line] of lines) {
      if (hidden.includes(job)) continue;
      line.remove();
      lines.delete(job);
    }
    for (const job of hidden) {
      if (!lines.has(job)) lines.set(job, lineOf(job));
      const line = lines.get(job);
      setText(line.firstChild, `${job.title}: ${job.ended ? inTotal(job) : `${job.count("done", "failed", "stopped")} of ${job.rows.length}…`}`);
      if (!line.isConnected || line.parentElement !== element) element.append(line);
    }
    element.hidden = hidden.length === 0;
  };
  draw();
  return {element, destroy: onJobs(draw)};
}
