// Models: what can be used here, the memory that loaded ones take, and pulling, loading, unloading and removing.
import { html, useState } from "../core/html.js";
import { getJson, inPath, postJson, remove } from "../core/api.js";
import { bytes, compact, number, perMillion, plural, seconds, words } from "../core/format.js";
import { Icon } from "../core/icons.js";
import { Card, Check, Dialog, Empty, Loaded, Meter, Page, Problem, Select, Tag, Text, useAction, useEvery, useLoad } from "../core/parts.js";
import { AT_WORK, usePulls } from "../core/pulls.js";

const REFRESH = 4000;
const FIRST_ROWS = 60;

export default function Models() {
  const [all, setAll] = useState(false);
  const models = useLoad(async (signal) => (await getJson(`v1/models${all ? "?all=true" : ""}`, { signal })).data, [all]);
  const workers = useLoad((signal) => getJson("v1/admin/workers", { signal }));
  const [shown, setShown] = useState(null);
  const refresh = () => {
    models.reload();
    workers.reload();
  };
  useEvery(REFRESH, () => workers.error || workers.reload());
  const pulls = usePulls(refresh);
  const admin = workers.data !== null;
  return html`<${Page} title="Models" wide>
    <${Memory} workers=${workers} onChange=${refresh} />
    ${admin && html`<${Pulling} pulls=${pulls} /><${Recommended} pulls=${pulls} />`}
    <${Loaded} from=${models}>
      ${(rows) => html`<${Catalogue} rows=${rows.filter((row) => !row.router)} admin=${admin} pulls=${pulls} all=${all} onAll=${setAll} onShow=${setShown} onChange=${refresh} />`}
    <//>
    ${shown && html`<${Details} row=${shown} admin=${admin} onChange=${refresh} onClose=${() => setShown(null)} />`}
  <//>`;
}

function Memory({ workers, onChange }) {
  if (workers.error) {
    if (![403, 404].includes(workers.error.status)) return html`<${Problem} error=${workers.error} onRetry=${workers.reload} />`;
    return html`<p class="hint">Memory, loading and pulling are for administrators: use an admin key, at the address of administration if there is one.</p>`;
  }
  if (!workers.data) return null;
  const running = workers.data.workers.filter((each) => each.state !== "stopped");
  return html`<div class="grid two-wide">
    <${Card} title="Memory">
      ${workers.data.devices.map((device) => html`<${Meter} label=${device.name || device.id} part=${device.used} whole=${device.budget}
        text=${`${bytes(device.used)} of ${bytes(device.budget)}`} />`)}
      ${!workers.data.devices.length && html`<p class="hint">No model has been loaded yet.</p>`}
    <//>
    <${Card} title="Loaded">
      ${running.map((each) => html`<${Worker} worker=${each} onChange=${onChange} />`)}
      ${!running.length && html`<p class="hint">No model is loaded. The first request to one loads it.</p>`}
    <//>
  </div>`;
}

function Worker({ worker, onChange }) {
  const [busy, run, error, clear] = useAction();
  const unload = (force) => run("unload", async () => {
    await postJson(`v1/models/${inPath(worker.model)}/unload`, { force });
    onChange();
  });
  const facts = [worker.device, worker.memory && bytes(worker.memory), worker.busy ? plural(worker.busy, "request") : "idle",
    worker.queued && `${number(worker.queued)} waiting`, worker.expires_in != null && `unloads in ${seconds(worker.expires_in)}`];
  return html`<div class="line">
    <div><strong>${worker.model}</strong> <${Tag} kind=${worker.state === "ready" ? "good" : worker.state === "failed" ? "bad" : "warn"}>${worker.state}<//>
      <div class="hint">${facts.filter(Boolean).join(" · ")}</div>
      ${worker.error && html`<div class="hint">${worker.error}</div>`}
    </div>
    <div class="row">
      <button type="button" class="small" disabled=${busy} onClick=${() => unload(false)}>${busy ? "Unloading…" : "Unload"}</button>
      ${worker.busy > 0 && html`<button type="button" class="small" onClick=${() => unload(true)}>Unload now</button>`}
    </div>
    <${Problem} error=${error} onClose=${clear} />
  </div>`;
}

function Pulling({ pulls }) {
  const [name, setName] = useState("");
  const submit = (event) => {
    event.preventDefault();
    pulls.pull(name.trim());
    setName("");
  };
  return html`<${Card} title="Pull a model">
    <form class="inline" onSubmit=${submit}>
      <${Text} label="Name, or repository of the hub" value=${name} onInput=${setName} placeholder="qwen3:8b, or hf.co/owner/repository:Q4_K_M" spellcheck=${false} />
      <button type="submit" class="primary" disabled=${!name.trim()}><${Icon} name="download" /> Pull</button>
    </form>
    <${Problem} error=${pulls.refused} onClose=${pulls.clear} />
    <div aria-live="polite">${pulls.rows.map((one) => html`<${Pull} key=${one.id} one=${one} pulls=${pulls} />`)}</div>
  <//>`;
}

