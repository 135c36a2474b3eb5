// A store in SQLite for the Node peer: WAL, every acknowledged write on disk, group commit in a worker thread.
'use strict';
const { isMainThread, parentPort, workerData, Worker } = require('worker_threads');

const SHADOW = 'INSERT INTO documents VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET body = excluded.body';
const LOG = 'INSERT INTO log (time, body) VALUES (?, ?)';

if (!isMainThread) {
  const { DatabaseSync } = require('node:sqlite');
  const db = new DatabaseSync(workerData);
  db.exec(`
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE documents (key TEXT PRIMARY KEY, body BLOB NOT NULL);
    CREATE TABLE log (id INTEGER PRIMARY KEY, time REAL NOT NULL, body BLOB NOT NULL);
  `);
  const shadow = db.prepare(SHADOW);
  const log = db.prepare(LOG);
  parentPort.on('message', (group) => {
    db.exec('BEGIN IMMEDIATE');
    for (const { key, body, time, entry } of group) {
      if (key !== undefined) shadow.run(key, body);
      log.run(time, entry);
    }
    db.exec('COMMIT');
    parentPort.postMessage(null);
  });
}

// All writes that wait while a group is committed are the next group.
class SqliteStore {
  constructor(path) {
    this.worker = new Worker(__filename, { workerData: path });
    this.worker.on('message', () => this.committed());
    this.worker.on('error', (error) => { throw error; });
    this.waiting = [];
    this.running = [];
    this.busy = false;
  }

  // Append an entry to the log, and write a document if there is a key; `done` is called when both are on disk.
  write(done, entry, key, body) {
    this.waiting.push({ done, row: { key, body, time: Date.now() / 1000, entry } });
    if (!this.busy) {
      this.busy = true;
      setImmediate(() => this.commit()); // what this turn of the loop writes is one group
    }
  }

  commit() {
    this.running = this.waiting;
    this.waiting = [];
    this.worker.postMessage(this.running.map(({ row }) => row));
  }

  committed() {
    const group = this.running;
    this.running = [];
    if (this.waiting.length) this.commit();
    else this.busy = false;
    for (const { done } of group) done();
  }
}

// Open the store of a URL; null for memory://.
function openStore(url) {
  if (url === 'memory://') return null;
  require('node:sqlite'); // an older Node has none, and must not say that it is ready
  const folder = url.slice('sqlite://'.length);
  require('fs').mkdirSync(folder, { recursive: true });
  return new SqliteStore(`${folder}/peer.db`);
}

module.exports = { openStore };
