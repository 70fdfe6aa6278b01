// A conversation with one model, or with two side by side: its state, and the requests that go on with it.
import { ApiError, call, events, getJson } from "./api.js";

const KEPT = "roundhouse-chat";
/** The trace of an answer is complete a moment after its last event. */
const TRACE_TRIES = [0, 150, 500];

const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

export const DEFAULTS = { system: "", temperature: "", maxTokens: "", effort: "", tools: "" };

export class Conversation {
  constructor() {
    this.models = ["auto", "auto"];
    this.compare = false;
    this.options = { ...DEFAULTS };
    this.turns = [];
    this.stops = new Map();
    this.listener = () => {};
    this.#restore();
  }

  get lanes() {
    return this.compare ? [0, 1] : [0];
  }

  get busy() {
    return this.stops.size > 0;
  }

  clear() {
    this.stop();
    this.turns = [];
    this.changed();
  }

  changed() {
    this.listener();
  }

  /** Send what a person wrote to each lane's model. */
  async ask(text, pictures) {
    const turn = { text, pictures, answers: [] };
    this.turns.push(turn);
    await Promise.all(this.lanes.map((lane) => this.retry(turn, lane)));
  }

  /** Ask for an answer anew; later turns are dropped, because they went on from the old one. */
  async retry(turn, lane) {
    this.turns.length = this.turns.indexOf(turn) + 1;
    turn.answers[lane] = { steps: [], verdict: null };
    await this.#step(turn, lane);
  }

  /** Go on with an answer once every tool call of its last step has a result. */
  async goOn(turn, lane) {
    await this.#step(turn, lane);
  }

  stop() {
    for (const stop of this.stops.values()) stop.abort();
  }

  async #step(turn, lane) {
    const answer = turn.answers[lane];
    const stop = new AbortController();
    this.stops.set(lane, stop);
    Object.assign(answer, { status: "waiting", error: null, finish: null, usage: null, cost: undefined, trace: null });
    const step = { content: "", reasoning: "", calls: [], sources: [] };
    answer.asked = performance.now();
    answer.first = null;
    this.changed();
    try {
      const body = this.#body(turn, lane);
      answer.steps.push(step);
      const response = await call("POST", "v1/chat/completions", { body, signal: stop.signal });
      this.#head(answer, response.headers);
      for await (const event of events(response)) this.#event(answer, step, event);
      if (!answer.finish) throw new ApiError(0, { message: "The answer broke off before its end." });
      answer.status = "done";
    } catch (error) {
      answer.status = error.name === "AbortError" ? "stopped" : "failed";
      if (error.name !== "AbortError") answer.error = error;
      answer.trace ??= error.trace ?? null;
    }
    answer.seconds = (performance.now() - answer.asked) / 1000;
    this.stops.delete(lane);
    this.#keep();
    this.changed();
    await this.#explain(answer);
    this.#keep();
  }

  #head(answer, headers) {
    const told = (name) => headers.get(`x-roundhouse-${name}`);
    answer.trace = told("trace");
    answer.model = told("model");
    answer.reason = told("reason");
    answer.attempts = Number(told("attempts") ?? 1);
    answer.dropped = told("dropped");
    answer.notice = told("notice");
    this.changed();
  }

  #event(answer, step, event) {
    answer.usage = event.usage ?? answer.usage;
    const choice = event.choices?.[0];
    if (!choice) return;
    const { content, refusal, reasoning_content: reasoning, tool_calls: calls, annotations } = choice.delta;
    if ((content || reasoning || calls) && answer.first === null) {
      answer.first = (performance.now() - answer.asked) / 1000;
    }
    answer.status = "streaming";
    step.content += content ?? refusal ?? "";
    step.reasoning += reasoning ?? "";
    for (const { url_citation: source } of annotations ?? []) if (source) step.sources.push(source);
    for (const part of calls ?? []) {
      const into = (step.calls[part.index ?? step.calls.length] ??= { id: "", name: "", arguments: "", result: "" });
      into.id ||= part.id ?? "";
      into.name += part.function?.name ?? "";
      into.arguments += part.function?.arguments ?? "";
    }
    answer.finish = choice.finish_reason ?? answer.finish;
    this.changed();
  }

  /** Add the cost, the reason and the other candidates, from the request's trace. */
  async #explain(answer) {
    if (!answer.trace) return;
    for (const pause of TRACE_TRIES) {
      await wait(pause);
      try {
        const trace = await getJson(`v1/traces/${encodeURIComponent(answer.trace)}`);
        if (trace.status === "running") continue;
        const unknown = trace.attempts.some((each) => each.cost === null || each.unknown_parts.length);
        answer.cost = unknown ? null : trace.attempts.reduce((all, each) => all + each.cost, 0);
        answer.model ??= trace.answered_by;
        answer.reason ??= trace.plan.reason;
        answer.candidates = trace.plan.candidates;
        answer.task = trace.request.task;
        break;
      } catch {
        return;
      }
    }
    this.changed();
  }

  #body(upTo, lane) {
    const { system, temperature, maxTokens, effort, tools } = this.options;
    const body = {
      model: this.models[lane],
      messages: this.#messages(upTo, lane),
      stream: true,
      stream_options: { include_usage: true },
    };
    if (system.trim()) body.messages.unshift({ role: "system", content: system });
    if (temperature !== "") body.temperature = Number(temperature);
    if (maxTokens !== "") body.max_completion_tokens = Number(maxTokens);
    if (effort) body.reasoning_effort = effort;
    if (tools.trim()) body.tools = parseTools(tools);
    return body;
  }

  #messages(upTo, lane) {
    const messages = [];
    for (const turn of this.turns) {
      messages.push({ role: "user", content: contentOf(turn) });
      const answer = turn.answers[lane] ?? turn.answers[0];
      for (const step of answer?.steps ?? []) messages.push(...messagesOf(step));
      if (turn === upTo) break;
    }
    return messages;
  }

  #keep() {
    const { models, compare, options, turns } = this;
    try {
      sessionStorage.setItem(KEPT, JSON.stringify({ models, compare, options, turns }));
    } catch {
      sessionStorage.removeItem(KEPT); // too large: pictures
    }
  }

  #restore() {
    try {
      Object.assign(this, JSON.parse(sessionStorage.getItem(KEPT) ?? "{}"));
    } catch {
      sessionStorage.removeItem(KEPT);
    }
    for (const answer of this.turns.flatMap((turn) => turn.answers)) {
      if (answer?.error) answer.error = { message: "The answer failed." };
    }
  }
}