const KINDS = { completed: "good", failed: "bad" };

function Pull({ one, pulls }) {
  if (!AT_WORK.includes(one.status)) {
    return html`<div class="line"><div><strong>${one.model}</strong> <${Tag} kind=${KINDS[one.status]}>${one.status}<//>
        ${one.error && html`<div class="hint">${one.error.message}</div>`}</div>
      ${one.status !== "completed" && html`<button type="button" class="small" onClick=${() => pulls.pull(one.model)}>Go on</button>`}</div>`;
  }
  const done = one.total_bytes ? `${bytes(one.completed_bytes)} of ${bytes(one.total_bytes)}` : words(one.stage ?? one.status);
  return html`<div class="line">
    <${Meter} label=${one.file ? `${one.model}: ${one.file}` : one.model} part=${one.completed_bytes} whole=${one.total_bytes} text=${done} className="grow" />
    <button type="button" class="small" disabled=${one.status === "cancelling"} onClick=${() => pulls.cancel(one.id)}>Stop</button>
  </div>`;
}

/** What this machine should run, where the server tells it. */
function Recommended({ pulls }) {
  const found = useLoad((signal) => getJson("v1/admin/recommendations", { signal }));
  const fitting = (found.data?.data ?? []).filter((each) => each.model);
  if (!fitting.length) return null;
  const about = (each) => [
    each.quantization,
    `${each.size_is_exact ? "" : "about "}${bytes(each.size_bytes)} to fetch`,
    `${bytes(each.memory_bytes)} of memory`,
    each.tokens_per_second && `about ${Math.round(each.tokens_per_second)} tokens/s`,
    each.license,
    each.needs_token && "the hub asks for a token",
  ];
  return html`<${Card} title="Recommended for this machine">
    <div class="cards">${fitting.map((each) => html`<div class="tile">
      <div class="tile-head"><strong>${each.model}</strong> <${Tag}>${words(each.capability)}<//></div>
      <div class="hint">${about(each).filter(Boolean).join(" · ")}</div>
      <div class="row">${each.downloaded
        ? html`<${Tag} kind="good">here<//>`
        : html`<button type="button" class="small" aria-label=${`Pull ${each.model}`} onClick=${() => pulls.pull(each.model)}><${Icon} name="download" /> Pull</button>`}</div>
    </div>`)}</div>
  <//>`;
}

function Catalogue({ rows, admin, pulls, all, onAll, onShow, onChange }) {
  const [text, setText] = useState("");
  const [capability, setCapability] = useState("");
  const [place, setPlace] = useState("");
  const [most, setMost] = useState(FIRST_ROWS);
  const capabilities = [...new Set(rows.flatMap((row) => row.capabilities))].sort();
  const wanted = text.trim().toLowerCase();
  const found = rows.filter((row) =>
    (!capability || row.capabilities.includes(capability)) &&
    (!place || row.local === (place === "here")) &&
    (!wanted || [row.id, row.name, row.family, ...row.aliases, ...row.tags].some((each) => each?.toLowerCase().includes(wanted))));
  return html`<${Card} title=${plural(found.length, "model")} className="catalogue">
    <div class="filters">
      <${Text} label="Search" type="search" value=${text} onInput=${setText} />
      <${Select} label="Can" value=${capability} onInput=${setCapability} options=${[["", "anything"], ...capabilities.map((each) => [each, words(each)])]} />
      <${Select} label="Runs" value=${place} onInput=${setPlace} options=${[["", "anywhere"], ["here", "on this machine"], ["there", "at a provider"]]} />
      <${Check} label="Also those that lack a key, an engine or a pull" checked=${all} onInput=${onAll} />
    </div>
    <div class="cards">${found.slice(0, most).map((row) => html`<${Row} key=${row.id} row=${row} admin=${admin} pulls=${pulls} onShow=${onShow} onChange=${onChange} />`)}</div>
    ${!found.length && html`<${Empty} title="No model matches">Change the filters, or pull one by its name.<//>`}
    ${found.length > most && html`<button type="button" onClick=${() => setMost(most + FIRST_ROWS)}>Show more</button>`}
  <//>`;
}

