// An answer of a model: its text, reasoning and tool calls, and below them the reason, the cost and the verdict.
import { html, useState } from "../core/html.js";
import { postJson } from "../core/api.js";
import { dollars, number, plural, seconds, words } from "../core/format.js";
import { Icon } from "../core/icons.js";
import { Link, Markdown } from "../core/markdown.js";
import { Problem, Tag } from "../core/parts.js";
import { Candidates } from "./candidates.js";

export function Answer({ answer, alone, canRetry, onRetry, onResults, onChange }) {
  const [why, setWhy] = useState(false);
  const [refused, setRefused] = useState(null);
  const ended = ["done", "stopped", "failed"].includes(answer.status);
  const text = answer.steps.map((step) => step.content).filter(Boolean).join("\n\n");
  const calls = answer.steps.at(-1)?.calls.filter(Boolean) ?? [];
  const judge = async (accepted) => {
    setRefused(null);
    try {
      answer.verdict = { accepted, ...(await postJson("v1/outcomes", { trace: answer.trace, accepted })) };
      onChange();
    } catch (error) {
      setRefused(error);
    }
  };
  return html`<article class="answer" aria-label="Answer" aria-busy=${!ended}>
    <div class="answer-model">
      ${answer.model ? html`<strong>${answer.model}</strong>` : html`<span class="hint">${ended ? "No model answered" : "Waiting for a model"}</span>`}
      ${answer.attempts > 1 && html`<${Tag} kind="warn">${plural(answer.attempts, "attempt")}<//>`}
      ${answer.status === "stopped" && html`<${Tag}>stopped<//>`}
      ${answer.finish === "length" && html`<${Tag} kind="warn">cut at the bound of tokens<//>`}
    </div>
    ${answer.steps.map((step) => html`<${Step} step=${step} open=${!ended && !step.content} />`)}
    ${!ended && html`<span class="cursor" aria-hidden="true"></span>`}
    ${ended && answer.status === "done" && calls.length > 0 && html`<${Results} calls=${calls} onSend=${onResults} />`}
    <${Problem} error=${answer.error} />
    ${ended && html`<footer class="answer-foot">
      <div class="facts">
        ${answer.reason && html`<span title="Why this model">${answer.reason}</span>`}
        ${answer.cost !== undefined && html`<span class="cost" title="What the answer cost">${dollars(answer.cost)}</span>`}
        ${answer.usage && html`<span title="Tokens of the prompt and of the answer">${number(answer.usage.prompt_tokens)} + ${number(answer.usage.completion_tokens)} tokens</span>`}
        ${answer.usage && answer.first !== null && html`<span title="Tokens per second after the first">${speed(answer)}</span>`}
        ${answer.first !== null && html`<span title="Time to the first token">first after ${seconds(answer.first)}</span>`}
        ${answer.dropped && html`<span>not taken: ${answer.dropped}</span>`}
        ${answer.notice && html`<span>${answer.notice}</span>`}
      </div>
      <div class="row">
        ${answer.trace && answer.model && html`
          <button type="button" class="quiet small" aria-label="Good answer" title="Good answer" aria-pressed=${answer.verdict?.accepted === true} disabled=${answer.verdict !== null} onClick=${() => judge(true)}><${Icon} name="up" /></button>
          <button type="button" class="quiet small" aria-label="Bad answer" title="Bad answer" aria-pressed=${answer.verdict?.accepted === false} disabled=${answer.verdict !== null} onClick=${() => judge(false)}><${Icon} name="down" /></button>`}
        ${text && html`<button type="button" class="quiet small" aria-label="Copy the answer" title="Copy" onClick=${() => navigator.clipboard.writeText(text)}><${Icon} name="copy" /></button>`}
        ${canRetry && html`<button type="button" class="quiet small" aria-label="Answer again" title="Answer again" onClick=${onRetry}><${Icon} name="retry" /></button>`}
        ${answer.candidates?.length > 0 && html`<button type="button" class="quiet small" aria-expanded=${why} onClick=${() => setWhy(!why)}>${alone ? "Why this model?" : "Why?"}</button>`}
      </div>
    </footer>`}
    ${answer.verdict && html`<p class="hint" role="status">Learned: for ${words(answer.verdict.task)}, ${answer.verdict.model} is now expected to be right in
      ${" "}${share(answer.verdict.expected_quality.after)} of cases; it was ${share(answer.verdict.expected_quality.before)}.</p>`}
    <${Problem} error=${refused} onClose=${() => setRefused(null)} />
    ${why && html`<div class="why">
      <${Candidates} candidates=${answer.candidates} chosen=${answer.model} />
      <a href=${`#/traces/${answer.trace}`}>The whole trace</a>
    </div>`}
  </article>`;
}

const share = (quality) => `${Math.round(quality * 1000) / 10} %`;

function speed(answer) {
  const after = answer.seconds - answer.first;
  return after > 0.05 && answer.usage.completion_tokens > 1
    ? `${Math.round((answer.usage.completion_tokens - 1) / after)} tokens/s`
    : "";
}

function Step({ step, open }) {
  return html`
    ${step.reasoning && html`<details class="reasoning" open=${open}><summary>Reasoning</summary><div>${step.reasoning}</div></details>`}
    ${step.content && html`<${Markdown} text=${step.content} />`}
    ${step.sources.length > 0 && html`<p class="hint">Sources: ${step.sources.map((each, at) => html`${at > 0 && ", "}<${Link} href=${each.url}>${each.title || each.url}<//>`)}</p>`}
    ${step.calls.filter(Boolean).map((each) => html`<div class="tool-call">
      <div><${Icon} name="tool" /> <strong>${each.name}</strong></div>
      <pre tabindex="0">${pretty(each.arguments)}</pre>
      ${each.sent && html`<div class="hint">Result: ${each.result}</div>`}
    </div>`)}`;
}

function Results({ calls, onSend }) {
  const [values, setValues] = useState(calls.map(() => ""));
  if (calls.every((each) => each.sent)) return null;
  const submit = (event) => {
    event.preventDefault();
    calls.forEach((each, at) => Object.assign(each, { result: values[at], sent: true }));
    onSend();
  };
  return html`<form class="results" onSubmit=${submit}>
    ${calls.map((each, at) => html`<label>Result of ${each.name}
      <input value=${values[at]} onInput=${(event) => setValues(values.with(at, event.target.value))} placeholder='{"celsius": 21}' />
    </label>`)}
    <button type="submit" class="primary small">Send ${calls.length > 1 ? "the results" : "the result"}</button>
  </form>`;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 1);
  } catch {
    return text;
  }
}
