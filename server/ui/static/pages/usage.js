// Usage: what was spent on which models and by which keys, the limits of the key in use, and the keys themselves.
import { html, useState } from "../core/html.js";
import { getJson, postJson, remove } from "../core/api.js";
import { compact, day, dollars, number, plural, sum } from "../core/format.js";
import { Icon } from "../core/icons.js";
import { Card, Check, Dialog, Empty, Loaded, Meter, Page, Problem, Select, Table, Tag, Text, useAction, useLoad } from "../core/parts.js";

const RANGES = [["7", "7 days"], ["30", "30 days"], ["90", "90 days"], ["365", "a year"]];
const iso = (at) => at.toISOString().slice(0, 10);
const before = (days) => iso(new Date(Date.now() - (days - 1) * 86_400_000));

export default function Usage() {
  const [days, setDays] = useState("30");
  const first = before(Number(days));
  const usage = useLoad(async (signal) => {
    const [byDay, byModel, byKey] = await Promise.all(["day", "model", "key"].map((by) => getJson(`v1/usage?start=${first}&by=${by}`, { signal })));
    return { byDay, byModel, byKey };
  }, [days]);
  const own = useLoad((signal) => getJson("v1/key", { signal }));
  return html`<${Page} title="Usage" wide actions=${html`<${Select} label="Over" className="side-label" value=${days} onInput=${setDays} options=${RANGES} />`}>
    <${Loaded} from=${usage}>${(found) => html`<${Report} ...${found} first=${first} days=${Number(days)} />`}<//>
    <${Loaded} from=${own}>${(mine) => html`<${OwnKey} mine=${mine} /> ${mine.admin && html`<${Keys} anonymous=${mine.anonymous} />`}`}<//>
  <//>`;
}

function Report({ byDay, byModel, byKey, first, days }) {
  const { total } = byDay;
  return html`
    <div class="figures">
      <${Figure} name="Spent" value=${sum(total.cost)} hint=${total.unknown_cost_calls ? `and up to ${dollars(total.estimated_cost)} for ${plural(total.unknown_cost_calls, "call")} of unknown cost` : ""} />
      <${Figure} name="Calls" value=${number(total.calls)} />
      <${Figure} name="Tokens read" value=${compact(total.input_tokens)} hint=${total.cached_tokens ? `${compact(total.cached_tokens)} from caches` : ""} />
      <${Figure} name="Tokens written" value=${compact(total.output_tokens)} hint=${total.reasoning_tokens ? `${compact(total.reasoning_tokens)} of reasoning` : ""} />
    </div>
    ${byDay.lag_seconds && html`<p class="warning">The state could not be written for ${Math.round(byDay.lag_seconds)} seconds; the calls since are missing here.</p>`}
    ${total.calls ? html`<${Chart} rows=${byDay.data} first=${first} days=${days} />` : html`<${Empty} title="No calls yet">Nothing was asked in this time.<//>`}
    ${total.calls > 0 && html`<div class="grid two-wide">
      <${Sums} title="By model" rows=${byModel.data} name="model" />
      <${Sums} title="By key" rows=${byKey.data} name="key" />
    </div>`}`;
}

const Figure = ({ name, value, hint }) => html`<div class="card figure-card"><div class="hint">${name}</div><strong>${value}</strong><small>${hint}</small></div>`;

/** A bar for each day: dollars where any were spent, else calls. */
function Chart({ rows, first, days }) {
  const spent = rows.some((row) => Number(row.cost) > 0);
  const byDay = new Map(rows.map((row) => [row.day, row]));
  const bars = Array.from({ length: days }, (_, at) => {
    const name = iso(new Date(Date.parse(first) + at * 86_400_000));
    const row = byDay.get(name);
    return { name, value: row ? (spent ? Number(row.cost) : row.calls) : 0, calls: row?.calls ?? 0, cost: row?.cost ?? 0 };
  });
  const most = Math.max(...bars.map((bar) => bar.value)) || 1;
  const width = 1000 / days;
  const told = (bar) => `${bar.name}: ${plural(bar.calls, "call")}, ${sum(bar.cost)}`;
  return html`<${Card} title=${spent ? "Dollars a day" : "Calls a day"}>
    <svg class="chart" viewBox="0 0 1000 220" preserveAspectRatio="none" role="img"
      aria-label=${`${spent ? "Dollars" : "Calls"} of each day from ${first}; the highest is ${spent ? dollars(most) : number(most)}.`}>
      ${bars.map((bar, at) => html`<g>
        <rect class="ground" x=${at * width} y="0" width=${width} height="220"><title>${told(bar)}</title></rect>
        <rect class="column" x=${at * width + width * 0.12} width=${width * 0.76} y=${215 - (205 * bar.value) / most} height=${(205 * bar.value) / most + (bar.value ? 5 : 1)} rx="3"><title>${told(bar)}</title></rect>
      </g>`)}
    </svg>
    <div class="meter-text hint"><span>${first}</span><span>highest: ${spent ? dollars(most) : number(most)}</span><span>today</span></div>
  <//>`;
}

