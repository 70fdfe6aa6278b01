// Logs: the end of the server's log, and of each worker's.
import { html, useLayoutEffect, useRef, useState } from "../core/html.js";
import { getJson, getText, inPath } from "../core/api.js";
import { Check, Empty, Loaded, Page, Select, Text, useEvery, useLoad } from "../core/parts.js";

const REFRESH = 2000;
const LINES = 1000;

export default function Logs() {
  const [source, setSource] = useState("");
  const [wanted, setWanted] = useState("");
  const [level, setLevel] = useState("");
  const [live, setLive] = useState(true);
  const workers = useLoad((signal) => getJson("v1/admin/workers", { signal }));
  const log = useLoad((signal) => getText(source ? `v1/admin/workers/${inPath(source)}/log?lines=${LINES}` : `v1/admin/log?lines=${LINES}`, { signal }), [source]);
  useEvery(live ? REFRESH : 0, () => log.error || log.reload());
  const models = (workers.data?.workers ?? []).map((each) => [each.model, `worker of ${each.model}`]);
  return html`<${Page} title="Logs" wide>
    <div class="filters">
      <${Select} label="Of" value=${source} onInput=${setSource} options=${[["", "the server"], ...models]} />
      ${!source && html`<${Select} label="Level" value=${level} onInput=${setLevel} options=${[["", "all"], ["warning", "warnings and errors"], ["error", "errors"]]} />`}
      <${Text} label="With" type="search" value=${wanted} onInput=${setWanted} placeholder="any text" />
      <${Check} label="Follow" checked=${live} onInput=${setLive} />
    </div>
    <${Loaded} from=${log}>${(text) => html`<${Lines} text=${text} wanted=${wanted} level=${source ? "" : level} follow=${live} />`}<//>
  <//>`;
}

const LEVELS = { warning: ["warning", "error", "critical"], error: ["error", "critical"] };

/** The level of a line in any of the log's forms: an access line has that of its status, a traceback's line none. */
function levelOf(line) {
  const status = /^\d\d:\d\d:\d\d (\d{3}) /.exec(line)?.[1];
  if (status) return status >= "500" ? "error" : "info";
  return (/^\S+ \[(\w+)/.exec(line) ?? /"level":\s*"(\w+)"/.exec(line))?.[1] ?? null;
}

const ACCESS = /^(\d\d:\d\d:\d\d .*?) request_id=\S+ trace=(\w+) key=(\S+)(.*)$/;

/** An access line without its ids: a model's request has a link to its trace. */
function Line({ line }) {
  const [, head, trace, owner, rest] = ACCESS.exec(line) ?? [];
  if (!head) return line;
  const asked = /\d\+\d/.test(head);
  return html`${head}${rest} <span class="hint">${owner}</span>${asked && html` <a href=${`#/traces/${trace}`}>trace</a>`}`;
}

function Lines({ text, wanted, level, follow }) {
  const element = useRef(null);
  const shown = [];
  let last = "info";
  for (const line of text.split("\n")) {
    last = levelOf(line) ?? last;
    if (level && !LEVELS[level].includes(last)) continue;
    if (wanted && !line.toLowerCase().includes(wanted.toLowerCase())) continue;
    shown.push([last, line]);
  }
  useLayoutEffect(() => {
    if (follow && element.current) element.current.scrollTop = element.current.scrollHeight;
  }, [text, follow]);
  if (!shown.length || !text) return html`<${Empty} title="No lines">${text ? "None matches." : "Nothing was logged."}<//>`;
  return html`<pre class="log" ref=${element} tabindex="0" role="log" aria-label="Log" aria-live="off">${shown.map(([its, line]) => html`<span class=${its}><${Line} line=${line} />${"\n"}</span>`)}</pre>`;
}
