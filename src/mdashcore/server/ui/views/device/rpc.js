// The tab "rpc" of a device: call its methods.

import {call} from "../../api.js";
import {announce, ask, copyButton, inWords} from "../../dialog.js";
import {field, fill, foreign, h, setText, timeTag, uniqueId} from "../../dom.js";
import {jsonEditor} from "../../json_editor.js";
import {jsonBlock} from "../../json_view.js";
import {isObject} from "../../live.js";
import {jsonText, shortJson} from "../../tree.js";
import {argumentsOf} from "./arguments.js";
import {lossOf} from "./destroys.js";
import {isUnknownMethod, lacks, methodsOf} from "./methods.js";
import {offlineNote} from "./parts.js";

const KEPT_CALLS = 50; // calls in the history of a device
const KEPT_DEVICES = 20; // whose history is kept: those between which a person switches
const LONG_ANSWER = 10_000; // characters of an answer that is kept only while it is the newest
const ERROR_LENGTH = 2000; // characters of a device's error that are shown
const MAX_METHODS = 300; // methods drawn; the filter finds the others
const MAX_TIMEOUT = 120; // s that a call may take: the most that the server allows
const DEFAULT_TIMEOUT = 10; // s: the server's default
const DRAW_INTERVAL = 100; // ms between two drawings of the time that a call takes

const histories = new Map(); // "user/id" → calls, newest first; dropped with the page, because parameters can be secrets

function historyOf(key) {
  const calls = histories.get(key) ?? [];
  histories.delete(key);
  histories.set(key, calls); // moves to the end of the order
  if (histories.size > KEPT_DEVICES) histories.delete(histories.keys().next().value);
  return calls;
}

