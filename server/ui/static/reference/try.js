// Sends an operation's request from the page, and shows the same request for curl.
import { html, useRef, useState } from "../core/html.js";
import { ROOT, call, key, lines } from "../core/api.js";
import { seconds } from "../core/format.js";
import { Code } from "../core/markdown.js";
import { Area, Card, Problem, Tag, Text, useAction } from "../core/parts.js";
import { exampleOf } from "./schema.js";

const MOST_SHOWN = 200_000;

export function Try({ each, document }) {
  const form = each.requestBody?.content["multipart/form-data"];
  const json = form ? undefined : each.requestBody?.content["application/json"];
  const [values, setValues] = useState({});
  const [body, setBody] = useState(json ? JSON.stringify(exampleOf(each, json.schema, document), null, 2) : "");
  const [answer, setAnswer] = useState(null);
  const [busy, run, error] = useAction();
  const stop = useRef(null);
  const parameters = each.parameters ?? [];
  const named = (place) => parameters.filter((one) => one.in === place);
  const query = new URLSearchParams(named("query").filter((one) => values[one.name]).map((one) => [one.name, values[one.name]]));
  const path = named("path").reduce((so, one) => so.replace(`{${one.name}}`, (values[one.name] ?? "").split("/").map(encodeURIComponent).join("/")), each.path);
  const address = `${path}${query.size ? `?${query}` : ""}`;
  const missing = named("path").some((one) => !values[one.name]);

  const submit = (event) => {
    event.preventDefault();
    setAnswer(null);
    run("send", async () => {
      const began = performance.now();
      stop.current = new AbortController();
      const options = { signal: stop.current.signal };
      if (json) options.body = parsed(body);
      if (form) options.form = new FormData(event.target);
      const response = await call(each.method.toUpperCase(), address, options);
      const told = { status: response.status, headers: [...response.headers], media: response.headers.get("content-type") ?? "", text: "" };
      if (/^(audio|image)|octet-stream/.test(told.media)) {
        told.url = URL.createObjectURL(await response.blob());
      } else {
        for await (const line of lines(response)) {
          if (told.text.length < MOST_SHOWN) told.text += `${line}\n`;
          setAnswer({ ...told, took: (performance.now() - began) / 1000 });
        }
      }
      setAnswer({ ...told, took: (performance.now() - began) / 1000 });
    });
  };
  return html`<${Card} title="Try it">
    <form onSubmit=${submit}>
      ${parameters.length > 0 && html`<div class="grid">${parameters.map((one) => html`<${Text} label=${`${one.name}${one.required ? " (required)" : ""}`} value=${values[one.name] ?? ""} onInput=${(value) => setValues({ ...values, [one.name]: value })} />`)}</div>`}
      ${json && html`<${Area} label="Body" class="mono" rows=${Math.min(16, body.split("\n").length + 1)} value=${body} onInput=${setBody} spellcheck=${false} />`}
      ${form && html`<${FormFields} schema=${form.schema} document=${document} />`}
      <div class="row">
        <button type="submit" class="primary" disabled=${busy || missing}>${busy ? "Waiting…" : "Send"}</button>
        ${busy && html`<button type="button" onClick=${() => stop.current?.abort()}>Stop</button>`}
      </div>
    </form>
    <${Problem} error=${error} />
    ${answer && html`<p class="row"><${Tag} kind="good">${answer.status}<//> <${Tag}>${answer.media}<//> <span class="hint">${seconds(answer.took)}</span></p>
      ${answer.url ? html`<audio controls src=${answer.url} aria-label="The answer"></audio>` : html`<${Code} language="answer" text=${pretty(answer.text)} />`}
      <details><summary>Headers</summary><pre tabindex="0">${answer.headers.map(([name, value]) => `${name}: ${value}`).join("\n")}</pre></details>`}
    <details><summary>The same with curl</summary><${Code} language="sh" text=${curl(each, address, json && body, form)} /></details>
  <//>`;
}

function FormFields({ schema, document }) {
  const its = schema.$ref ? document.components.schemas[schema.$ref.split("/").at(-1)] : schema;
  const required = new Set(its.required ?? []);
  const names = Object.keys(its.properties ?? {}).filter((name) => required.has(name) || name === "model");
  return html`<div class="grid">${names.map((name) => name === "file" || its.properties[name].format === "binary"
    ? html`<div class="field"><label for=${`form-${name}`}>${name}</label><input id=${`form-${name}`} type="file" name=${name} required /></div>`
    : html`<div class="field"><label for=${`form-${name}`}>${name}</label><input id=${`form-${name}`} name=${name} value=${name === "model" ? "auto" : ""} /></div>`)}</div>`;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`The body is not JSON: ${error.message}`);
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 1);
  } catch {
    return text.trimEnd();
  }
}

function curl(each, address, body, form) {
  const parts = [`curl ${each.method === "get" ? "" : `-X ${each.method.toUpperCase()} `}'${new URL(address.slice(1), ROOT)}'`];
  if (key.get()) parts.push('-H "Authorization: Bearer $ROUNDHOUSE_KEY"');
  if (body) parts.push("-H 'Content-Type: application/json'", `-d '${compactJson(body).replaceAll("'", "'\\''")}'`);
  if (form) parts.push("-F file=@FILE", "-F model=auto");
  return parts.join(" \\\n  ");
}

function compactJson(text) {
  try {
    return JSON.stringify(JSON.parse(text));
  } catch {
    return text;
  }
}
