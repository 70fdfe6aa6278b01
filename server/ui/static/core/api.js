// The client of the server's API: the same paths and keys as every other client.

/** The server's root, wherever a proxy puts it: this file lies at ROOT/ui/core/api.js. */
export const ROOT = new URL("../../", import.meta.url);
export const V1 = new URL("v1", ROOT).href;

const KEY = "roundhouse-key";
const listeners = new Set();

export class ApiError extends Error {
  constructor(status, { message, code = null, param = null, trace = null }) {
    super(message);
    Object.assign(this, { status, code, param, trace });
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? "",
  kept: () => localStorage.getItem(KEY) !== null,
  /** Use a key in this tab, or in this browser until it is forgotten. */
  set(value, keep) {
    key.forget();
    (keep ? localStorage : sessionStorage).setItem(KEY, value.trim());
    announce(null);
  },
  forget() {
    sessionStorage.removeItem(KEY);
    localStorage.removeItem(KEY);
  },
  /** Call `listener` with the error of a request whose key was refused, and with null when there is another key. */
  watch(listener) {
    listeners.add(listener);
    return () => listeners.delete(listener);
  },
};

function announce(error) {
  for (const listener of listeners) listener(error);
}

/** Send a request; resolves to the Response, or throws ApiError for an error answer or a lost connection. */
export async function call(method, path, { body, form, signal, accept } = {}) {
  const headers = {};
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  if (accept) headers.accept = accept;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    const sent = form ?? (body === undefined ? undefined : JSON.stringify(body));
    response = await fetch(new URL(path.replace(/^\//, ""), ROOT), {
      method, headers, body: sent, signal, credentials: "omit", cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "The server does not answer. Is it running? Its log tells why it ended." });
  }
  if (response.ok) return response;
  const error = await failure(response);
  if (response.status === 401) announce(error);
  throw error;
}

async function failure(response) {
  const trace = response.headers.get("x-roundhouse-trace");
  try {
    const { error } = await response.json();
    return new ApiError(response.status, typeof error === "string" ? { message: error, trace } : { ...error, trace });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return new ApiError(response.status, { message: `The server answered ${response.status}.`, trace });
  }
}

export const getJson = async (path, options) => (await call("GET", path, options)).json();
export const getText = async (path, options) => (await call("GET", path, options)).text();
export const postJson = async (path, body = {}, options) =>
  (await call("POST", path, { ...options, body })).json();
export const remove = async (path, options) => (await call("DELETE", path, options)).json();

/** The name of a model within a path: an id may hold slashes, which the server's routes take. */
export const inPath = (id) => id.split("/").map(encodeURIComponent).join("/");

/** The lines of a streamed answer. */
export async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      yield* parts;
    }
    if (rest) yield rest;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "The connection to the server broke off." });
  } finally {
    await reader.cancel().catch(() => {});
  }
}

/** The data of each server-sent event, parsed. Throws ApiError for an error event. */
export async function* events(response) {
  for await (const line of lines(response)) {
    if (!line.startsWith("data:")) continue;
    const data = line.slice(5).trim();
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new ApiError(0, event.error);
    yield event;
  }
}
