// The page at /: that the server runs, and the doors to it.
import { html, render, useEffect, useState } from "./core/html.js";
import { ROOT, V1 } from "./core/api.js";
import { Logo } from "./core/icons.js";
import { Code } from "./core/markdown.js";
import { Tag } from "./core/parts.js";

const EXAMPLES = {
  curl: `curl ${V1}/chat/completions -H 'Content-Type: application/json' \\
  -d '{"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}'`,
  Python: `from openai import OpenAI

client = OpenAI(base_url="${V1}", api_key="any")
answer = client.chat.completions.create(
    model="auto", messages=[{"role": "user", "content": "Hello"}])
print(answer.choices[0].message.content)`,
  JavaScript: `import OpenAI from "openai";

const client = new OpenAI({ baseURL: "${V1}", apiKey: "any" });
const answer = await client.chat.completions.create({
  model: "auto", messages: [{ role: "user", content: "Hello" }] });
console.log(answer.choices[0].message.content);`,
};

function Hello() {
  const [state, setState] = useState(null);
  const [language, setLanguage] = useState("curl");
  const [reference, setReference] = useState(true);
  useEffect(() => {
    fetch(new URL("ready", ROOT), { cache: "no-store" }).then((answer) => setState(answer.ok ? "ready" : "starting"), () => setState("gone"));
    fetch(new URL("docs", ROOT), { method: "HEAD" }).then((answer) => setReference(answer.ok));
  }, []);
  return html`
    <h1><${Logo} /> Roundhouse ${state && html`<${Tag} kind=${state === "ready" ? "good" : "warn"}>${state}<//>`}</h1>
    <p class="lead">One OpenAI-compatible door in front of every engine: models of this machine, and those of providers.</p>
    <div class="doors">
      <a class="card" href="ui/"><strong>Open the console</strong> Chat, models, routes, voice, usage</a>
      ${reference && html`<a class="card" href="docs"><strong>API reference</strong> Every endpoint, to read and to try</a>`}
      <a class="card" href="ui/#/models"><strong>Models</strong> What runs here, and what could</a>
    </div>
    <h2>Point your client here</h2>
    <div class="row" role="group" aria-label="Language">${Object.keys(EXAMPLES).map((name) => html`<button type="button" class="small" aria-pressed=${name === language} onClick=${() => setLanguage(name)}>${name}</button>`)}</div>
    <p></p>
    <${Code} text=${EXAMPLES[language]} language=${language} />
    <p class="hint">The base URL of every OpenAI client is <code>${V1}</code>; Anthropic's and Ollama's clients take <code>${ROOT.href.replace(/\/$/, "")}</code>. A key is needed only where the operator made some.</p>`;
}

render(html`<${Hello} />`, document.getElementById("app"));
