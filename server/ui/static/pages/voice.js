// Voice: speak a text, and transcribe what was recorded here or lies in a file.
import { html, useEffect, useRef, useState } from "../core/html.js";
import { call, events, getJson } from "../core/api.js";
import { seconds } from "../core/format.js";
import { Icon } from "../core/icons.js";
import { ModelPicker, useModels, withCapability } from "../core/models.js";
import { Area, Card, Check, Empty, Loaded, Page, Problem, Select, Text, useAction, useLoad } from "../core/parts.js";

const FORMATS = ["mp3", "opus", "aac", "flac", "wav"];
const LANGUAGES = [["", "found by the model"], ["en", "English"], ["de", "German"], ["fr", "French"], ["es", "Spanish"], ["it", "Italian"], ["pt", "Portuguese"], ["nl", "Dutch"], ["pl", "Polish"], ["uk", "Ukrainian"], ["zh", "Chinese"], ["ja", "Japanese"], ["ko", "Korean"], ["hi", "Hindi"], ["ar", "Arabic"]];

export default function Voice() {
  const models = useModels();
  return html`<${Page} title="Voice" wide>
    <${Loaded} from=${models}>${(rows) => html`<div class="grid two-wide">
      ${withCapability(rows, "speak").length
        ? html`<${Speak} models=${rows} />`
        : html`<${Empty} title="No model speaks here">The starter models speak: <code>roundhouse pull starter</code>.<//>`}
      ${withCapability(rows, "transcribe").length
        ? html`<${Transcribe} models=${rows} />`
        : html`<${Empty} title="No model transcribes here">The starter models have one that does: <code>roundhouse pull starter</code>.<//>`}
    </div>`}<//>
  <//>`;
}

const toldBy = (headers) => ({ model: headers.get("x-roundhouse-model"), reason: headers.get("x-roundhouse-reason"), trace: headers.get("x-roundhouse-trace") });

const Told = ({ told, took }) => told && html`<p class="facts"><strong>${told.model}</strong><span>${told.reason}</span><span>${seconds(took)}</span>
  <a href=${`#/traces/${told.trace}`}>Trace</a></p>`;

function Speak({ models }) {
  const voices = useLoad(async (signal) => (await getJson("v1/audio/voices", { signal })).data.filter((each) => each.object === "voice"));
  const [text, setText] = useState("The next train to the turntable leaves from platform four.");
  const [model, setModel] = useState("auto");
  const [voice, setVoice] = useState("");
  const [format, setFormat] = useState("mp3");
  const [speed, setSpeed] = useState("1");
  const [made, setMade] = useState(null);
  const [busy, run, error] = useAction();
  const stop = useRef(null);
  const offered = (voices.data ?? []).filter((each) => model === "auto" || each.model === model);

  useEffect(() => () => made && URL.revokeObjectURL(made.url), [made]);
  const pickVoice = (value) => {
    setVoice(value);
    const its = voices.data?.find((each) => `${each.model} ${each.id}` === value);
    if (its) setModel(its.model);
  };
  const submit = (event) => {
    event.preventDefault();
    run("speak", async () => {
      const began = performance.now();
      stop.current = new AbortController();
      const its = voices.data?.find((each) => `${each.model} ${each.id}` === voice);
      const body = { model: its?.model ?? model, input: text, response_format: format, speed: Number(speed) };
      if (its) body.voice = its.id;
      const response = await call("POST", "v1/audio/speech", { body, signal: stop.current.signal });
      const url = URL.createObjectURL(await response.blob());
      setMade({ url, format, told: toldBy(response.headers), took: (performance.now() - began) / 1000 });
    });
  };
  return html`<${Card} title="Speak">
    <form onSubmit=${submit}>
      <${Area} label="Text" rows="4" value=${text} onInput=${setText} />
      <div class="grid">
        <${ModelPicker} models=${models} capability="speak" value=${model} onInput=${(value) => { setModel(value); setVoice(""); }} />
        <${Select} label="Voice" value=${voice} onInput=${pickVoice} options=${[["", "the model's own"], ...offered.map((each) => [`${each.model} ${each.id}`, `${each.id} (${each.languages.join(", ") || each.model})`])]} />
        <${Select} label="Format" value=${format} onInput=${setFormat} options=${FORMATS.map((each) => [each, each])} />
        <${Text} label="Speed" type="number" min="0.25" max="4" step="0.05" value=${speed} onInput=${setSpeed} />
      </div>
      <div class="row">
        <button type="submit" class="primary" disabled=${busy || !text.trim()}><${Icon} name="play" /> ${busy ? "Speaking…" : "Speak"}</button>
        ${busy && html`<button type="button" onClick=${() => stop.current?.abort()}><${Icon} name="stop" /> Stop</button>`}
        ${made && html`<a class="button" href=${made.url} download=${`speech.${made.format}`}><${Icon} name="download" /> Save</a>`}
      </div>
      <${Problem} error=${error ?? voices.error} />
    </form>
    ${made && html`<audio controls autoplay src=${made.url} aria-label="The spoken text"></audio><${Told} told=${made.told} took=${made.took} />`}
  <//>`;
}

