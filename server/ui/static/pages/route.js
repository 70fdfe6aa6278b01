// Route: what the router would do with a request, and what every other choice would have cost. Nothing is executed.
import { html, useState } from "../core/html.js";
import { postJson } from "../core/api.js";
import { dollars, number, plural, seconds, words } from "../core/format.js";
import { Icon } from "../core/icons.js";
import { ModelPicker, useModels } from "../core/models.js";
import { Area, Card, Check, Empty, Page, Problem, Select, Tag, Text, useAction } from "../core/parts.js";
import { Candidates, LeftOut } from "./candidates.js";

const TASKS = ["chat", "code", "reasoning", "maths", "summarise", "classify", "extract", "translate", "write", "tool_use", "vision"];
const PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==";
const TOOL = { type: "function", function: { name: "look_up", parameters: { type: "object", properties: {} } } };
const FLAGS = [
  ["local_only", "Only on this machine"],
  ["prefer_local", "Rather on this machine"],
  ["prefer_fast", "Rather fast"],
  ["prefer_quality", "Rather good"],
  ["high_stakes", "High stakes"],
];
const FIRST = { prompt: "", model: "auto", task: "", workload: "interactive", maxCost: "", picture: false, tools: false, schema: false, flags: {} };

let kept = { form: FIRST, plan: null };

export default function Route() {
  const [form, setForm] = useState(kept.form);
  const [plan, setPlan] = useState(kept.plan);
  const models = useModels();
  const [busy, run, error] = useAction();
  kept = { form, plan };
  const set = (name) => (value) => setForm({ ...form, [name]: value });
  const submit = (event) => {
    event.preventDefault();
    run("route", async () => setPlan(await postJson("v1/route", bodyOf(form))));
  };
  return html`<${Page} title="Route" wide>
    <p class="lead">Type a request to see which model would answer it, and why. No model is called, and nothing is spent.</p>
    <form class="card" onSubmit=${submit}>
      <${Area} label="Prompt" rows="4" value=${form.prompt} onInput=${set("prompt")} placeholder="Prove that the square root of two is irrational." />
      <div class="grid">
        <${ModelPicker} models=${models.data} capability="chat" value=${form.model} onInput=${set("model")} />
        <${Select} label="Task" value=${form.task} onInput=${set("task")} options=${[["", "as the router reads it"], ...TASKS.map((task) => [task, words(task)])]} />
        <${Select} label="Workload" value=${form.workload} onInput=${set("workload")} options=${[["interactive", "interactive"], ["background", "background"], ["batch", "batch"]]} />
        <${Text} label="Most dollars" type="number" min="0" step="any" placeholder="no bound" value=${form.maxCost} onInput=${set("maxCost")} />
      </div>
      <div class="checks">
        <${Check} label="With a picture" checked=${form.picture} onInput=${set("picture")} />
        <${Check} label="With tools" checked=${form.tools} onInput=${set("tools")} />
        <${Check} label="Answer in a JSON schema" checked=${form.schema} onInput=${set("schema")} />
        ${FLAGS.map(([name, label]) => html`<${Check} label=${label} checked=${Boolean(form.flags[name])} onInput=${(on) => setForm({ ...form, flags: { ...form.flags, [name]: on } })} />`)}
      </div>
      <button type="submit" class="primary" disabled=${busy || !form.prompt.trim()}><${Icon} name="route" /> Show the choice</button>
      <${Problem} error=${error} />
    </form>
    <${Problem} error=${models.error} onRetry=${models.reload} />
    ${plan && html`<${Plan} plan=${plan} />`}
  <//>`;
}

function bodyOf(form) {
  const content = form.picture ? [{ type: "text", text: form.prompt }, { type: "image_url", image_url: { url: PIXEL } }] : form.prompt;
  const routing = { workload: form.workload, ...Object.fromEntries(Object.entries(form.flags).filter(([, on]) => on)) };
  if (form.task) routing.task = form.task;
  if (form.maxCost !== "") routing.max_cost = Number(form.maxCost);
  const body = { model: form.model, messages: [{ role: "user", content }], routing };
  if (form.tools) body.tools = [TOOL];
  if (form.schema) {
    body.response_format = { type: "json_schema", json_schema: { name: "answer", schema: { type: "object", properties: { answer: { type: "string" } }, required: ["answer"] } } };
  }
  return body;
}

function Plan({ plan }) {
  const chosen = plan.candidates.find((each) => each.model === plan.model);
  const { request } = plan;
  return html`
    <${Card} title=${plan.model ? `${plan.model} would answer` : "No model can answer"}>
      <p>${plan.reason}</p>
      ${plan.warnings.map((text) => html`<p class="warning">${text}</p>`)}
      <div class="facts">
        <span><strong>${words(request.task)}</strong> task</span>
        <span><strong>${words(request.complexity)}</strong> complexity</span>
        <span><strong>${number(request.prompt_tokens)}</strong> tokens of prompt</span>
        ${chosen && html`<span><strong>${dollars(chosen.cost_dollars)}</strong></span><span>in <strong>${seconds(chosen.latency_seconds)}</strong></span>`}
        <span>by <strong>${words(plan.strategy)}</strong></span>
        ${request.features.map((each) => html`<${Tag}>${words(each)}<//>`)}
      </div>
    <//>
    ${plan.candidates.length > 0 && html`<${Card} title=${plural(plan.candidates.length, "candidate")}>
      <${Candidates} candidates=${plan.candidates} chosen=${plan.model} />
      ${plan.order.length > 1 && html`<p class="hint">Tried in this order, should one fail: ${plan.order.join(", ")}.</p>`}
    <//>`}
    ${plan.excluded.length > 0
      ? html`<${Card} title=${`${plural(plan.excluded.length, "model")} left out`}>
          <${LeftOut} excluded=${plan.excluded} />
        <//>`
      : !plan.candidates.length && html`<${Empty} title="There is no model for this request">Pull one, or set a provider's key.<//>`}`;
}
