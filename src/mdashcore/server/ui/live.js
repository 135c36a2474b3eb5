// The only module that keeps live state: the device table, and the stream of notifications.
//
// First the server says where the log of notifications ends. The socket begins there, and the devices are read after
// that, so that nothing is missed between the two. After a lost connection the stream continues at the next offset.
// If notifications were missed all the same, the devices are read again.
//
// The table has all devices of a fleet of up to `WHOLE_FLEET`. Of a larger one it has those that a view has asked for:
// the first answer says how many there are, so that no others are read.

import {ROOT, devicePath, get, getPage, whoAmI} from "./api.js";
import {LIGHT_FIELDS, followPlaces, lightDevice} from "./light.js";
import {follow, isObject, merge} from "./merge.js";

export {difference, isObject, merge, same} from "./merge.js";

const FIRST_WAIT = 500; // ms before the first try to reconnect; doubled each time
const LONGEST_WAIT = 15_000; // ms: a server that has come back is found within seconds
const SHORT_TIMEOUT = 10_000; // ms for the answer to a short question, and for a socket to open
const CHECK_INTERVAL = 60_000; // ms of silence before the server is checked: a short request, none while the page is hidden
const SOCKET_GRACE = 5000; // ms for stored notifications to come by the socket too: far longer than usual
const REPORT_INTERVAL = 100; // ms in which changes are reported together: ten repaints a second are enough
const MAX_REMEMBERED = 20_000; // notifications remembered during a read: beyond, another read costs less
const WHOLE_FLEET = 2000; // devices: 4 MB with shadows of 2 KB, which are sorted and filtered in milliseconds
const FIRST_PAGE = {limit: 100, count: 1}; // all devices of most fleets in one answer
const WHOLE_PAGE = 500; // devices in each further answer: a fifth of a second of the server's time
const RAM_POINTS = 60; // per device, for a sparkline
const NO_SOCKET = "the server answers, but no WebSocket to it opens; a proxy on the way has to pass on the headers Upgrade, Connection and Host";

export const devices = new Map(); // id → device as the API gives it, and ram: [free bytes, …]

let socket = null;
let running = false;
let state = "stopped"; // "connecting" (for the first time), "live", "reconnecting", "stopped"
let wasLive = false;
let trouble = ""; // why the last try to connect has failed, for people; empty while none has
let user = null; // the user of the session
let cursor = null; // offset of the newest notification received
let hole = {}; // stands for missed notifications, at first for all; null: none are missed
let wait = FIRST_WAIT;
let timer = null;
let lastSign = 0; // when a message came, or a check succeeded
let checking = false;
let loggedOut = () => {};
let generation = 0; // counts connections: the messages of an older one are discarded

// Subscriptions: each returns the function that ends it.

