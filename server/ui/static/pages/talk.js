// Talk: a spoken conversation with any chat model, by push to talk or with an open microphone.
import { html, useEffect, useRef, useState } from "../core/html.js";
import { getJson } from "../core/api.js";
import { Icon } from "../core/icons.js";
import { ModelPicker, useModels, withCapability } from "../core/models.js";
import { Card, Empty, Loaded, Page, Problem, Select, Text, useLoad } from "../core/parts.js";
import { Talk } from "../core/talking.js";

const MODES = [["open", "Open microphone"], ["semantic", "Open microphone, waits for whole sentences"], ["push", "Push to talk"]];
const TURNS = {
  open: { type: "server_vad" },
  semantic: { type: "semantic_vad", eagerness: "auto" },
  push: null,
};
/** Errors that a press of the button causes where there was nothing to cancel, or too short a word. */
const EXPECTED = new Set(["response_cancel_not_active", "input_audio_buffer_commit_empty"]);

export default function TalkPage() {
  const models = useModels();
  return html`<${Page} title="Talk">
    <${Loaded} from=${models}>${(rows) => withCapability(rows, "speak").length && withCapability(rows, "transcribe").length
      ? html`<${Conversation} models=${rows} />`
      : html`<${Empty} title="Nobody to talk to">A conversation needs a model that transcribes and one that speaks. The starter models have both: <code>roundhouse pull starter</code>.<//>`}<//>
  <//>`;
}

/** The lines of the conversation by item, in the order of the items. */
function heard(lines, event) {
  const put = (id, change) => {
    const found = lines.find((line) => line.id === id);
    return found ? lines.map((line) => (line === found ? { ...line, ...change(line) } : line)) : lines;
  };
  switch (event.type) {
    case "conversation.item.added":
      if (event.item.type !== "message" || event.item.role === "system") return lines;
      return [...lines, { id: event.item.id, role: event.item.role, text: event.item.content?.map((part) => part.text ?? part.transcript ?? "").join("") ?? "" }];
    case "conversation.item.input_audio_transcription.delta":
    case "response.output_audio_transcript.delta":
      return put(event.item_id, (line) => ({ text: line.text + event.delta }));
    case "conversation.item.input_audio_transcription.completed":
      return put(event.item_id, () => ({ text: event.transcript }));
    case "conversation.item.truncated":
      return put(event.item_id, () => ({ cut: true }));
    default:
      return lines;
  }
}

function Conversation({ models }) {
  const voices = useLoad(async (signal) => (await getJson("v1/audio/voices", { signal })).data.filter((each) => each.object === "voice"));
  const [model, setModel] = useState("auto");
  const [voice, setVoice] = useState("");
  const [mode, setMode] = useState("open");
  const [talk, setTalk] = useState(null);
  const [state, setState] = useState("");
  const [lines, setLines] = useState([]);
  const [problem, setProblem] = useState(null);
  const [text, setText] = useState("");
  const [holding, setHolding] = useState(false);
  const current = useRef(null);

  useEffect(() => () => current.current?.stop(), []);
  const told = (event) => {
    setLines((before) => heard(before, event));
    if (event.type === "session.updated") setState(mode === "push" ? "Hold the button and speak." : "Listening.");
    if (event.type === "input_audio_buffer.speech_started") setState("Hearing you.");
    if (event.type === "input_audio_buffer.speech_stopped") setState("Thinking.");
    if (event.type === "response.output_audio.delta") setState("Speaking.");
    if (event.type === "response.done") {
      setState(mode === "push" ? "Hold the button and speak." : "Listening.");
      const { status, status_details: details } = event.response;
      if (status === "failed") setProblem({ message: details.error.message });
    }
    if (event.type === "error" && !EXPECTED.has(event.error.code)) setProblem(event.error);
  };
  const begin = async () => {
    setProblem(null);
    setLines([]);
    setState("Connecting.");
    const output = voice ? { voice } : {};
    const session = { audio: { input: { transcription: { model: "auto" }, turn_detection: TURNS[mode] }, output } };
    const ended = (why) => {
      current.current = null;
      setTalk(null);
      setHolding(false);
      setState(why ? `Ended: ${why}` : "Ended.");
    };
    const made = new Talk({ model, session, told, ended });
    current.current = made;
    try {
      await made.start();
      made.listening = mode !== "push";
      setTalk(made);
    } catch (error) {
      current.current = null;
      setState("");
      setProblem({ message: error.message });
    }
  };
  const press = () => {
    if (holding) return;
    talk.press();
    setHolding(true);
    setState("Hearing you.");
  };
  const release = () => {
    if (!holding) return;
    setHolding(false);
    talk.release();
    setState("Thinking.");
  };
  const write = (event) => {
    event.preventDefault();
    talk.write(text);
    setText("");
  };
  const names = [...new Set((voices.data ?? []).map((each) => each.id))];
  return html`<${Card} title="A conversation">
    <div class="grid">
      <${ModelPicker} models=${models} capability="chat" value=${model} onInput=${setModel} disabled=${Boolean(talk)} />
      <${Select} label="Voice" value=${voice} onInput=${setVoice} disabled=${Boolean(talk)} options=${[["", "the model's own"], ...names.map((each) => [each, each])]} />
      <${Select} label="Microphone" value=${mode} onInput=${setMode} disabled=${Boolean(talk)} options=${MODES} />
    </div>
    <div class="row">
      ${talk
        ? html`<button type="button" class="danger" onClick=${() => talk.stop()}><${Icon} name="stop" /> End the conversation</button>`
        : html`<button type="button" class="primary" onClick=${begin}><${Icon} name="record" /> Begin</button>`}
      ${talk && mode === "push" && html`<button type="button" class="primary" aria-pressed=${holding}
        onPointerDown=${press} onPointerUp=${release} onPointerLeave=${release}
        onKeyDown=${(event) => event.key === " " && !event.repeat && press()} onKeyUp=${(event) => event.key === " " && release()}>
        <${Icon} name="voice" /> ${holding ? "Let go to send" : "Hold to talk"}</button>`}
      <span role="status">${state}</span>
    </div>
    <${Problem} error=${problem ?? voices.error} onClose=${() => setProblem(null)} />
    <ol class="talk" aria-label="What was said" aria-live="polite">
      ${lines.map((line) => html`<li key=${line.id} class=${line.role}><strong>${line.role === "user" ? "You" : "Model"}</strong> ${line.text || "…"}${line.cut && " —"}</li>`)}
    </ol>
    ${talk && html`<form class="row" onSubmit=${write}>
      <${Text} label="Or write" value=${text} onInput=${setText} />
      <button type="submit" disabled=${!text.trim()}><${Icon} name="send" /> Send</button>
    </form>`}
  <//>`;
}
