// Traces: the requests of late, and each one attempt by attempt.
import { html, useEffect, useState } from "../core/html.js";
import { getJson } from "../core/api.js";
import { dollars, number, plural, seconds, time, words } from "../core/format.js";
import { Icon } from "../core/icons.js";
import { Card, Check, Empty, Loaded, Page, Problem, Select, Table, Tag, Text, useEvery, useLoad } from "../core/parts.js";
import { Candidates, LeftOut } from "./candidates.js";

const KINDS = { done: "good", failed: "bad", running: "warn" };
const PAGE = 50;
const REFRESH = 3000;

export default function Traces({ rest }) {
  return rest ? html`<${One} id=${rest} />` : html`<${List} />`;
}

function List() {
  const [status, setStatus] = useState("");
  const [model, setModel] = useState("");
  const [live, setLive] = useState(true);
  const [older, setOlder] = useState([]);
  const [more, setMore] = useState(null);
  const [error, setError] = useState(null);
  const query = (before) => {
    const parameters = new URLSearchParams({ limit: PAGE });
    if (status) parameters.set("status", status);
    if (model.trim()) parameters.set("model", model.trim());
    if (before) parameters.set("before", before);
    return `v1/traces?${parameters}`;
  };
  const newest = useLoad((signal) => getJson(query(), { signal }), [status, model]);
  useEffect(() => {
    setOlder([]);
    setMore(null);
  }, [status, model]);
  useEvery(live && !older.length ? REFRESH : 0, () => newest.error || newest.reload());
  const next = async (from) => {
    try {
      const page = await getJson(query(from));
      setOlder([...older, ...page.data]);
      setMore(page.has_more);
    } catch (raised) {
      setError(raised);
    }
  };
  return html`<${Page} title="Traces" wide>
    <div class="filters">
      <${Select} label="Status" value=${status} onInput=${setStatus} options=${[["", "any"], ["done", "done"], ["failed", "failed"], ["cancelled", "cancelled"], ["running", "running"]]} />
      <${Text} label="Model, as asked or answered" type="search" value=${model} onInput=${setModel} placeholder="any" />
      <${Check} label="Follow" checked=${live} onInput=${setLive} />
    </div>
    <${Loaded} from=${newest}>${({ data, has_more: hasMore }) => {
      const rows = [...data, ...older];
      if (!rows.length) return html`<${Empty} title="No requests">Traces are of the requests since the server started.<//>`;
      return html`<${Table} label="Traces" columns=${[["When"], ["Asked for"], ["Answered by"], ["Status"], ["First", "figure"], ["Took", "figure"], ["Tokens", "figure"], ["Cost", "figure"]]}>
          ${rows.map((row) => html`<tr key=${row.id}>
            <td><a href=${`#/traces/${row.id}`}>${time(row.at)}</a></td>
            <td>${row.requested}<div class="hint">${words(row.capability)}${row.task !== row.capability ? `, ${words(row.task)}` : ""}</div></td>
            <td>${row.answered_by ?? "–"}</td>
            <td><${Tag} kind=${KINDS[row.status]}>${row.status}<//> ${row.attempts > 1 && html`<span class="hint">${plural(row.attempts, "attempt")}</span>`}${row.error && html`<div class="hint">${words(row.error)}</div>`}</td>
            <td class="figure">${seconds(row.first_chunk)}</td>
            <td class="figure">${seconds(row.duration)}</td>
            <td class="figure">${number(row.input_tokens)} + ${number(row.output_tokens)}</td>
            <td class="figure">${row.attempts ? dollars(row.cost) : "–"}</td>
          </tr>`)}
        <//>
        <${Problem} error=${error} onClose=${() => setError(null)} />
        ${(more ?? hasMore) && html`<button type="button" onClick=${() => next(rows.at(-1).at)}>Older ones</button>`}`;
    }}<//>
  <//>`;
}

function One({ id }) {
  const found = useLoad((signal) => getJson(`v1/traces/${encodeURIComponent(id)}`, { signal }), [id]);
  useEvery(found.data?.status === "running" ? 1000 : 0, found.reload);
  const all = html`<a class="button small" href="#/traces">All traces</a>`;
  return html`<${Page} title="Trace" wide actions=${all}>
    <p class="hint mono">${id}</p>
    <${Loaded} from=${found}>${(trace) => html`<${Trace} trace=${trace} />`}<//>
  <//>`;
}

function Trace({ trace }) {
  const { request, plan, attempts, error } = trace;
  return html`
    <${Card} title=${trace.answered_by ? `Answered by ${trace.answered_by}` : "Not answered"}>
      <div class="facts"><${Tag} kind=${KINDS[trace.status]}>${trace.status}<//>
        <span>${time(trace.at)}</span><span>asked for <strong>${request.requested}</strong></span>
        <span>${words(request.capability)}, ${words(request.task)}, ${words(request.complexity)}</span>
        <span>about ${number(request.prompt_tokens)} tokens of prompt</span><span>key ${request.key}</span></div>
      <p>${plan.reason}</p>
      ${error && html`<p class="warning">${words(error.code)}: ${error.message ?? "the message is for the caller alone"}</p>`}
    <//>
    <${Card} title=${plural(attempts.length, "attempt")}>
      ${attempts.map((each) => html`<${Attempt} each=${each} longest=${Math.max(...attempts.map((one) => one.queued + one.duration))} />`)}
      ${!attempts.length && html`<p class="hint">None has ended.</p>`}
    <//>
    ${plan.candidates.length > 0 && html`<${Card} title="Candidates">
      <${Candidates} candidates=${plan.candidates} chosen=${trace.answered_by} />
      ${plan.more_candidates > 0 && html`<p class="hint">and ${plural(plan.more_candidates, "more")}</p>`}
    <//>`}
    ${plan.excluded.length > 0 && html`<${Card} title="Left out">
      <${LeftOut} excluded=${plan.excluded} />
      ${plan.more_excluded > 0 && html`<p class="hint">and ${number(plan.more_excluded)} more</p>`}
    <//>`}
    ${trace.prompt && html`<${Card} title="Request"><pre tabindex="0">${JSON.stringify(trace.prompt, null, 1)}</pre><//>`}`;
}

/** One attempt, with its time in a bar: until the first token, then until the end. */
function Attempt({ each, longest }) {
  const share = (part) => `${(100 * part) / (longest || 1)}%`;
  const good = ["success", "refusal"].includes(each.result);
  const facts = [
    each.queued > 0.001 && `waited ${seconds(each.queued)}`,
    each.first_chunk != null && `first after ${seconds(each.first_chunk)}`,
    `took ${seconds(each.duration)}`,
    `${number(each.usage.input)} + ${number(each.usage.output)} tokens`,
    each.usage.cached && `${number(each.usage.cached)} cached`,
    dollars(each.cost),
    each.finish_reason && `ended by ${words(each.finish_reason)}`,
    each.bound && `bound: ${each.bound}`,
    each.status && `status ${each.status}`,
    each.error && words(each.error),
  ];
  return html`<div class="attempt">
    <div><strong>${each.attempt}. ${each.model}</strong> <${Tag} kind=${good ? "good" : "bad"}>${words(each.result)}<//> <span class="hint">${each.endpoint}</span></div>
    <div class="bar timeline" aria-hidden="true">
      <div class="waited" style=${{ width: share(each.first_chunk ?? each.duration) }} /><div class="fill" style=${{ width: share(each.duration - (each.first_chunk ?? each.duration)) }} />
    </div>
    <div class="hint">${facts.filter(Boolean).join(" · ")}</div>
  </div>`;
}
