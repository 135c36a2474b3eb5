// A device's file system over its FS.* methods.

import {call} from "../../api.js";
import {isUnknownMethod} from "./methods.js";

export const CHUNK = 2048; // bytes of a file in one call: in base64 with its envelope it fits the 4096 bytes that a device reads
const CHUNK_TIMEOUT = 30; // s for one chunk: flash is slow while it erases
const MAX_FILE = 16 * 2 ** 20; // bytes read of one file: the largest flash of such a device

// Returns [{name, size}, …] by name; `size` is null if the device does not report it.
export async function listFiles(id, signal) {
  let found;
  try {
    found = await call(id, "FS.ListExt", undefined, {signal});
  } catch (error) {
    if (!isUnknownMethod(error)) throw error;
    found = await call(id, "FS.List", undefined, {signal});
  }
  if (!Array.isArray(found)) throw Object.assign(new Error("the device gave no list of files"), {status: 0});
  return found.map((file) => (typeof file === "string" ? {name: file, size: null} : {name: file?.name, size: typeof file?.size === "number" ? file.size : null}))
    .filter(({name}) => typeof name === "string").sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
}

// Returns the free and all bytes of the file system, or null.
export async function space(id, signal) {
  try {
    const {fs_free: free, fs_size: size} = await call(id, "Sys.GetInfo", undefined, {signal});
    return typeof free === "number" && typeof size === "number" ? {free, size} : null;
  } catch (error) {
    if (error.status === undefined) throw error;
    return null;
  }
}

// Reads a file's bytes; onProgress(fraction 0…1 or null, bytes read).
export async function readFile(id, filename, {signal, onProgress}) {
  const parts = [];
  let offset = 0;
  for (;;) {
    const {data, left} = (await call(id, "FS.Get", {filename, offset, len: CHUNK}, {signal, timeout: CHUNK_TIMEOUT})) ?? {};
    const part = fromBase64(data);
    parts.push(part);
    offset += part.length;
    onProgress?.(left > 0 ? offset / (offset + left) : 1, offset);
    if (!(left > 0)) break;
    if (part.length === 0 || offset > MAX_FILE) throw Object.assign(new Error(`the device says that ${left} bytes are left, and gives none`), {status: 0});
  }
  const all = new Uint8Array(offset);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

// Writes a file under another name, and renames it. The old file stays until the new one is complete.
export async function writeFile(id, filename, bytes, {signal, onProgress}) {
  const draft = `~${Math.random().toString(36).slice(2, 8)}.tmp`; // short: SPIFFS has 31 bytes for a name
  let state = "on the device it is as it was"; // of the file, for the error if this fails
  let isOnly = false; // whether the draft may be the only copy
  try {
    let offset = 0;
    do {
      signal?.throwIfAborted(); // between two parts: the device might take a part that was given up after the draft is removed
      const part = bytes.subarray(offset, offset + CHUNK);
      await call(id, "FS.Put", {filename: draft, data: toBase64(part), append: offset > 0}, {timeout: CHUNK_TIMEOUT});
      offset += part.length;
      onProgress?.(bytes.length ? offset / bytes.length : 1, offset);
    } while (offset < bytes.length);
    signal?.throwIfAborted();
    try {
      await renameFile(id, draft, filename);
    } catch (error) {
      if (error.status !== 422) state = "the device may have written it all the same";
      if (error.status !== 422 || !(await has(id, filename))) throw error;
      isOnly = true; // some file systems remove the target before they rename
      await removeFile(id, filename).catch((problem) => {
        isOnly = problem.status !== 422; // after a refusal the old file is still there
        throw problem;
      });
      await renameFile(id, draft, filename);
    }
  } catch (error) {
    if (isOnly) state = `the content is in ${draft}, to be renamed by hand, unless the device has done so`;
    else await removeFile(id, draft).catch(() => {}); // it did not exist, or the device is gone and the list shows it later
    throw error.status === undefined ? error : Object.assign(new Error(`${error.message}; ${state}`), {status: error.status});
  }
}

const has = async (id, filename) => (await listFiles(id)).some(({name}) => name === filename);

export const removeFile = (id, filename, options) => call(id, "FS.Remove", {filename}, options);
export const renameFile = (id, src, dst) => call(id, "FS.Rename", {src, dst}, {timeout: CHUNK_TIMEOUT});

function fromBase64(text) {
  try {
    return Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  } catch {
    throw Object.assign(new Error("the device gave data that is no base64"), {status: 0});
  }
}

const toBase64 = (bytes) => btoa(String.fromCharCode(...bytes));