function Sums({ title, rows, name }) {
  const sorted = [...rows].sort((one, other) => other.cost - one.cost || other.calls - one.calls);
  return html`<${Card} title=${title}>
    <${Table} label=${title} columns=${[[name === "key" ? "Key" : "Model"], ["Calls", "figure"], ["Tokens", "figure"], ["Cost", "figure"]]}>
      ${sorted.map((row) => html`<tr><td>${row[name]}</td><td class="figure">${number(row.calls)}</td>
        <td class="figure">${compact(row.input_tokens)} + ${compact(row.output_tokens)}</td>
        <td class="figure">${sum(row.cost)}${row.unknown_cost_calls > 0 && html` <${Tag} kind="warn">+ unknown<//>`}</td></tr>`)}
    <//>
  <//>`;
}

const WINDOWS = ["minute", "hour", "day", "month", "total"];

function limitsInWords({ requests, tokens }) {
  const told = [];
  for (const [name, rate] of [["requests", requests], ["tokens", tokens]]) {
    for (const window of WINDOWS) if (rate?.[window] != null) told.push(`${compact(rate[window])} ${name} per ${window}`);
  }
  return told;
}

const Caps = ({ caps }) => caps.map((cap) => html`<${Meter} label=${`${cap.scope === "all" ? "The whole server" : "This key"}, per ${cap.window}`} part=${cap.spent} whole=${cap.cap}
  text=${`${sum(cap.spent)} of ${sum(cap.cap)}`} />`);

function OwnKey({ mine }) {
  const limits = limitsInWords(mine.limits);
  return html`<${Card} title="The key in use">
    <div class="facts">
      <strong>${mine.anonymous ? "no key" : (mine.name ?? mine.id)}</strong>
      ${mine.admin && html`<${Tag} kind="good">administrator<//>`}
      <span>${mine.models.length ? `models: ${mine.models.join(", ")}` : "every model"}</span>
      ${mine.expires_at && html`<span>until ${day(mine.expires_at)}</span>`}
      ${limits.map((each) => html`<span>at most ${each}</span>`)}
    </div>
    ${mine.anonymous && html`<p class="hint">The server has no keys, so this machine's users may do everything.</p>`}
    <${Caps} caps=${mine.caps} />
    ${!mine.caps.length && !limits.length && html`<p class="hint">Nothing limits this key.</p>`}
  <//>`;
}

