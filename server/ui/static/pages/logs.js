// Logs: the end of the server's log, and of each worker's.
import { html, useLayoutEffect, useRef, useState } from "../core/html.js";
import { getJson, getText, inPath } from "../core/api.js";
import { Check, Empty, Loaded, Page, Select, Text, useEvery, useLoad } from "../core/parts.js";

const REFRESH = 2000;
const LINES = 500;

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

/** The level of a line in either of the log's formats; a line of a traceback has none. */
const levelOf = (line) => /^\S+ \[(\w+)/.exec(line)?.[1] ?? /"level":\s*"(\w+)"/.exec(line)?.[1] ?? null;

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
  return html`<pre class="log" ref=${element} tabindex="0" role="log" aria-label="Log" aria-live="off">${shown.map(([its, line]) => html`<span class=${its}>${line}${"\n"}</span>`)}</pre>`;
}
