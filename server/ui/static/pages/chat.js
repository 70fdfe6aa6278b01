// Chat: with one model or two, with streams, pictures, tools, verdicts, and the reason and the cost of each answer.
import { html, useEffect, useLayoutEffect, useReducer, useRef, useState } from "../core/html.js";
import { Conversation, asMarkdown, parseTools } from "../core/conversation.js";
import { Icon, Logo } from "../core/icons.js";
import { ModelPicker, useModels } from "../core/models.js";
import { Area, Problem, Select, Text } from "../core/parts.js";
import { Answer } from "./answer.js";

/** One conversation for as long as the tab lives, whichever pages are opened between. */
const conversation = new Conversation();
const SUGGESTIONS = [
  "Explain how a turntable in a roundhouse works, in three sentences.",
  "Write a Python function that merges two sorted lists, with a test.",
  "Translate into French: The train to Lyon leaves at half past nine.",
  "Give me three names for a small, friendly robot.",
];
const EXAMPLE_TOOL = JSON.stringify(
  [{
    name: "get_weather",
    description: "The weather in a city now.",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  }],
  null,
  1,
);
const MOST_PICTURE_BYTES = 15_000_000;

export default function Chat() {
  const [, redraw] = useReducer((turn) => turn + 1, 0);
  const models = useModels();
  const [settings, setSettings] = useState(false);
  const end = useRef(null);
  const follow = useRef(true);

  useEffect(() => {
    let frame = 0;
    conversation.listener = () => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        redraw();
      });
    };
    const watch = () => {
      follow.current = innerHeight + scrollY > document.documentElement.scrollHeight - 120;
    };
    addEventListener("scroll", watch, { passive: true });
    return () => {
      cancelAnimationFrame(frame);
      removeEventListener("scroll", watch);
    };
  }, []);
  useLayoutEffect(() => {
    if (follow.current && conversation.turns.length) end.current.scrollIntoView({ block: "end" });
  });

  const pick = (lane) => (model) => {
    conversation.models[lane] = model;
    redraw();
  };
  const save = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([asMarkdown(conversation)], { type: "text/markdown" }));
    link.download = "conversation.md";
    link.click();
    URL.revokeObjectURL(link.href);
  };
  const send = (text, pictures) => {
    follow.current = true;
    conversation.ask(text, pictures);
  };
  const { turns, compare, lanes, busy } = conversation;
  return html`<div class="chat">
    <header class="chat-head">
      <h1 class="hidden">Chat</h1>
      <div class="pickers">
        <${ModelPicker} label=${compare ? "First model" : "Model"} models=${models.data} capability="chat" value=${conversation.models[0]} onInput=${pick(0)} />
        ${compare && html`<${ModelPicker} label="Second model" models=${models.data} capability="chat" value=${conversation.models[1]} onInput=${pick(1)} />`}
      </div>
      <div class="row">
        <button type="button" aria-pressed=${compare} onClick=${() => { conversation.compare = !compare; redraw(); }}><${Icon} name="compare" /> <span>Compare</span></button>
        <button type="button" aria-pressed=${settings} onClick=${() => setSettings(!settings)}><${Icon} name="tune" /> <span>Settings</span></button>
        <button type="button" disabled=${!turns.length} onClick=${save}><${Icon} name="download" /> <span>Save</span></button>
        <button type="button" disabled=${!turns.length} onClick=${() => conversation.clear()}><${Icon} name="plus" /> <span>New</span></button>
      </div>
    </header>
    ${settings && html`<${Settings} redraw=${redraw} />`}
    <${Problem} error=${models.error} onRetry=${models.reload} />
    <div class=${compare ? "turns two" : "turns"} role="log" aria-label="Conversation" aria-live="off">
      ${!turns.length && html`<${Welcome} onPick=${(text) => send(text, [])} />`}
      ${turns.map((turn) => html`<${Turn} turn=${turn} lanes=${lanes} busy=${busy} last=${turn === turns.at(-1)} />`)}
    </div>
    <div ref=${end} class="end"></div>
    <${Composer} busy=${busy} onSend=${send} onStop=${() => conversation.stop()} />
    <div class="hidden" role="status">${busy ? "The model is answering." : turns.length ? "The answer is complete." : ""}</div>
  </div>`;
}

const Welcome = ({ onPick }) => html`<div class="welcome">
  <${Logo} />
  <h2>What shall we run today?</h2>
  <p>Every answer says which model gave it, why, and what it cost.</p>
  <div class="suggestions">${SUGGESTIONS.map((text) => html`<button type="button" onClick=${() => onPick(text)}>${text}</button>`)}</div>
</div>`;

function Turn({ turn, lanes, busy, last }) {
  return html`<div class="turn">
    <div class="said">
      ${turn.pictures.map((picture) => html`<img src=${picture.url} alt=${picture.name} />`)}
      ${turn.text && html`<div class="said-text">${turn.text}</div>`}
    </div>
    <div class="answers">
      ${lanes.map((lane) => turn.answers[lane] && html`<${Answer}
        answer=${turn.answers[lane]}
        alone=${lanes.length === 1}
        canRetry=${last && !busy}
        onRetry=${() => conversation.retry(turn, lane)}
        onResults=${() => conversation.goOn(turn, lane)}
        onChange=${() => conversation.changed()}
      />`)}
    </div>
  </div>`;
}