function topic() {
  const listeners = new Set();
  return {
    tell: (...args) => {
      for (const listener of [...listeners]) listener(...args);
    },
    listen: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

const notified = topic();
const changed = topic();
const stateChanged = topic();

// onNotification((notification) => …, {id, name}): `name` may end with "*". Called for each, in order, immediately.
export function onNotification(listener, {id, name} = {}) {
  return notified.listen((note) => {
    if (id !== undefined && note.id !== id) return;
    if (name !== undefined && !(name.endsWith("*") ? note.name.startsWith(name.slice(0, -1)) : note.name === name)) return;
    listener(note);
  });
}

// onDevices((ids) => …): a Set of ids whose device has changed, come or gone; null after all were read again.
export const onDevices = changed.listen;

// onDevice("lamp", (device) => …): the device after each change, undefined once it is gone.
export function onDevice(id, listener) {
  const mine = {id};
  watched.add(mine);
  const end = changed.listen((ids) => (ids === null || ids.has(id)) && listener(devices.get(id)));
  return () => {
    watched.delete(mine);
    end();
  };
}
const watched = new Set(); // {id}: one for each listener of a device
const isWatched = (id) => [...watched].some((each) => each.id === id);

// onState((state, trouble) => …): trouble says why the last try to connect has failed, "" while none has.
export const onState = stateChanged.listen;
export const connectionState = () => state;

// Whether the devices have been read once. Before that, an empty table means nothing.
export const isLoaded = () => loaded;
let loaded = false;

// Whether the table has all devices, with their shadows. If not, views ask the server for rows.
export const isWhole = () => loaded && !large;
let large = false;

// The number of all devices; null while it is not known.
export const size = () => (isWhole() ? devices.size : counted);
let counted = null;

// start({session, onLoggedOut}): `session` is what the server has just answered of it.
export function start({session, onLoggedOut}) {
  loggedOut = onLoggedOut;
  running = true;
  again(session);
}

export function stop() {
  running = false;
  loaded = large = wasLive = false;
  cursor = user = counted = null;
  hole = {};
  holdReaders();
  wait = FIRST_WAIT;
  generation += 1;
  clearTimeout(timer);
  socket?.close();
  socket = null;
  reads.clear();
  devices.clear();
  setState("stopped");
}

// The connection

function setState(next, why = "") {
  if (state === next && trouble === why) return;
  state = next;
  trouble = why;
  stateChanged.tell(state, trouble);
}

// Opens the socket if the server answers and the session still belongs to the same user.
async function again(session = null) {
  const mine = ++generation;
  setState(wasLive ? "reconnecting" : "connecting", trouble);
  try {
    const found = session ?? await probe();
    if (mine !== generation || !isOurs(found.user)) return;
    counted = found.devices;
    if (cursor === null || found.log_end - 1 < cursor) { // another log than before: the server has begun a new one
      cursor = found.log_end - 1;
      hole = {};
    }
    wakeReaders();
    connect(mine);
  } catch (error) {
    if (mine === generation) lost(inWords(error));
  }
}

const inWords = (error) => (error.name === "TimeoutError" ? "the server did not answer in time" : error.message);

const probe = () => whoAmI({signal: AbortSignal.timeout(SHORT_TIMEOUT)});

// Another user may have logged in in another tab: then this page must not show its data.
function isOurs(name) {
  user ??= name;
  if (name !== null && name === user) return true;
  loggedOut();
  if (name !== null) location.reload();
  return false;
}

function connect(mine) {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${ROOT}/api/v2/notify?start=${cursor + 1}`);
  timer = setTimeout(lost, SHORT_TIMEOUT, NO_SOCKET);
  let opened = false;
  const reading = hole ? readAll().catch((error) => mine === generation && lost(inWords(error))) : null;
  socket.addEventListener("open", async () => {
    if (mine !== generation) return;
    opened = true;
    clearTimeout(timer);
    lastSign = performance.now();
    await reading;
    if (mine !== generation) return;
    wait = FIRST_WAIT;
    wasLive = true;
    setState("live");
  });
  socket.addEventListener("message", (event) => {
    if (mine !== generation) return;
    lastSign = performance.now();
    take(JSON.parse(event.data));
  });
  socket.addEventListener("close", ({reason}) => mine === generation && lost(opened ? reason : NO_SOCKET));
}

// `why`: for people; "" if it is not known.
function lost(why = "") {
  if (!running) return;
  generation += 1;
  socket?.close();
  socket = null;
  setState(wasLive ? "reconnecting" : "connecting", why);
  clearTimeout(timer);
  timer = setTimeout(again, wait * (0.75 + Math.random() / 2)); // browsers must not reconnect all at the same time
  wait = Math.min(2 * wait, LONGEST_WAIT);
}

// Browsers do not report a half-open connection. Asks whether the server has notifications that have not come.
async function check() {
  if (state !== "live" || checking) return;
  const mine = generation;
  const seen = cursor;
  checking = true;
  try {
    const {user: name, log_end: end} = await probe();
    if (mine !== generation || !isOurs(name)) return;
    const isBehind = end - 1 > seen;
    if (isBehind) await sleep(SOCKET_GRACE);
    if (mine !== generation) return;
    if (isBehind && cursor === seen) lost();
    else lastSign = performance.now();
  } catch (error) {
    if (mine === generation) lost(inWords(error));
  } finally {
    checking = false;
  }
}

setInterval(() => !document.hidden && performance.now() - lastSign >= CHECK_INTERVAL && check(), CHECK_INTERVAL / 4);
document.addEventListener("visibilitychange", () => !document.hidden && check());
addEventListener("focus", check);

addEventListener("offline", () => state === "live" && lost("this computer has no network"));
addEventListener("online", () => {
  if (running && socket === null) {
    clearTimeout(timer);
    wait = FIRST_WAIT;
    again();
  }
});

const sleep = (time) => new Promise((done) => setTimeout(done, time));

// Reading

const reads = new Set(); // running reads: {id, told: the notifications that came meanwhile}

// Reads a snapshot, and applies the notifications that came meanwhile to it again, because they are newer. `id`: of
// this device only. Returns whether the snapshot was used.
async function snapshot(read, write, id) {
  const mine = {id, told: []};
  reads.add(mine);
  try {
    const found = await read();
    if (!reads.has(mine)) return false; // logged out meanwhile
    write(found);
  } finally {
    reads.delete(mine);
  }
  for (const note of mine.told) apply(note);
  return true;
}

// Reads one device again, if a notification was not enough.
export async function refresh(id) {
  const read = () => get(devicePath(id)).catch((error) => (error.status === 404 ? undefined : Promise.reject(error)));
  await snapshot(read, (device) => (device ? put(device) : devices.delete(id)), id);
  mark(id);
  return devices.get(id);
}

async function readAll() {
  const mine = hole;
  const left = new Set(devices.keys()); // those that are not read again
  const write = (list) => {
    for (const device of list) {
      left.delete(device.id);
      put(device);
    }
  };
  let total = counted > WHOLE_FLEET ? counted : null;
  for (let query = total === null ? FIRST_PAGE : null; query; ) {
    let page;
    const used = await snapshot(async () => {
      page = await getPage("/devices", query).catch((error) => (error.status === 413 ? {value: [], next: null, total: Infinity} : Promise.reject(error)));
      return page.value;
    }, write);
    if (!used) return;
    total ??= page.total ?? page.value.length;
    query = total > WHOLE_FLEET ? null : page.next && {limit: WHOLE_PAGE, after: page.next.after};
  }
  const wasLoaded = loaded;
  large = total > WHOLE_FLEET;
  counted = Number.isFinite(total) ? total : null;
  if (large && wasLoaded) await forgetMissed(left);
  else if (!large) for (const id of left) devices.delete(id);
  loaded = true;
  if (hole === mine) hole = null; // else notifications were missed since
  changed.tell(null);
}

// Notifications about these devices of a large fleet were missed. Views ask for their rows anew.
async function forgetMissed(ids) {
  for (const id of ids) if (!isWatched(id)) devices.delete(id);
  for (const {id} of [...watched]) await refresh(id);
}

// readRows({sort: "-name", filter: ["online"], limit: 100, count: 1}, {places}): devices as the server sorts and filters
// them, with the values of these places in the shadow, and as in getPage the next query and the number of all that match: {devices, next, total}; null after a logout. They are
// live from then on.
export async function readRows(query, {places = [], ...options} = {}) {
  await anchored;
  let page;
  const used = await snapshot(async () => {
    page = await getPage("/devices", {...query, fields: [LIGHT_FIELDS, ...places].join()}, options);
    return page.value.map(lightDevice);
  }, (list) => list.forEach(put));
  if (used && page.total !== null && !query.filter?.length) counted = page.total;
  return used ? {devices: page.value.map(({id}) => devices.get(id)).filter(Boolean), next: page.next, total: page.total} : null;
}

// Resolved once the offset is known from which on notifications are received.
let anchored, wakeReaders;
function holdReaders() {
  anchored = new Promise((done) => { wakeReaders = done; });
}
holdReaders();

// After a failed read, data is missing until all devices are read again.
function failed() {
  hole = {};
  if (socket) lost();
}

const rereading = new Set();

async function reread(id) {
  if (rereading.has(id)) return;
  rereading.add(id);
  await sleep(REPORT_INTERVAL); // several updates in a short time need one read
  rereading.delete(id);
  if (running) await refresh(id).catch(failed);
}

// Notifications

function take(note) {
  if (note.offset <= cursor) return;
  const isNext = note.offset === cursor + 1;
  cursor = note.offset;
  if (!isNext) { // the notifications between were not kept
    hole = {};
    readAll().catch(failed);
  }
  const listening = [...reads].filter(({id}) => id === undefined || id === note.id);
  for (const {told} of listening) told.push(note);
  if (counted !== null) counted += {created: 1, deleted: -1}[note.name] ?? 0;
  apply(note);
  notified.tell(note);
  if (listening.some(({told}) => told.length > MAX_REMEMBERED)) failed();
}

function apply(note) {
  const device = devices.get(note.id);
  const time = new Date(note.time * 1000).toISOString();
  if (note.name === "created") {
    if (!large || isWatched(note.id)) reread(note.id);
  } else if (note.name === "deleted") {
    devices.delete(note.id);
    mark(note.id);
  } else if (device === undefined) {
    return; // the last notifications of a removed device
  } else if (note.name === "online" || note.name === "offline") {
    device.online = note.name === "online";
    device.since = device.last_seen = time;
    mark(note.id);
  } else if (note.name === "updated") {
    if (note.data?.name !== undefined) device.name = note.data.name;
    if (note.data?.tags !== undefined) device.tags = note.data.tags;
    if (note.data?.delta_limit !== undefined) reread(note.id); // the platform's limit may apply now
    if (note.data?.shadow?.state?.reported !== undefined && device.online) device.last_seen = time; // it has reported
    if (note.data?.shadow) applyShadow(device, note.data.shadow);
    mark(note.id);
  } else if (note.name.startsWith("rpc.out.") || note.name === "rejected") {
    device.last_seen = time;
    mark(note.id);
  }
}

function applyShadow(device, update) {
  const {id, shadow} = device;
  if (device.light) return applyLightly(device, update);
  if (update.version <= shadow.version) return; // this version was read meanwhile
  if (update.version > shadow.version + 1) { // an update between the two is missing
    reread(id);
  } else {
    follow(shadow, update);
    noteRam(device);
  }
}

// Follows what a list shows of a shadow that the page does not have.
function applyLightly({shadow: {state}, ...device}, update) {
  followPlaces({...device, shadow: {state}}, update.state ?? {});
  for (const part of ["ota", "stats"]) {
    const changes = update.state?.reported?.[part];
    if (isObject(changes)) state.reported[part] = merge(state.reported[part] ?? {}, changes);
  }
  noteRam({...device, shadow: {state}});
}

// The table

// Keeps the object of a device, because lists refer to it.
function put(device) {
  const known = devices.get(device.id);
  device.ram = known?.ram ?? [];
  device.light ??= false;
  if (known && !known.light && device.light) device = {...device, shadow: known.shadow, light: false};
  const kept = known ? Object.assign(known, device) : device;
  devices.set(kept.id, kept);
  noteRam(kept);
}

function noteRam(device) {
  const free = device.shadow.state.reported?.stats?.ram_free;
  if (typeof free !== "number") return;
  device.ram.push(free);
  if (device.ram.length > RAM_POINTS) device.ram.shift();
}

let marked = new Set();

function mark(id) {
  if (marked.size === 0) {
    setTimeout(() => {
      const ids = marked;
      marked = new Set();
      changed.tell(ids);
    }, REPORT_INTERVAL);
  }
  marked.add(id);
}
