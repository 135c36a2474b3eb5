// Devices behind Node's http and the package ws: no accounts, no log, no bounds.
'use strict';
const http = require('http');
const { WebSocketServer } = require('ws');

const count = Number(process.argv[2] || 64);
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

function tell(notification) {
  const data = Buffer.from(JSON.stringify(notification)); // encoded once for all
  for (const subscriber of subscribers) subscriber.send(data, options);
}

function change(id, document) {
  const shadow = shadowOf(id);
  for (const section of ['desired', 'reported']) {
    if (document.state[section]) merge(shadow.state[section], document.state[section]);
  }
  shadow.version += 1;
  const accepted = { state: document.state, version: shadow.version, timestamp: Math.floor(Date.now() / 1000) };
  const left = delta(shadow.state.desired, shadow.state.reported);
  const device = devices.get(id);
  if (device && Object.keys(left).length) {
    const params = { state: left, version: shadow.version };
    device.ws.send(JSON.stringify({ jsonrpc: '2.0', method: 'Shadow.Delta', params }));
  }
  tell({ name: 'updated', id, data: { shadow: accepted } });
  return accepted;
}

function receive(id, device, frame) {
  if (frame.method === undefined) {
    const call = device.calls.get(frame.id);
    if (call) {
      device.calls.delete(frame.id);
      clearTimeout(call.timer);
      respond(call.response, 200, frame.result);
    }
  } else if (frame.method === 'Dash.Shadow.Update') {
    device.ws.send(JSON.stringify({ jsonrpc: '2.0', id: frame.id, result: change(id, frame.params) }));
  } else if (frame.id !== undefined) {
    device.ws.send(JSON.stringify({ jsonrpc: '2.0', id: frame.id, result: {} }));
  } else {
    tell({ name: `rpc.out.${frame.method}`, id, data: frame.params });
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
    if (!method) return respond(response, 200, change(id, body));
    const device = devices.get(id);
    if (!device) return respond(response, 503, null);
    const number = ++device.last;
    const timer = setTimeout(() => {
      device.calls.delete(number);
      respond(response, 504, null);
    }, 10000);
    device.calls.set(number, { response, timer });
    device.ws.send(JSON.stringify({ jsonrpc: '2.0', id: number, method, params: body }));
  });
});

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
    ws.on('message', (data) => receive(id, device, JSON.parse(data)));
    ws.on('close', () => {
      if (devices.get(id) === device) devices.delete(id);
    });
  });
});

server.listen({ host: '127.0.0.1', port: 0, backlog: 1024 }, () => {
  const ids = Array.from({ length: count }, (_, n) => [`d${n}`, `d${n}`]);
  console.log(JSON.stringify({ port: server.address().port, key: 'any', devices: ids }));
});