function Settings({ redraw }) {
  const { options } = conversation;
  const set = (name) => (value) => {
    options[name] = value;
    redraw();
  };
  let problem = null;
  try {
    parseTools(options.tools);
  } catch (error) {
    problem = error.message;
  }
  return html`<section class="card settings" aria-label="Settings of the conversation">
    <${Area} label="System prompt" value=${options.system} onInput=${set("system")} placeholder="You are a helpful assistant." />
    <div class="grid">
      <${Text} label="Temperature" type="number" min="0" max="2" step="0.1" placeholder="the model's own" value=${options.temperature} onInput=${set("temperature")} />
      <${Text} label="Most tokens of an answer" type="number" min="1" step="1" placeholder="no bound" value=${options.maxTokens} onInput=${set("maxTokens")} />
      <${Select} label="Reasoning effort" value=${options.effort} onInput=${set("effort")} options=${[["", "the model's own"], ["none", "none"], ["low", "low"], ["medium", "medium"], ["high", "high"]]} />
    </div>
    <${Area} label="Tools (JSON)" class="mono" rows=${options.tools ? 7 : 2} value=${options.tools} onInput=${set("tools")} spellcheck=${false}
      hint=${problem ?? "A call of the model is shown with its arguments; you give the result."} placeholder='[{"name": "get_weather", "parameters": {…}}]' />
    ${!options.tools && html`<button type="button" class="small" onClick=${() => set("tools")(EXAMPLE_TOOL)}><${Icon} name="tool" /> Insert an example</button>`}
  </section>`;
}

function Composer({ busy, onSend, onStop }) {
  const [text, setText] = useState("");
  const [pictures, setPictures] = useState([]);
  const [refused, setRefused] = useState(null);
  const input = useRef(null);
  const files = useRef(null);

  useEffect(() => {
    const onKey = (event) => event.key === "Escape" && onStop();
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  useLayoutEffect(() => {
    input.current.style.height = "auto";
    input.current.style.height = `${Math.min(input.current.scrollHeight + 2, 240)}px`;
  }, [text]);

  const add = async (list) => {
    setRefused(null);
    for (const file of list) {
      if (!file.type.startsWith("image/")) setRefused(`'${file.name}' is no picture.`);
      else if (file.size > MOST_PICTURE_BYTES) setRefused(`'${file.name}' is larger than 15 MB.`);
      else {
        const url = await dataUrl(file);
        setPictures((present) => [...present, { name: file.name || "picture", url }]);
      }
    }
  };
  const submit = (event) => {
    event?.preventDefault();
    if (busy || !(text.trim() || pictures.length)) return;
    onSend(text.trim(), pictures);
    setText("");
    setPictures([]);
  };
  const onKey = (event) => {
    const touch = matchMedia("(pointer: coarse)").matches;
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !touch) submit(event);
  };
  const drop = (event) => {
    event.preventDefault();
    add(event.dataTransfer.files);
  };
  return html`<form class="composer" onSubmit=${submit} onDragOver=${(event) => event.preventDefault()} onDrop=${drop}>
    ${refused && html`<${Problem} error=${{ message: refused }} onClose=${() => setRefused(null)} />`}
    ${pictures.length > 0 && html`<div class="thumbs">${pictures.map((picture, at) => html`<span class="thumb">
      <img src=${picture.url} alt=${picture.name} />
      <button type="button" aria-label=${`Remove ${picture.name}`} onClick=${() => setPictures(pictures.filter((_, other) => other !== at))}><${Icon} name="close" /></button>
    </span>`)}</div>`}
    <div class="composer-row">
      <button type="button" class="quiet" aria-label="Add pictures" title="Add pictures" onClick=${() => files.current.click()}><${Icon} name="picture" /></button>
      <input ref=${files} class="hidden" type="file" accept="image/*" multiple tabindex="-1" aria-label="Pictures" onChange=${(event) => { add([...event.target.files]); event.target.value = ""; }} />
      <textarea ref=${input} rows="1" aria-label="Message" placeholder="Write a message" value=${text} autofocus
        onInput=${(event) => setText(event.target.value)} onKeyDown=${onKey}
        onPaste=${(event) => event.clipboardData.files.length && add([...event.clipboardData.files])}></textarea>
      ${busy
        ? html`<button type="button" class="primary stop" onClick=${onStop}><${Icon} name="stop" /> Stop</button>`
        : html`<button type="submit" class="primary" disabled=${!(text.trim() || pictures.length)}><${Icon} name="send" /> Send</button>`}
    </div>
    <small class="keys">Enter sends, Shift and Enter begin a line, Escape stops.</small>
  </form>`;
}

const dataUrl = (file) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
