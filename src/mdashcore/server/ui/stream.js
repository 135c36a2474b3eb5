// Stored and live notifications in one list: the log as far back as a person scrolls, and the live ones below it.
//
// stream({label, query: {id, name, text, from, to}, accept(note), line(note) → node, nothing: node, onState}):
//   {element, setQuery(query, accept), pause(), resume(), isPaused(), shown(): the notifications on the page, destroy()}
//   query: for the server, which searches if it has a text or a time (Unix seconds); accept: whether a note is shown.
//   onState({paused, waiting}) after each change.
//
// No notification is missed between the two: live ones wait during a read, and each counts once by its offset. After
// its first notification, live.js leaves none out.

import {LOG_END, get, post} from "./api.js";
import {inWords} from "./dialog.js";
import {fill, h, setText} from "./dom.js";
import * as live from "./live.js";
import {short} from "./zone.js";

const READ_PAGE = 200; // notifications in one read
const KEPT_LINES = 2000; // lines in the page while it follows: more are read again when a person scrolls back
const MAX_LINES = 5000; // lines in the page, or notifications waiting, at most
const MAX_FILTERED = 20_000; // notifications kept, most of them hidden by a filter
const LOOK_BACK = 10; // reads without a match before asking whether to go on
const NEAR_TOP = 300; // px from the top within which older ones are read
const AT_END = 40; // px: within them the page follows the newest
const BATCH_TIME = 50; // ms in which lines are added together
const BATCH_LINES = 1000; // of them at most, because the timers of a hidden page are slow

