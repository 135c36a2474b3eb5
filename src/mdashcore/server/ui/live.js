// The one place that keeps live state: the device table, and the stream of notifications.
//
// The notification socket is opened first and the devices are read then, so nothing falls between the two. After a lost
// connection the stream goes on at the next offset; where that is not known, or no longer kept, the devices are read anew.

import {devicePath, get, whoAmI} from "./api.js";

const FIRST_WAIT = 500; // ms before the first try to reconnect; doubled each time
const LONGEST_WAIT = 15_000; // ms: a server that is back is found within seconds
const CHECK = 60_000; // ms without a notification after which the server is asked for a sign of life
const BATCH = 100; // ms in which changes are told together: ten repaints a second are live enough
const RECENT = 1000; // notifications kept for views that show them
const RAM_POINTS = 60; // per device, for a sparkline

export const devices = new Map(); // id → device as the API gives it, and ram: [free bytes, …]
export const recent = []; // the newest notifications, oldest first

let socket = null;
let running = false;
let state = "stopped"; // "connecting" (for the first time), "live", "reconnecting", "stopped"
let cursor = null; // offset of the newest notification seen
let wait = FIRST_WAIT;
let timer = null;
let lastWord = 0;
let loggedOut = () => {};
let early = null; // notifications that came before the devices were read; null once they were
let generation = 0; // counts connections: what belongs to an older one is not heeded

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

// onNotification((notification) => …, {id, name}): `name` may end with "*". Every one, in order, at once.
export function onNotification(listener, {id, name} = {}) {
  return notified.listen((note) => {
    if (id !== undefined && note.id !== id) return;
    if (name !== undefined && !(name.endsWith("*") ? note.name.startsWith(name.slice(0, -1)) : note.name === name)) return;
    listener(note);
  });
}

// onDevices((ids) => …): a Set of ids whose device has changed, come or gone; null after all were read anew.
export const onDevices = changed.listen;

// onDevice("lamp", (device) => …): the device after each change, undefined once it is gone.
export const onDevice = (id, listener) =>
  changed.listen((ids) => (ids === null || ids.has(id)) && listener(devices.get(id)));

// onState((state) => …)
export const onState = stateChanged.listen;
export const connectionState = () => state;

// Whether the devices have been read once: an empty table before that means nothing.
export const isLoaded = () => loaded;
let loaded = false;

export function start({onLoggedOut}) {
  loggedOut = onLoggedOut;
  running = true;
  connect();
}

export function stop() {
  running = false;
  loaded = false;
  cursor = null;
  wait = FIRST_WAIT;
  generation += 1;
  clearTimeout(timer);
  socket?.close();
  socket = null;
  devices.clear();
  recent.length = 0;
  setState("stopped");
}

// Reads one device anew, where a notification was not enough.
export async function refresh(id) {
  let device;
  try {
    device = await get(devicePath(id));
  } catch (error) {
    if (error.status !== 404) throw error;
    devices.delete(id);
    mark(id);
    return undefined;
  }
  put(device);
  mark(id);
  return device;
}

// The connection

function setState(next) {
  if (state === next) return;
  state = next;
  stateChanged.tell(state);
}

