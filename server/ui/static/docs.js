// The API reference: /openapi.json, an operation at a time, to read and to try.
import { html, render, useEffect, useMemo, useRef, useState } from "./core/html.js";
import { V1, getJson, key } from "./core/api.js";
import { Icon, Logo } from "./core/icons.js";
import { Markdown } from "./core/markdown.js";
import { Card, KeyForm, Loaded, Table, Tag, Text, useLoad } from "./core/parts.js";
import { Body, typeOf } from "./reference/schema.js";
import { Try } from "./reference/try.js";

const METHODS = ["get", "post", "put", "patch", "delete"];

function operationsOf(document) {
  return Object.entries(document.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => ({ path, method, id: `${method}${path}`, tag: item[method].tags?.[0] ?? "others", ...item[method] })));
}

const place = () => decodeURIComponent(location.hash.slice(1));

function Reference() {
  const [turn, setTurn] = useState(0);
  const [asking, setAsking] = useState(null);
  const document = useLoad((signal) => getJson("openapi.json", { signal }), [turn]);
  useEffect(() => {
    const ask = () => setAsking({ error: null });
    addEventListener("roundhouse:key", ask);
    const ignore = key.watch((error) => error && setAsking({ error }));
    return () => {
      removeEventListener("roundhouse:key", ask);
      ignore();
    };
  }, []);
  const done = () => {
    setAsking(null);
    setTurn((last) => last + 1);
  };
  if (asking) return html`<main><${KeyForm} error=${asking.error} onDone=${done} /></main>`;
  if (!document.data) return html`<main><div class="page"><${Loaded} from=${document} /></div></main>`;
  return html`<${Shown} document=${document.data} />`;
}

function Shown({ document }) {
  const operations = useMemo(() => operationsOf(document), [document]);
  const [id, setId] = useState(place);
  const [text, setText] = useState("");
  const [open, setOpen] = useState(false);
  const main = useRef(null);
  useEffect(() => {
    const move = () => {
      setId(place());
      setOpen(false);
      scrollTo(0, 0);
      main.current.focus();
    };
    addEventListener("hashchange", move);
    return () => removeEventListener("hashchange", move);
  }, []);
  const wanted = text.trim().toLowerCase();
  const found = operations.filter((each) => !wanted || `${each.path} ${each.summary} ${each.description} ${each.tag}`.toLowerCase().includes(wanted));
  const tags = [...new Set(operations.map((each) => each.tag))];
  const chosen = operations.find((each) => each.id === id);
  return html`
    <header class="top">
      <button type="button" class="quiet" aria-label="Operations" aria-expanded=${open} onClick=${() => setOpen(!open)}><${Icon} name="menu" /></button>
      <a class="brand" href="#"><${Logo} /> API reference</a>
    </header>
    <nav class=${open ? "side reference-side open" : "side reference-side"} aria-label="Operations">
      <a class="brand" href="#"><${Logo} /> API reference</a>
      <a href="ui/"><${Icon} name="chat" /> Console</a>
      <button type="button" onClick=${() => dispatchEvent(new CustomEvent("roundhouse:key"))}><${Icon} name="key" /> ${key.get() ? "Change the key" : "Use a key"}</button>
      <${Text} label="Search" type="search" value=${text} onInput=${setText} />
      ${tags.map((tag) => {
        const its = found.filter((each) => each.tag === tag);
        return its.length > 0 && html`<h2>${tag}</h2>
          ${its.map((each) => html`<a class="operation" href=${`#${encodeURIComponent(each.id)}`} aria-current=${each.id === id ? "page" : null}><span class=${`method ${each.method}`}>${each.method}</span> ${each.path}</a>`)}`;
      })}
      ${!found.length && html`<p class="hint">Nothing matches.</p>`}
    </nav>
    ${open && html`<div class="shade" onClick=${() => setOpen(false)}></div>`}
    <main ref=${main} tabindex="-1"><div class="page">
      ${chosen ? html`<${Operation} key=${chosen.id} each=${chosen} document=${document} />` : html`<${Introduction} document=${document} operations=${operations} tags=${tags} />`}
    </div></main>`;
}

function Introduction({ document, operations, tags }) {
  return html`
    <h1>${document.info.title} ${document.info.version}</h1>
    <p class="lead">${document.info.description}</p>
    <${Card} title="Base URL"><p><code>${V1}</code> for OpenAI's clients. A key, where the operator made some, goes into <code>Authorization: Bearer KEY</code>, or <code>x-api-key</code>.</p>
      <p class="hint">The document itself is <a href="openapi.json">openapi.json</a> (OpenAPI ${document.openapi}), for generators of clients; with a key, fetch it with curl.</p><//>
    ${tags.map((tag) => html`<${Card} title=${tag}>
      ${operations.filter((each) => each.tag === tag).map((each) => html`<div class="line"><a href=${`#${encodeURIComponent(each.id)}`}><span class=${`method ${each.method}`}>${each.method}</span> <span class="path">${each.path}</span></a> <span class="hint">${firstSentence(each.description)}</span></div>`)}
    <//>`)}`;
}

const firstSentence = (text = "") => text.split(/[.:;]\s/)[0].replace(/\.$/, "");

function Operation({ each, document }) {
  const answers = Object.entries(each.responses);
  const good = each.responses["200"];
  const headers = Object.entries(good?.headers ?? {});
  return html`
    <h1>${each.summary}</h1>
    <p><span class=${`method ${each.method}`}>${each.method}</span> <span class="path">${each.path}</span></p>
    <${Markdown} text=${each.description ?? ""} />
    <${Try} each=${each} document=${document} />
    ${each.parameters?.length > 0 && html`<${Card} title="Parameters">
      <${Table} label="Parameters" columns=${[["Name"], ["In"], ["Type"], [""]]}>
        ${each.parameters.map((one) => html`<tr><td><code>${one.name}</code></td><td>${one.in}</td><td>${typeOf(one.schema)}</td><td>${one.required && html`<${Tag}>required<//>`} ${one.schema["x-default"] !== undefined && html`<span class="hint">default: ${String(one.schema["x-default"])}</span>`}</td></tr>`)}
      <//>
    <//>`}
    ${each.requestBody && Object.entries(each.requestBody.content).map(([media, { schema }]) => html`<${Card} title="Body" actions=${html`<${Tag}>${media}<//>`}>
      <${Body} schema=${schema} document=${document} />
    <//>`)}
    <${Card} title="Answer">
      ${Object.entries(good?.content ?? {}).map(([media, content]) => html`<div><${Tag}>${media}<//>
        ${content["x-event-schema"] && html`<span class="hint"> each event's data:</span>`}
        <${Body} schema=${content["x-event-schema"] ?? content.schema} document=${document} /></div>`)}
      ${headers.length > 0 && html`<details><summary>Headers</summary><${Table} label="Headers" columns=${[["Header"], [""]]}>${headers.map(([name, { description }]) => html`<tr><td><code>${name}</code></td><td>${description}</td></tr>`)}<//></details>`}
    <//>
    <${Card} title="Errors">
      <${Table} label="Errors" columns=${[["Status"], ["Codes"]]}>${answers.filter(([status]) => status !== "200").map(([status, { description }]) => html`<tr><td>${status}</td><td>${description.replace(/^Codes: |\.$/g, "")}</td></tr>`)}<//>
    <//>`;
}

render(html`<${Reference} />`, document.getElementById("app"));