export function stream({label, query, accept = () => true, line, nothing, onState}) {
  let notes = []; // oldest first, without gaps; those that `accept` takes have a line
  let waiting = []; // came while paused, or during a read
  let paused = false;
  let following = true; // the newest is kept in sight
  let detached = false; // the newest were dropped, because a person reads old ones
  let behind = true; // the live ones may begin later than the read ones end
  let unread = 0;
  let reading = null; // the running read
  let wished = false; // a person has scrolled to the top meanwhile
  let complete = false; // whether the beginning of the log is loaded
  let dead = false;
  let searched = null; // where the server's search goes on, and the time that it has reached: {next, reached}

  const edge = h("div", {class: "stream-edge"});
  const lines = h("div", {});
  const none = h("div", {hidden: true}, nothing);
  const hidden = h("p", {class: "stream-edge", hidden: true}, "Nothing here matches the filter.");
  const box = h("div", {class: "stream", role: "log", "aria-live": "off", "aria-label": label, tabindex: 0}, edge, lines, none, hidden);
  const jump = h("button", {type: "button", class: "primary stream-new", hidden: true, onclick: toEnd});
  const element = h("div", {class: "stream-box"}, box, jump);

  box.addEventListener("scroll", () => {
    following = !detached && box.scrollHeight - box.scrollTop - box.clientHeight < AT_END;
    if (following && !paused) unread = 0;
    wished = box.scrollTop < NEAR_TOP;
    if (wished) lookBack();
    tell();
  }, {passive: true});
  const resized = new ResizeObserver(() => following && toBottom());
  for (const part of [box, edge]) resized.observe(part);

  const isMine = (note) => (query.id === undefined || note.id === query.id)
    && (query.name === undefined || (query.name.endsWith("*") ? note.name.startsWith(query.name.slice(0, -1)) : note.name === query.name));

  const last = () => notes.at(-1)?.offset ?? -1;

  // Whether live ones have to wait.
  const isHeld = () => paused || reading !== null || behind;

  function tell() {
    const isEmpty = lines.childElementCount === 0 && reading === null;
    jump.hidden = unread === 0 && !detached;
    setText(jump, unread ? `${unread} new ↓` : "To the newest ↓");
    none.hidden = !(isEmpty && complete && notes.length === 0 && !isSearch());
    hidden.hidden = !(isEmpty && (notes.length > 0 || (isSearch() && complete)));
    onState?.({paused, waiting: paused ? waiting.length : 0});
  }

  // The stored log

  // Runs one read at a time; live ones wait meanwhile. A newer read ends an older one, because the list begins anew.
  async function read(run, failed = sayError) {
    const mine = (reading = {});
    fill(edge, "Loading…");
    tell();
    try {
      await run(() => {
        if (reading !== mine || dead) throw STOPPED;
      });
      drawEdge();
    } catch (error) {
      if (error !== STOPPED && reading === mine) failed(error);
    } finally {
      if (reading === mine) {
        reading = null;
        if (!dead) catchUp();
        if (!isHeld() && !dead) takeWaiting();
        tell();
        if (wished && box.scrollTop < NEAR_TOP && !dead) lookBack();
      }
    }
  }

  function sayError(error) {
    fill(edge, inWords(error), " ", h("button", {type: "button", onclick: () => (notes.length ? lookBack() : start())}, "Try again"));
  }

  function drawEdge() {
    if (!complete) fill(edge, h("button", {type: "button", class: "quiet", onclick: lookBack}, "Look further back"));
    else fill(edge, lines.childElementCount > 0 && "This is the beginning of the log.");
    if (!complete && searched?.reached) edge.append(` Searched back to ${short(searched.reached)}.`);
  }

  const isSearch = () => Boolean(query.text || query.from || query.to);
  const ask = (body) => post("/logs", {...(query.id !== undefined && {id: query.id}), ...(query.name !== undefined && {name: query.name}), ...body});

  // Begins with the newest.
  function start() {
    notes = [];
    waiting = [];
    unread = 0;
    complete = detached = false;
    searched = null;
    following = true;
    behind = live.connectionState() !== "live";
    fill(lines);
    read(async (check) => {
      await page(check);
      await fillBox(check);
    });
  }

  async function page(check) {
    if (isSearch()) return searchPage(check);
    const found = await ask({before: notes[0]?.offset ?? LOG_END, limit: READ_PAGE});
    check();
    complete = found.length < READ_PAGE;
    prepend(found);
    return found.some(accept);
  }

  // The next part of the server's search, which says how far it has come.
  async function searchPage(check) {
    const before = searched?.next ?? notes[0]?.offset;
    const found = await get("/logs", {...query, before, limit: READ_PAGE});
    check();
    searched = found;
    complete = found.next === null;
    if (!complete && found.reached !== null) fill(edge, `Searching… back to ${short(found.reached)}`);
    prepend(found.notifications);
    return found.notifications.some(accept);
  }

  async function fillBox(check) {
    for (let reads = 0; !complete && box.scrollHeight < box.clientHeight + NEAR_TOP && reads < LOOK_BACK; reads += 1) await page(check);
  }

  function lookBack() {
    if (reading || complete || (notes.length === 0 && !isSearch())) return;
    wished = false;
    read(async (check) => {
      for (let reads = 0; !complete && reads < LOOK_BACK && !(await page(check)); reads += 1);
      await fillBox(check);
    });
  }

  // Reads the ones between, once live ones come. While paused or reading, this happens at the end of that.
  function catchUp() {
    if (!behind || paused || reading || live.connectionState() !== "live") return;
    behind = false;
    if (detached) takeWaiting();
    else if (notes.length === 0 || isSearch()) start();
    else {
      read(async (check) => {
        for (let reads = 0; reads < LOOK_BACK; reads += 1) {
          const found = await ask({start: last() + 1, limit: 1000});
          check();
          append(found);
          if (found.length < 1000) return;
        }
        start(); // so many came that it is easier to begin with the newest
      }, letGo);
    }
  }

  // A gap must not be between two lines: the gap is above the first one, where a person looks for older ones.
  function letGo(error) {
    if (following) {
      notes = [];
      fill(lines);
      complete = false;
      sayError(new Error(`Some entries could not be loaded: ${error.message}`));
    } else {
      detached = true; // a person who reads old ones keeps them
      drawEdge();
    }
  }

  // Lines

  function make(note) {
    const node = line(note);
    node.dataset.offset = note.offset;
    return node;
  }

  function append(found) {
    const fresh = found.filter((note) => note.offset > last());
    if (fresh.length === 0) return; // nothing moves under a person who is about to scroll
    const shown = fresh.filter(accept);
    if (!following) unread += shown.length;
    if (detached) return;
    notes.push(...fresh);
    lines.append(...shown.map(make));
    if (following) {
      shed(KEPT_LINES);
      toBottom();
    } else if (lines.childElementCount > MAX_LINES || notes.length > MAX_FILTERED) {
      detached = true; // a person who reads old ones keeps them
    }
  }

  function prepend(found) {
    const before = box.scrollHeight - box.scrollTop;
    notes = [...found, ...notes];
    lines.prepend(...found.filter(accept).map(make));
    box.scrollTop = following ? box.scrollHeight : box.scrollHeight - before;
    if (lines.childElementCount <= MAX_LINES && notes.length <= MAX_FILTERED) return;
    detached = true;
    following = false;
    while (lines.childElementCount > MAX_LINES) lines.lastChild.remove();
    notes = notes.slice(0, MAX_FILTERED);
    const newest = Number(lines.lastChild?.dataset.offset);
    if (lines.childElementCount === MAX_LINES) notes = notes.filter(({offset}) => offset <= newest);
  }

  // Drops the oldest lines, which can be read again.
  function shed(size) {
    if (lines.childElementCount <= size && notes.length <= MAX_FILTERED) return;
    while (lines.childElementCount > size) lines.firstChild.remove();
    const oldest = Number(lines.firstChild?.dataset.offset ?? notes.at(-1).offset);
    notes = notes.filter(({offset}) => offset >= oldest).slice(-MAX_FILTERED);
    complete = false;
    searched = null; // it goes on before the oldest line
    if (!reading) drawEdge();
  }

  function toBottom() {
    box.scrollTop = box.scrollHeight;
  }

  function toEnd() {
    paused = false;
    following = true;
    unread = 0;
    if (detached) return start();
    catchUp();
    if (!isHeld()) takeWaiting();
    toBottom();
    return tell();
  }

  function takeWaiting() {
    const found = waiting;
    waiting = [];
    if (found.length >= MAX_LINES && following) return start();
    if (found.length >= MAX_LINES) detached = true; // not all of them were kept
    return append(found);
  }

  let batch = [];
  let timer = 0;

  const stops = [
    live.onNotification((note) => {
      if (!isMine(note)) return;
      batch.push(note);
      if (batch.length >= BATCH_LINES) flush();
      else timer ||= setTimeout(flush, BATCH_TIME);
    }),
    live.onState(catchUp),
  ];

  function flush() {
    clearTimeout(timer);
    timer = 0;
    const found = batch.filter(isMine); // the query may have changed meanwhile
    batch = [];
    if (found.length === 0) return;
    if (isHeld()) {
      if (waiting.length < MAX_LINES) waiting.push(...found);
    } else {
      append(found);
    }
    tell();
  }

  queueMicrotask(() => dead || start()); // the callers of onState have their elements by then
  return {
    element,
    setQuery: (next, nextAccept = () => true) => {
      const isSame = ["id", "name", "text", "from", "to"].every((part) => next[part] === query[part]) && !detached;
      query = next;
      accept = nextAccept;
      if (!isSame) return start();
      fill(lines, notes.filter(accept).slice(-KEPT_LINES - 1).map(make));
      shed(KEPT_LINES);
      following = true;
      toBottom();
      if (!reading) {
        drawEdge();
        if (!complete) read(fillBox);
      }
      return tell();
    },
    pause: () => {
      paused = true;
      tell();
    },
    resume: toEnd,
    isPaused: () => paused,
    shown: () => notes.filter(accept),
    destroy: () => {
      dead = true;
      clearTimeout(timer);
      resized.disconnect();
      for (const stop of stops) stop();
    },
  };
}

const STOPPED = Symbol("a newer read has begun");

// A button that pauses and resumes the stream.
export function pauseButton(shown) {
  const button = h("button", {type: "button", "aria-pressed": "false", onclick: () => {
    if (shown().isPaused()) shown().resume();
    else shown().pause();
    draw();
  }}, "Pause");
  const draw = () => {
    button.setAttribute("aria-pressed", shown().isPaused());
    setText(button, shown().isPaused() ? "Go on" : "Pause");
  };
  return {button, draw};
}