function Row({ row, admin, pulls, onShow, onChange }) {
  const [busy, run, error, clear] = useAction();
  const [sure, setSure] = useState(false);
  const act = (name, action) => () => run(name, async () => {
    await action();
    onChange();
  });
  const load = act("load", () => postJson(`v1/models/${inPath(row.id)}/load`));
  const unload = act("unload", () => postJson(`v1/models/${inPath(row.id)}/unload`));
  const drop = act("remove", () => remove(`v1/models/${inPath(row.id)}`));
  const facts = [
    row.local ? row.engine : row.endpoint,
    row.parameter_count && `${compact(row.parameter_count)} parameters`,
    row.quantization,
    row.context_window && `${compact(row.context_window)} tokens`,
    row.local ? null : row.price?.input != null && `${perMillion(row.price.input)} / ${perMillion(row.price.output)} per million`,
    row.license,
  ];
  return html`<div class="tile">
    <div class="tile-head"><button type="button" class="link" onClick=${() => onShow(row)}>${row.id}</button>
      ${row.loaded ? html`<${Tag} kind="good">loaded<//>` : !row.available && html`<${Tag} kind="warn">not usable<//>`}
      ${row.shutdown_date && html`<${Tag} kind="warn">ends ${row.shutdown_date}<//>`}</div>
    <div class="tags">${row.capabilities.map((each) => html`<${Tag}>${words(each)}<//>`)}</div>
    <div class="hint">${facts.filter(Boolean).join(" · ")}</div>
    ${row.unavailable_reason && html`<div class="hint">${row.unavailable_reason}</div>`}
    ${admin && row.local && html`<div class="row">
      ${row.downloaded === false && html`<button type="button" class="small" onClick=${() => pulls.pull(row.id)}><${Icon} name="download" /> Pull</button>`}
      ${row.available && !row.loaded && html`<button type="button" class="small" disabled=${busy} onClick=${load}>${busy === "load" ? "Loading…" : "Load"}</button>`}
      ${row.loaded && html`<button type="button" class="small" disabled=${busy} onClick=${unload}>${busy === "unload" ? "Unloading…" : "Unload"}</button>`}
      ${row.downloaded && row.engine && (sure
        ? html`<button type="button" class="small danger" disabled=${busy} onClick=${drop}>Delete its files</button>
            <button type="button" class="small quiet" onClick=${() => setSure(false)}>Keep</button>`
        : html`<button type="button" class="small quiet" aria-label=${`Remove ${row.id}`} title="Remove" onClick=${() => setSure(true)}><${Icon} name="trash" /></button>`)}
    </div>`}
    <${Problem} error=${error} onClose=${clear} />
  </div>`;
}

function Details({ row, admin, onChange, onClose }) {
  const facts = Object.entries(row).filter(([name, value]) =>
    value != null && value !== "" && !(Array.isArray(value) && !value.length) && !["object", "created", "price"].includes(name));
  const prices = Object.entries(row.price ?? {}).filter(([, value]) => typeof value === "number");
  const shown = (value) => (Array.isArray(value) ? value.join(", ") : typeof value === "boolean" ? (value ? "yes" : "no") : typeof value === "number" ? number(value) : String(value));
  return html`<${Dialog} title=${row.id} onClose=${onClose}>
    ${admin && row.local && row.available && html`<${LoadWith} row=${row} onDone=${() => { onChange(); onClose(); }} />`}
    <dl class="facts-list">
      ${facts.map(([name, value]) => html`<dt>${words(name)}</dt><dd>${shown(value)}</dd>`)}
      ${prices.map(([name, value]) => html`<dt>price: ${words(name)}</dt><dd>$${value}</dd>`)}
    </dl>
  <//>`;
}

const CACHES = [["", "as usual"], ["f16", "f16"], ["q8_0", "q8_0: half of it"], ["q4_0", "q4_0: a quarter"]];

/** Load a model with other options than those of its row; they hold until it is unloaded. */
function LoadWith({ row, onDone }) {
  const [form, setForm] = useState({ context: "", slots: "", cache: "" });
  const [busy, run, error] = useAction();
  const set = (name) => (value) => setForm({ ...form, [name]: value });
  const submit = (event) => {
    event.preventDefault();
    run("load", async () => {
      const body = {};
      if (form.context) body.context = Number(form.context);
      if (form.slots) body.slots = Number(form.slots);
      if (form.cache) body.kv_cache = form.cache;
      await postJson(`v1/models/${inPath(row.id)}/load`, body);
      onDone();
    });
  };
  return html`<form onSubmit=${submit}>
    <div class="grid">
      <${Text} label="Tokens of a request" type="number" min="128" value=${form.context} onInput=${set("context")} placeholder="as usual" />
      <${Text} label="Requests at a time" type="number" min="1" value=${form.slots} onInput=${set("slots")} placeholder="as usual" />
      ${row.engine === "llamacpp" && html`<${Select} label="KV cache" value=${form.cache} onInput=${set("cache")} options=${CACHES} />`}
    </div>
    <div class="row"><button type="submit" class="primary" disabled=${busy}>${busy ? "Loading…" : row.loaded ? "Load anew" : "Load"}</button></div>
    <${Problem} error=${error} />
    <hr />
  </form>`;
}