export default function rpc(device, {session}) {
  const key = `${session.user}/${device.id}`;
  const calls = historyOf(key);
  let methods = null;
  let described = null; // the method whose arguments are shown
  let running = null;
  const ended = new AbortController(); // of the view

  // Methods

  const note = offlineNote("It can be called once it is back.");
  const method = h("input", {class: "code", autocomplete: "off", spellcheck: "false", autocapitalize: "none", maxlength: 256, required: true,
    placeholder: "Sys.GetInfo", oninput: () => { drawMethods(method.value); fill(hints); described = null; }, onchange: () => describe(method.value.trim())});
  const list = h("ul", {class: "methods", "aria-label": "Methods", tabindex: -1});
  const listState = h("p", {class: "muted", role: "status"});

  function drawMethods(filter = "") {
    const wanted = filter.trim().toLowerCase();
    const found = (methods ?? []).filter((name) => name.toLowerCase().includes(wanted));
    const shown = found.length || !wanted ? found : methods ?? [];
    fill(list, shown.slice(0, MAX_METHODS).map((name) => h("li", {}, h("button", {type: "button", class: "quiet method", "data-method": name, onclick: () => choose(name)}, foreign(name)))));
    mark();
  }

  function mark() {
    for (const button of list.querySelectorAll("button")) button.setAttribute("aria-pressed", button.dataset.method === method.value);
  }

  async function readMethods() {
    setText(listState, "Asking the device for its methods…");
    try {
      const found = await methodsOf(present);
      if (ended.signal.aborted) return;
      methods = found ?? [];
      setText(listState, found ? "" : "The device does not list its methods: write the name of one.");
    } catch (error) {
      if (ended.signal.aborted) return;
      if (error.status === undefined) console.error(error);
      setText(listState, `Its methods could not be read: ${error.message}.`);
    }
    listState.hidden = !listState.textContent;
    drawMethods(described ? "" : method.value);
  }

  function choose(name, params) {
    method.value = name;
    editor.set(params);
    mark();
    describe(name);
  }

  // Arguments

  const hints = h("div", {class: "hints"});

  async function describe(name) {
    if (!name || name === described || !present.online || lacks(present, ["RPC.Describe"])) return;
    described = name;
    fill(hints);
    let found;
    try {
      found = await call(device.id, "RPC.Describe", {name}, {signal: ended.signal});
    } catch (error) {
      if (error.status === undefined && !ended.signal.aborted) console.error(error);
      return; // hints only help, and some devices give none
    }
    if (described !== name) return;
    const format = typeof found?.args_fmt === "string" ? found.args_fmt : "";
    const known = argumentsOf(format);
    if (!known.length) fill(hints, h("p", {class: "muted"}, format ? ["Arguments: ", h("code", {}, foreign(jsonText(format).slice(1, -1)))] : "The method takes no arguments."));
    else fill(hints, h("span", {class: "muted"}, "Takes"), known.map(({name: argument, type, example}) =>
      h("button", {type: "button", class: "chip", title: `Put ${argument} into the parameters`, onclick: () => insert(argument, example)},
        h("span", {class: "code"}, foreign(argument)), h("small", {}, type))));
  }

  function insert(argument, example) {
    let params;
    try {
      params = editor.value ?? {};
    } catch {
      return; // the editor shows the error
    }
    if (!isObject(params)) params = {};
    if (!Object.hasOwn(params, argument)) editor.set({...params, [argument]: example});
    const place = editor.area.value.indexOf(`${JSON.stringify(argument)}: `) + JSON.stringify(argument).length + 2;
    editor.area.focus();
    editor.area.setSelectionRange(place, place + JSON.stringify(example).length);
  }

  // The call

  const editor = jsonEditor({label: "Parameters as JSON", rows: 5, optional: true});
  const timeout = h("input", {inputmode: "numeric", autocomplete: "off", value: String(DEFAULT_TIMEOUT), class: "short"});
  const go = h("button", {type: "submit", class: "primary"}, "Call");
  const stop = h("button", {type: "button", hidden: true, onclick: () => running?.abort()}, "Stop waiting");
  const wrong = h("p", {class: "error-line", role: "alert", hidden: true});
  const result = h("div", {class: "result", "aria-live": "polite"});
  const form = h("form", {class: "card", "aria-label": "Call", novalidate: true, onsubmit: (event) => {
    event.preventDefault();
    submit();
  }}, field("Method", method), hints, editor.element,
  h("div", {class: "call-row"}, field("Wait at most, in seconds", timeout), h("div", {class: "actions"}, stop, go)), wrong, result);

  function complain(words) {
    wrong.hidden = !words;
    setText(wrong, words ?? "");
  }

  function submit() {
    complain(null);
    const name = method.value.trim(), seconds = Number(timeout.value);
    if (!name) return refuse(method, "Write or choose a method first.");
    if (!(seconds > 0 && seconds <= MAX_TIMEOUT)) return refuse(timeout, `The longest time-out is ${MAX_TIMEOUT} s.`);
    let params;
    try {
      params = editor.value;
    } catch {
      return complain("The parameters are no JSON yet.");
    }
    return run(name, params, seconds);
  }

  function refuse(input, words) {
    complain(words);
    input.focus();
  }

  async function run(name, params, seconds = DEFAULT_TIMEOUT) {
    if (running) return;
    const lost = lossOf(name, params);
    if (lost && !(await ask({title: h("span", {}, "Call ", foreign(name), "?"), lost, action: "Call", danger: true}))) return;
    running = new AbortController();
    const mine = running, started = performance.now();
    const since = () => Math.round(performance.now() - started);
    const clock = h("span", {}), timer = setInterval(() => setText(clock, `${(since() / 1000).toFixed(1)} s`), DRAW_INTERVAL);
    fill(result, h("p", {class: "muted waiting"}, h("span", {class: "spinner", "aria-hidden": "true"}), "Waiting for ", foreign(name), "… ", clock));
    buttons();
    const entry = {name, params, seconds, time: Date.now() / 1000};
    try {
      entry.result = await call(device.id, name, params, {timeout: seconds, signal: AbortSignal.any([mine.signal, ended.signal])});
      entry.ok = true;
      entry.isLong = (JSON.stringify(entry.result) ?? "").length > LONG_ANSWER;
    } catch (error) {
      if (error.status === undefined && !mine.signal.aborted && !ended.signal.aborted) console.error(error);
      entry.error = mine.signal.aborted || ended.signal.aborted ? {words: "You stopped waiting. The device may still have made the call."} : explain(error, name);
    } finally {
      clearInterval(timer);
      running = null;
    }
    entry.ms = since();
    for (const old of calls) if (old.isLong) Object.assign(old, {result: undefined, isLong: false, isGone: true});
    calls.unshift(entry);
    calls.length = Math.min(calls.length, KEPT_CALLS);
    buttons();
    show(entry);
    drawHistory();
  }

  function buttons() {
    go.disabled = running !== null || !present.online;
    stop.hidden = running === null;
    for (const button of history.querySelectorAll("[data-again]")) button.disabled = go.disabled;
  }

  function show(entry) {
    const took = `${entry.ms} ms`;
    if (entry.ok) {
      const head = h("p", {class: "result-head"}, h("strong", {class: "good"}, "✓ Answered"), ` in ${took}`, copyButton(() => JSON.stringify(entry.result, null, 2) ?? ""));
      fill(result, head, entry.isGone ? h("p", {class: "muted"}, "The answer was long, and is not kept: run it again to see it.") : entry.result === null || entry.result === undefined ? h("p", {class: "muted"}, "Without a value (null): it is done.") : jsonBlock(entry.result, "Result"));
    } else {
      const {words, data, code} = entry.error;
      fill(result, h("p", {class: "result-head"}, h("strong", {class: "bad"}, code === undefined ? "✗ No answer" : `✗ The device answered with error ${code}`), ` after ${took}`),
        h("p", {}, foreign(words)), data !== undefined && jsonBlock(data, "Data of the error"));
    }
    announce(entry.ok ? `Answered in ${took}` : entry.error.words);
  }

  // History

  const history = h("ol", {class: "history"});
  const noHistory = h("p", {class: "muted"}, "Calls that you make are listed here, to be run again.");
  const historyId = uniqueId("history");

  function drawHistory() {
    noHistory.hidden = calls.length > 0;
    fill(history, calls.map((entry) => h("li", {},
      h("span", {class: entry.ok ? "good" : "bad", role: "img", "aria-label": entry.ok ? "Answered" : "Failed"}, entry.ok ? "✓" : "✗"),
      h("div", {class: "history-what"}, h("button", {type: "button", class: "quiet method", title: "Put it into the form", onclick: () => { choose(entry.name, entry.params); show(entry); method.focus(); }}, foreign(entry.name)),
        h("span", {class: "code muted"}, entry.params === undefined ? "" : foreign(shortJson(entry.params, 100)))),
      h("span", {class: "muted history-when"}, `${entry.ms} ms · `, timeTag(entry.time)),
      h("button", {type: "button", "data-again": "", disabled: running !== null || !present.online, "aria-label": `Run again: ${entry.name}`, onclick: () => {
        choose(entry.name, entry.params);
        run(entry.name, entry.params, entry.seconds);
      }}, "Run again"))));
  }

  let present = device;
  let online = device.online; // a copy, because devices are changed in place

  function update(now) {
    const came = now.online && !online;
    present = now;
    online = now.online;
    note.update(now);
    buttons();
    if (came && methods === null) readMethods();
  }

  drawHistory();
  update(device);
  if (device.online) readMethods();
  else setText(listState, "The device is asked for its methods once it is back. One whose name is known can be written.");
  return {
    element: h("div", {class: "stack"}, note.element, h("div", {class: "columns rpc"},
      h("section", {class: "card stack tight methods-card", "aria-label": "Methods of the device"}, h("h2", {}, "Methods"), listState, list),
      h("div", {class: "stack"}, form, h("section", {class: "card stack tight", "aria-labelledby": historyId}, h("h2", {id: historyId}, "History"), noHistory, history)))),
    update,
    destroy: () => ended.abort(),
  };
}

// Describes the error of a call: {words, code?, data?}; `code` only if the device itself answered.
function explain(error, name) {
  if (error.status === 422) {
    const unknown = isUnknownMethod(error) ? ` It seems not to have ${name}.` : "";
    return {words: inWords(error).slice(0, ERROR_LENGTH) + unknown, code: error.code, data: error.data};
  }
  if (error.status === 504) return {words: "The device did not answer in time. It may have done it all the same; wait longer if the method is slow."};
  if (error.status === 503) return {words: "The device is not connected: nothing was sent to it."};
  return {words: inWords(error)};
}