function Transcribe({ models }) {
  const [model, setModel] = useState("auto");
  const [language, setLanguage] = useState("");
  const [translate, setTranslate] = useState(false);
  const [sound, setSound] = useState(null);
  const [text, setText] = useState(null);
  const [told, setTold] = useState(null);
  const [busy, run, error] = useAction();
  const stop = useRef(null);

  useEffect(() => () => sound && URL.revokeObjectURL(sound.url), [sound]);
  const take = (file) => setSound({ file, url: URL.createObjectURL(file) });
  const send = (event) => {
    event.preventDefault();
    run("transcribe", async () => {
      const began = performance.now();
      stop.current = new AbortController();
      setText("");
      setTold(null);
      const form = new FormData();
      form.set("file", sound.file, sound.file.name);
      form.set("model", model);
      form.set("stream", "true");
      if (language) form.set("language", language);
      const path = translate ? "v1/audio/translations" : "v1/audio/transcriptions";
      const response = await call("POST", path, { form, signal: stop.current.signal });
      for await (const item of events(response)) {
        if (item.type === "transcript.text.delta") setText((before) => before + item.delta);
        if (item.type === "transcript.text.done") setText(item.text);
      }
      setTold({ ...toldBy(response.headers), took: (performance.now() - began) / 1000 });
    });
  };
  return html`<${Card} title="Transcribe">
    <form onSubmit=${send}>
      <div class="grid">
        <${Recorder} onRecorded=${take} />
        <div class="field"><label for="sound-file">or a file</label>
          <input id="sound-file" type="file" accept="audio/*,video/*" onChange=${(event) => event.target.files[0] && take(event.target.files[0])} /></div>
      </div>
      ${sound && html`<audio controls src=${sound.url} aria-label="What will be transcribed"></audio>`}
      <div class="grid">
        <${ModelPicker} models=${models} capability="transcribe" value=${model} onInput=${setModel} />
        <${Select} label="Language" value=${language} onInput=${setLanguage} options=${LANGUAGES} />
      </div>
      <${Check} label="Translate into English" checked=${translate} onInput=${setTranslate} />
      <div class="row">
        <button type="submit" class="primary" disabled=${busy || !sound}><${Icon} name="logs" /> ${busy ? "Transcribing…" : "Transcribe"}</button>
        ${busy && html`<button type="button" onClick=${() => stop.current?.abort()}><${Icon} name="stop" /> Stop</button>`}
      </div>
      <${Problem} error=${error} />
    </form>
    ${text !== null && html`<blockquote class="transcript" aria-live="polite">${text || (busy ? "…" : "No speech was heard.")}</blockquote>`}
    ${told && html`<${Told} told=${told} took=${told.took} />`}
  <//>`;
}

function Recorder({ onRecorded }) {
  const [recorder, setRecorder] = useState(null);
  const [since, setSince] = useState(0);
  const [refused, setRefused] = useState(null);

  useEffect(() => {
    if (!recorder) return undefined;
    const timer = setInterval(() => setSince((before) => before + 1), 1000);
    return () => {
      clearInterval(timer);
      recorder.stream.getTracks().forEach((track) => track.stop());
    };
  }, [recorder]);
  const begin = async () => {
    setRefused(null);
    if (!navigator.mediaDevices) {
      setRefused("Browsers record only on pages of this machine or over HTTPS. Give a file instead.");
      return;
    }
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
      const made = new MediaRecorder(stream);
      const parts = [];
      made.ondataavailable = (event) => parts.push(event.data);
      made.onstop = () => {
        const type = made.mimeType || "audio/webm";
        onRecorded(new File(parts, `recording.${type.includes("mp4") ? "mp4" : "webm"}`, { type }));
      };
      made.start();
      setSince(0);
      setRecorder(made);
    } catch (error) {
      setRefused(error.name === "NotAllowedError" ? "The browser refuses the microphone. Allow it for this page, or give a file." : `There is no microphone: ${error.message}`);
    }
  };
  const end = () => {
    recorder.stop();
    setRecorder(null);
  };
  return html`<div class="field"><span class="label">Record</span>
    ${recorder
      ? html`<button type="button" class="danger" onClick=${end}><${Icon} name="stop" /> Stop after ${since} s</button>`
      : html`<button type="button" onClick=${begin}><${Icon} name="record" /> Record</button>`}
    ${refused && html`<small role="alert">${refused}</small>`}
  </div>`;
}