function connect() {
  const mine = ++generation;
  early = [];
  setState(loaded ? "reconnecting" : "connecting");
  const known = cursor !== null && loaded;
  const query = known ? `?start=${cursor + 1}` : "";
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/v2/notify${query}`);
  socket.addEventListener("open", async () => {
    if (mine !== generation) return;
    lastWord = Date.now();
    try {
      if (!known) await readAll(mine);
    } catch {
      if (mine === generation) socket.close();
      return;
    }
    if (mine !== generation) return;
    const waiting = early;
    early = null;
    wait = FIRST_WAIT;
    setState("live");
    for (const note of waiting) take(note);
  });
  socket.addEventListener("message", (event) => {
    if (mine !== generation) return;
    lastWord = Date.now();
    const note = JSON.parse(event.data);
    if (early) early.push(note);
    else take(note);
  });
  socket.addEventListener("close", () => mine === generation && lost());
}

function lost() {
  if (!running) return;
  generation += 1;
  socket?.close();
  socket = null;
  setState(loaded ? "reconnecting" : "connecting");
  clearTimeout(timer);
  timer = setTimeout(again, wait * (0.75 + Math.random() / 2)); // not all browsers at once
  wait = Math.min(2 * wait, LONGEST_WAIT);
}

// Before the socket is opened again: is the server there, and are we still logged in?
async function again() {
  const mine = generation;
  try {
    const {user} = await whoAmI();
    if (mine !== generation || !running) return;
    if (user === null) loggedOut();
    else connect();
  } catch {
    if (mine === generation) lost();
  }
}

// A browser tells nobody of a connection that is half open: ask for a sign of life.
setInterval(async () => {
  if (state !== "live" || Date.now() - lastWord < CHECK) return;
  const mine = generation;
  try {
    await get("/session", undefined, {signal: AbortSignal.timeout(10_000)});
    lastWord = Date.now();
  } catch {
    if (mine === generation) lost();
  }
}, CHECK / 4);

addEventListener("offline", () => state === "live" && lost());
addEventListener("online", () => {
  if (running && socket === null) {
    clearTimeout(timer);
    wait = FIRST_WAIT;
    again();
  }
});

async function readAll(mine) {
  const list = await get("/devices");
  if (mine !== generation) return;
  const gone = new Set(devices.keys());
  for (const device of list) {
    gone.delete(device.id);
    put(device);
  }
  for (const id of gone) devices.delete(id);
  loaded = true;
  changed.tell(null);
}

// Notifications

function take(note) {
  if (cursor !== null && note.offset > cursor + 1 && loaded) readAll(generation).catch(lost); // what was between is not kept
  if (cursor !== null && note.offset <= cursor) return;
  cursor = note.offset;
  recent.push(note);
  if (recent.length > 1.1 * RECENT) recent.splice(0, recent.length - RECENT);
  apply(note);
  notified.tell(note);
}

function apply(note) {
  const device = devices.get(note.id);
  const time = new Date(note.time * 1000).toISOString();
  if (note.name === "created") {
    reread(note.id);
  } else if (note.name === "deleted") {
    devices.delete(note.id);
    mark(note.id);
  } else if (device === undefined) {
    return; // one that is gone, and speaks its last
  } else if (note.name === "online" || note.name === "offline") {
    device.online = note.name === "online";
    device.last_seen = time;
    mark(note.id);
  } else if (note.name === "updated") {
    if (note.data?.name !== undefined) device.name = note.data.name;
    if (note.data?.shadow) applyShadow(device, note.data.shadow);
    mark(note.id);
  } else if (note.name.startsWith("rpc.out.")) {
    device.last_seen = time;
    mark(note.id);
  }
}

function applyShadow(device, {state: update, version, timestamp}) {
  const {shadow} = device;
  if (version <= shadow.version) return; // read meanwhile
  if (version > shadow.version + 1) {
    reread(device.id); // another update is missing between the two
    return;
  }
  const {desired, reported} = update === null ? {} : merge(sections(shadow.state), update);
  const delta = difference(desired ?? {}, reported ?? {});
  shadow.state = {
    ...(desired && Object.keys(desired).length && {desired}),
    ...(reported && Object.keys(reported).length && {reported}),
    ...(delta && {delta}),
  };
  Object.assign(shadow, {version, timestamp});
  noteRam(device);
}

const sections = ({desired, reported}) => ({desired, reported});

// RFC 7396.
export function merge(target, patch) {
  if (!isObject(patch)) return patch;
  const merged = Object.assign(Object.create(null), isObject(target) ? target : {});
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete merged[key];
    else merged[key] = merge(merged[key], value);
  }
  return merged;
}

// What of `desired` is not in `reported`, or otherwise there; undefined if nothing.
export function difference(desired, reported) {
  const found = Object.create(null);
  for (const [key, value] of Object.entries(desired)) {
    const has = Object.hasOwn(reported, key);
    if (isObject(value) && has && isObject(reported[key])) {
      const inner = difference(value, reported[key]);
      if (inner) found[key] = inner;
    } else if (!has || !same(value, reported[key])) {
      found[key] = value;
    }
  }
  return Object.keys(found).length ? found : undefined;
}

export function same(a, b) {
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((value, i) => same(value, b[i]));
  if (isObject(a) && isObject(b)) {
    const keys = Object.keys(a);
    return keys.length === Object.keys(b).length && keys.every((key) => Object.hasOwn(b, key) && same(a[key], b[key]));
  }
  return a === b;
}

export const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

// The table

// A device stays the same object, whatever is read of it: lists hold it.
function put(device) {
  const known = devices.get(device.id);
  device.ram = known?.ram ?? [];
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

const rereading = new Set();

async function reread(id) {
  if (rereading.has(id)) return;
  rereading.add(id);
  const mine = generation;
  await new Promise((done) => setTimeout(done, BATCH)); // several updates at once are read once
  rereading.delete(id);
  try {
    if (mine === generation) await refresh(id);
  } catch {
    if (mine === generation) lost();
  }
}

let marked = new Set();

function mark(id) {
  if (marked.size === 0) {
    setTimeout(() => {
      const ids = marked;
      marked = new Set();
      changed.tell(ids);
    }, BATCH);
  }
  marked.add(id);
}
