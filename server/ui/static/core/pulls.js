// Pulls of models, which go on while pages change. The list is of this tab.
import { ApiError, call, lines } from "./api.js";

export const pulls = [];
const listeners = new Set();

export function watchPulls(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

const changed = () => listeners.forEach((listener) => listener());

/** Pull a model of the catalogue, or a repository of the hub; resolves when the pull has ended in any way. */
export async function pull(model) {
  if (pulls.some((each) => each.model === model && each.state === "running")) return;
  const stop = new AbortController();
  const one = { model, state: "running", status: "beginning", completed: 0, total: null, error: null, stop: () => stop.abort() };
  pulls.unshift(one);
  changed();
  try {
    const response = await call("POST", "api/pull", { body: { model }, signal: stop.signal });
    for await (const line of lines(response)) {
      if (!line.trim()) continue;
      const { status, completed, total, error } = JSON.parse(line);
      if (error) throw new ApiError(0, { message: error });
      Object.assign(one, { status, completed: completed ?? one.completed, total: total ?? one.total });
      changed();
    }
    if (one.status !== "success") throw new ApiError(0, { message: "The pull broke off. Pull again: it goes on from there." });
    one.state = "done";
  } catch (error) {
    one.state = error.name === "AbortError" ? "stopped" : "failed";
    one.error = error.name === "AbortError" ? null : error;
  }
  changed();
}