function Keys({ anonymous }) {
  const keys = useLoad(async (signal) => (await getJson("v1/admin/keys", { signal })).data);
  const [making, setMaking] = useState(false);
  const [secret, setSecret] = useState(null);
  const [busy, run, error, clear] = useAction();
  const [sure, setSure] = useState(null);
  const revoke = (id) => run(id, async () => {
    await remove(`v1/admin/keys/${id}`);
    setSure(null);
    keys.reload();
  });
  const made = (created) => {
    setMaking(false);
    setSecret(created);
    keys.reload();
  };
  return html`<${Card} title="Keys" actions=${html`<button type="button" class="small" onClick=${() => setMaking(true)}><${Icon} name="plus" /> Create a key</button>`}>
    <${Problem} error=${error} onClose=${clear} />
    ${secret && html`<div class="notice" role="status"><strong>${secret.name}</strong> is <code>${secret.secret}</code>
      <button type="button" class="small" onClick=${() => navigator.clipboard.writeText(secret.secret)}><${Icon} name="copy" /> Copy</button>
      <div class="hint">Keep it now: it is not shown again.</div></div>`}
    <${Loaded} from=${keys}>${(rows) => rows.length
      ? html`<${Table} label="Keys" columns=${[["Name"], ["Begins"], ["Models"], ["Limits"], ["Created"], [""]]}>
          ${rows.map((row) => html`<tr class=${row.revoked_at ? "faded" : ""}>
            <td>${row.name} ${row.admin && html`<${Tag} kind="good">admin<//>`} ${row.revoked_at && html`<${Tag}>revoked<//>`}<div class="hint">${row.id}</div></td>
            <td><code>${row.hint}…</code></td>
            <td>${row.models.join(", ") || "all"}</td>
            <td>${[...limitsInWords(row.limits), ...row.caps.filter((cap) => cap.scope !== "all").map((cap) => `${sum(cap.spent)} of ${sum(cap.cap)} per ${cap.window}`)].join("; ") || "none"}
              ${row.expires_at && html`<div class="hint">until ${day(row.expires_at)}</div>`}</td>
            <td>${day(row.created_at)}</td>
            <td>${!row.revoked_at && (sure === row.id
              ? html`<span class="row"><button type="button" class="small danger" disabled=${busy} onClick=${() => revoke(row.id)}>Revoke</button><button type="button" class="small quiet" onClick=${() => setSure(null)}>Keep</button></span>`
              : html`<button type="button" class="small quiet" onClick=${() => setSure(row.id)}>Revoke…</button>`)}</td>
          </tr>`)}
        <//>`
      : html`<${Empty} title="No keys were created">Keys of the settings are not listed here.<//>`}<//>
    ${making && html`<${CreateKey} anonymous=${anonymous} onClose=${() => setMaking(false)} onMade=${made} />`}
  <//>`;
}

function CreateKey({ anonymous, onClose, onMade }) {
  const [form, setForm] = useState({ name: "", models: "", requests: "", tokens: "", dollars: "", days: "", admin: anonymous });
  const [busy, run, error] = useAction();
  const set = (name) => (value) => setForm({ ...form, [name]: value });
  const submit = (event) => {
    event.preventDefault();
    run("create", async () => {
      const limits = {};
      if (form.requests) limits.requests = { minute: Number(form.requests) };
      if (form.tokens) limits.tokens = { day: Number(form.tokens) };
      if (form.dollars) limits.spend = { month: Number(form.dollars) };
      const body = { name: form.name, admin: form.admin, limits, models: form.models.split(",").map((each) => each.trim()).filter(Boolean) };
      if (form.days) body.expires_in_days = Number(form.days);
      onMade(await postJson("v1/admin/keys", body));
    });
  };
  return html`<${Dialog} title="Create a key" onClose=${onClose}>
    ${anonymous && html`<p class="warning">This is the server's first key: from now on every request needs one, this page's too. So it is an administrator's.</p>`}
    <form onSubmit=${submit}>
      <${Text} label="Name" required value=${form.name} onInput=${set("name")} placeholder="laptop" />
      <${Text} label="Models" value=${form.models} onInput=${set("models")} placeholder="all; or ids and patterns, as openai/*, with commas" />
      <div class="grid">
        <${Text} label="Requests per minute" type="number" min="0" value=${form.requests} onInput=${set("requests")} placeholder="no limit" />
        <${Text} label="Tokens per day" type="number" min="0" value=${form.tokens} onInput=${set("tokens")} placeholder="no limit" />
        <${Text} label="Dollars per month" type="number" min="0" step="any" value=${form.dollars} onInput=${set("dollars")} placeholder="no limit" />
        <${Text} label="Days until it expires" type="number" min="1" value=${form.days} onInput=${set("days")} placeholder="never" />
      </div>
      ${!anonymous && html`<${Check} label="An administrator's key" checked=${form.admin} onInput=${set("admin")} />`}
      <${Problem} error=${error} />
      <div class="row"><button type="submit" class="primary" disabled=${busy || !form.name.trim()}>Create</button></div>
    </form>
  <//>`;
}
