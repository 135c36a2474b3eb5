// Devices behind Node's http and the package ws: no accounts, no bounds.
//
// In memory there is no log. With SQLite, a call has an entry in the log before it is answered, and a report, a message
// and a connection are on disk before they are answered or sent on.
'use strict';
const http = require('http');
const { WebSocketServer } = require('ws');
const { openStore } = require('./sqlite_store.js');

const count = Number(process.argv[2] || 64);
const store = openStore(process.argv[3] || 'memory://');
const devices = new Map();
const subscribers = new Set();
const shadows = new Map();
const options = { binary: false };

const isObject = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);

function merge(target, patch) {
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete target[key];
    else if (isObject(value) && isObject(target[key])) merge(target[key], value);
    else target[key] = value;
  }
}

function delta(desired, reported) {
  const found = {};
  for (const [key, value] of Object.entries(desired)) {
    const other = reported[key];
    if (isObject(value) && isObject(other)) {
      const inner = delta(value, other);
      if (Object.keys(inner).length) found[key] = inner;
    } else if (value !== other) found[key] = value;
  }
  return found;
}

function shadowOf(id) {
  let shadow = shadows.get(id);
  if (!shadow) shadows.set(id, (shadow = { state: { desired: {}, reported: {} }, version: 0 }));
  return shadow;
}

const encode = (notification) => Buffer.from(JSON.stringify(notification)); // once for all

function tell(data) {
  for (const subscriber of subscribers) subscriber.send(data, options);
}

// Merge an update, and call `done` with the accepted document when it is stored and everybody is told.
function change(id, document, done) {
  const shadow = shadowOf(id);
  for (const section of ['desired', 'reported']) {
    if (document.state[section]) merge(shadow.state[section], document.state[section]);
  }
  shadow.version += 1;
  const accepted = { state: document.state, version: shadow.version, timestamp: Math.floor(Date.now() / 1000) };
  const left = delta(shadow.state.desired, shadow.state.reported);
  const notification = encode({ name: 'updated', id, data: { shadow: accepted } });
  const finish = () => {
    const device = devices.get(id);
    if (device && Object.keys(left).length) {
      const params = { state: left, version: accepted.version };
      device.ws.send(JSON.stringify({ jsonrpc: '2.0', method: 'Shadow.Delta', params }));
    }
    tell(notification);
    done(accepted);
  };
  if (store) store.write(finish, notification, id, JSON.stringify(shadow));
  else finish();
}

function publish(notification) {
  const data = encode(notification);
  if (store) store.write(() => tell(data), data);
  else tell(data);
}

// Store whether a device is connected.
function notePresence(id, name) {
  const data = encode({ name, id });
  return new Promise((resolve) => store.write(() => resolve(tell(data)), data, `presence/${id}`, name));
}

function settle(call) {
  if (call.stored && call.answered) respond(call.response, 200, call.result);
}

function receive(id, device, frame) {
  if (frame.method === undefined) {
    const call = device.calls.get(frame.id);
    if (call) {
      device.calls.delete(frame.id);
      clearTimeout(call.timer);
      call.answered = true;
      call.result = frame.result;
      settle(call);
    }
  } else if (frame.method === 'Dash.Shadow.Update') {
    change(id, frame.params, (result) => device.ws.send(JSON.stringify({ jsonrpc: '2.0', id: frame.id, result })));
  } else if (frame.id !== undefined) {
    device.ws.send(JSON.stringify({ jsonrpc: '2.0', id: frame.id, result: {} }));
  } else {
    publish({ name: `rpc.out.${frame.method}`, id, data: frame.params });
  }
}

function respond(response, status, value) {
  const body = JSON.stringify(value === undefined ? null : value);
  response.writeHead(status, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) });
  response.end(body);
}

const path = /^\/api\/v2\/devices\/([^/]+)\/(?:shadow|rpc\/([^/]+))$/;

const server = http.createServer((request, response) => {
  const match = path.exec(request.url);
  if (!match) return respond(response, 404, null);
  const [, id, method] = match;
  if (request.method === 'GET') return respond(response, 200, shadowOf(id));
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    const body = JSON.parse(chunks.length === 1 ? chunks[0] : Buffer.concat(chunks));
    if (!method) return change(id, body, (accepted) => respond(response, 200, accepted));
    const device = devices.get(id);
    if (!device) return respond(response, 503, null);
    const number = ++device.last;
    const timer = setTimeout(() => {
      device.calls.delete(number);
      respond(response, 504, null);
    }, 10000);
    const call = { response, timer, stored: !store, answered: false, result: undefined };
    device.calls.set(number, call);
    device.ws.send(JSON.stringify({ jsonrpc: '2.0', id: number, method, params: body }));
    if (store) {
      const notification = encode({ name: `rpc.in.${method}`, id, data: body });
      store.write(() => { call.stored = true; tell(notification); settle(call); }, notification);
    }
  });
});

server.keepAliveTimeout = 65000; // milliseconds: longer than the turns of all others

const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false });
server.on('upgrade', (request, socket, head) => {
  sockets.handleUpgrade(request, socket, head, (ws) => {
    if (request.url === '/api/v2/notify') {
      subscribers.add(ws);
      ws.on('close', () => subscribers.delete(ws));
      return;
    }
    const id = request.headers.authorization.slice('Bearer '.length);
    const device = { ws, calls: new Map(), last: 0 };
    devices.set(id, device);
    const ready = store && notePresence(id, 'online');
    ws.on('message', (data) => {
      if (ready) ready.then(() => receive(id, device, JSON.parse(data)));
      else receive(id, device, JSON.parse(data));
    });
    ws.on('close', () => {
      if (devices.get(id) !== device) return;
      devices.delete(id);
      if (store) notePresence(id, 'offline');
    });
  });
});

server.listen({ host: '127.0.0.1', port: 0, backlog: 1024 }, () => {
  const ids = Array.from({ length: count }, (_, n) => [`d${n}`, `d${n}`]);
  console.log(JSON.stringify({ port: server.address().port, key: 'any', devices: ids }));
});