function contentOf({ text, pictures }) {
  if (!pictures.length) return text;
  const parts = pictures.map((picture) => ({ type: "image_url", image_url: { url: picture.url } }));
  return text ? [{ type: "text", text }, ...parts] : parts;
}

function messagesOf(step) {
  const calls = step.calls.filter(Boolean);
  if (!step.content && !calls.length) return [];
  const message = { role: "assistant", content: step.content || null };
  if (!calls.length) return [message];
  message.tool_calls = calls.map((each) => ({
    id: each.id, type: "function", function: { name: each.name, arguments: each.arguments },
  }));
  return [message, ...calls.map((each) => ({ role: "tool", tool_call_id: each.id, content: each.result || "No result was given." }))];
}

/** The tools of the field: a JSON list of OpenAI's tools, or of bare functions. Throws an Error in plain words. */
export function parseTools(text) {
  if (!text.trim()) return [];
  let tools;
  try {
    tools = JSON.parse(text);
  } catch (error) {
    throw new Error(`The tools are not JSON: ${error.message}`);
  }
  if (!Array.isArray(tools)) throw new Error("The tools are a JSON list.");
  return tools.map((tool) => (tool.type ? tool : { type: "function", function: tool }));
}

/** The whole conversation as Markdown. */
export function asMarkdown({ turns, options }) {
  const parts = options.system.trim() ? [`**System:** ${options.system}`] : [];
  for (const turn of turns) {
    parts.push(`**You:** ${turn.text}`);
    for (const answer of turn.answers.filter(Boolean)) {
      parts.push(`**${answer.model ?? "Model"}:**\n\n${answer.steps.map((step) => step.content).join("\n\n")}`);
    }
  }
  return `${parts.join("\n\n---\n\n")}\n`;
}
