// The only module that talks to the server.

// The server's path: "", or the path below which it shares its host with others, such as "/mdash".
// This module is `ROOT/ui/DIGEST/api.js`.
export const ROOT = new URL(import.meta.url).pathname.replace(/\/ui\/(?:[0-9a-f]{16}\/)?api\.js$/, "");

const BASE = `${ROOT}/api/v2`;

export const LOG_END = Number.MAX_SAFE_INTEGER; // an offset beyond every log's end
export const LOG_PAGE = 1000; // notifications in one answer: the server gives no more

const PAGE_HEADERS = {"X-Requested-With": "mdash"}; // with it the server does not make the browser open its own login

const ANSWER_TIMEOUT = 130_000; // ms for an answer: a call may ask for 120 s

export class ApiError extends Error {
  // The message is for people.
  constructor(status, code, message, {data, retryAfter} = {}) {
    super(message);
    this.name = "ApiError";
    this.status = status; // of HTTP; 0 without an answer
    this.code = code; // the device's own if status is 422
    this.data = data;
    this.retryAfter = retryAfter; // seconds, if the server named them
  }
}

// Called when a request finds that the session has ended.
let onLoggedOut = () => {};
export function whenLoggedOut(listener) {
  onLoggedOut = listener;
}

// request("POST", "/devices", {body: {id: "lamp"}, query: {timeout: 5}, signal}): the decoded answer, or ApiError.
export async function request(method, path, {body, query, signal} = {}) {
  const limit = AbortSignal.timeout(ANSWER_TIMEOUT);
  const init = {method, headers: {...PAGE_HEADERS}, signal: signal ? AbortSignal.any([signal, limit]) : limit};
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers["Content-Type"] = "application/json";
  }
  return (await ask(path, query, init, signal)).value;
}

// getPage("/devices", {limit: 1000, count: 1}): a page of a list, the query of the next one, and the number of devices
// in all pages if they are counted: {value: […], next: {…} or null, total}.
export async function getPage(path, query, options = {}) {
  const limit = AbortSignal.timeout(ANSWER_TIMEOUT);
  const signal = options.signal ? AbortSignal.any([options.signal, limit]) : limit;
  const {value, link, total} = await ask(path, query, {headers: {...PAGE_HEADERS}, signal}, options.signal);
  return {value, next: nextOf(link), total: total === null ? null : Number(total)};
}

// getCsv("/devices", {limit: 1000}): a page of a list as a table, and the query of the next one: {text, next}.
export async function getCsv(path, query) {
  const {response, text} = await load(path, {...query, format: "csv"}, {headers: {...PAGE_HEADERS}, signal: AbortSignal.timeout(ANSWER_TIMEOUT)});
  if (!response.ok) settle(response.status, text, response.headers.get("Retry-After"), path); // throws
  return {text, next: nextOf(response.headers.get("Link"))};
}

// Returns the query of the next page, or null.
function nextOf(link) {
  const found = /<[^>]*\?([^>]*)>;\s*rel="?next"?/.exec(link ?? "");
  return found ? queryOf(found[1]) : null;
}

// Returns a query as an object; a parameter that is given several times as an array.
function queryOf(text) {
  const found = new URLSearchParams(text);
  return Object.fromEntries([...new Set(found.keys())].map((name) => [name, name === "filter" ? found.getAll(name) : found.get(name)]));
}

async function load(path, query, init, signal) {
  try {
    const response = await fetch(address(path, query), init);
    return {response, text: await response.text()};
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, 0, error.name === "TimeoutError" ? "the server did not answer in time" : "the server cannot be reached");
  }
}

async function ask(path, query, init, signal) {
  const {response, text} = await load(path, query, init, signal);
  return {value: settle(response.status, text, response.headers.get("Retry-After"), path), link: response.headers.get("Link"), total: response.headers.get("X-Total-Count")};
}

export const get = (path, query, options) => request("GET", path, {query, ...options});
export const post = (path, body, options) => request("POST", path, {body, ...options});
export const put = (path, body, options) => request("PUT", path, {body, ...options});
export const del = (path, options) => request("DELETE", path, options);

// devicePath("lamp", "rpc", "Sys.GetInfo"): a path with its parts encoded.
export const devicePath = (id, ...rest) => ["/devices", ...[id, ...rest].map(encodeURIComponent)].join("/");

// Calls a method of a device and returns its result.
export function call(id, method, params, {timeout, signal} = {}) {
  return request("POST", devicePath(id, "rpc", method), {body: params, query: {timeout}, signal});
}

// Sends a File or Blob as the field `file`, after other fields {name: text}; onProgress(fraction 0…1). Only
// XMLHttpRequest reports its progress.
export function upload(path, file, {onProgress, signal, fields = {}} = {}) {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    const form = new FormData();
    for (const [name, text] of Object.entries(fields)) form.append(name, text);
    form.append("file", file, file.name);
    const failed = (words) => reject(new ApiError(0, 0, words));
    xhr.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) onProgress?.(event.loaded / event.total);
    });
    xhr.addEventListener("load", () => {
      try {
        resolve(settle(xhr.status, xhr.responseText, xhr.getResponseHeader("Retry-After"), path));
      } catch (error) {
        reject(error);
      }
    });
    xhr.addEventListener("error", () => failed("the connection broke during the upload"));
    xhr.addEventListener("abort", () => failed("the upload was stopped"));
    signal?.addEventListener("abort", () => xhr.abort(), {once: true});
    xhr.open("POST", address(path));
    for (const [name, value] of Object.entries(PAGE_HEADERS)) xhr.setRequestHeader(name, value);
    xhr.send(form);
  });
}

function address(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null)
    .flatMap(([name, value]) => [value].flat().map((each) => [name, each])); // an array: several of that name
  const text = new URLSearchParams(given).toString();
  return BASE + path + (text && `?${text}`);
}

function settle(status, text, retryAfter, path) {
  let value;
  try {
    value = text ? JSON.parse(text) : undefined;
  } catch {
    throw new ApiError(status, status, `the server gave an answer that cannot be read (status ${status})`);
  }
  if (status >= 200 && status < 300) return value;
  const {code = status, message = `status ${status}`, data} = value?.error ?? {};
  if (status === 401 && path !== "/login") onLoggedOut();
  throw new ApiError(status, code, message, {data, retryAfter: retryAfter ? Number(retryAfter) : undefined});
}

// Sessions

// whoAmI(): {user, admin, devices, log_end}. The page asks as soon as this module is there, while the others load.
export const whoAmI = (options) => {
  const first = early;
  early = null;
  return first ?? get("/session", undefined, options);
};
let early = get("/session");
early.catch(() => {}); // the one who takes it hears of a failure
export const login = (user, password) => post("/login", {user, password});
export const logout = (everywhere = false) => post("/logout", {everywhere});
