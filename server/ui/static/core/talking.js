// A spoken session over /v1/realtime: the microphone in, the voice out, and the end of what was heard when it is interrupted.
import { ROOT, key } from "./api.js";

const RATE = 24000;

const encode = (samples) => {
  const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
};

const decode = (text) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Int16Array(bytes.buffer, 0, bytes.length >> 1);
};

/** The address of a session, and the subprotocols that carry the key: a browser's socket has no headers. */
function place(model) {
  const url = new URL("v1/realtime", ROOT);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.searchParams.set("model", model);
  const protocols = ["realtime"];
  if (key.get()) protocols.push(`openai-insecure-api-key.${key.get()}`);
  return [url, protocols];
}

/** Plays pieces of sound one after another; `stop` tells how much of the answer was heard. */
class Player {
  constructor(audio) {
    this.audio = audio;
    this.sources = new Set();
    this.next = 0;
    this.item = null;
    this.sent = 0;
  }

  add(item, samples) {
    if (item !== this.item) Object.assign(this, { item, sent: 0 });
    const buffer = this.audio.createBuffer(1, samples.length, RATE);
    buffer.copyToChannel(Float32Array.from(samples, (value) => value / 32768), 0);
    const source = this.audio.createBufferSource();
    source.buffer = buffer;
    source.connect(this.audio.destination);
    this.next = Math.max(this.next, this.audio.currentTime + 0.02);
    source.start(this.next);
    this.next += buffer.duration;
    this.sent += buffer.duration * 1000;
    this.sources.add(source);
    source.onended = () => this.sources.delete(source);
  }

  get playing() {
    return this.next > this.audio.currentTime;
  }

  /** End the sound; gives the item and the milliseconds of it that were heard, if it was still playing. */
  stop() {
    const left = (this.next - this.audio.currentTime) * 1000;
    for (const source of this.sources) source.stop();
    this.sources.clear();
    this.next = 0;
    const { item, sent } = this;
    return item && left > 0 ? { item, heard: Math.max(0, Math.round(sent - left)) } : null;
  }
}

export class Talk {
  /** `told` is called with each of the server's events; `ended` with a sentence when the session ends. */
  constructor({ model, session, told, ended }) {
    Object.assign(this, { model, session, told, ended, open: false, listening: false });
  }

  /** Ask for the microphone and connect. Throws an Error with a sentence for the user. */
  async start() {
    if (!navigator.mediaDevices) throw new Error("Browsers record only on pages of this machine or over HTTPS.");
    this.audio = new AudioContext();
    await this.audio.audioWorklet.addModule(new URL("./microphone.js", import.meta.url));
    try {
      const constraints = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };
      this.stream = await navigator.mediaDevices.getUserMedia({ audio: constraints });
    } catch (error) {
      await this.audio.close();
      const refused = error.name === "NotAllowedError";
      throw new Error(refused ? "The browser refuses the microphone. Allow it for this page." : `There is no microphone: ${error.message}`);
    }
    this.player = new Player(this.audio);
    const worklet = new AudioWorkletNode(this.audio, "microphone", { numberOfOutputs: 0 });
    worklet.port.onmessage = ({ data }) => this.listening && this.send({ type: "input_audio_buffer.append", audio: encode(data) });
    this.audio.createMediaStreamSource(this.stream).connect(worklet);
    const [url, protocols] = place(this.model);
    this.socket = new WebSocket(url, protocols);
    this.socket.onmessage = ({ data }) => this.take(JSON.parse(data));
    this.socket.onclose = ({ reason, wasClean }) => this.end(wasClean ? reason : "The connection to the server broke off.");
  }

  send(event) {
    if (this.open) this.socket.send(JSON.stringify(event));
  }

  take(event) {
    if (event.type === "session.created") {
      this.open = true;
      this.send({ type: "session.update", session: { type: "realtime", ...this.session } });
    } else if (event.type === "response.output_audio.delta") {
      this.player.add(event.item_id, decode(event.delta));
    } else if (event.type === "input_audio_buffer.speech_started") {
      this.interrupt();
    }
    this.told(event);
  }

  /** Stop the sound here, and tell the server how much of it was heard. */
  interrupt() {
    const cut = this.player.stop();
    if (cut) this.send({ type: "conversation.item.truncate", item_id: cut.item, content_index: 0, audio_end_ms: cut.heard });
  }

  /** Push to talk: begin a turn. */
  press() {
    this.send({ type: "response.cancel" });
    this.interrupt();
    this.send({ type: "input_audio_buffer.clear" });
    this.listening = true;
  }

  /** Push to talk: the turn is over. */
  release() {
    this.listening = false;
    this.send({ type: "input_audio_buffer.commit" });
    this.send({ type: "response.create" });
  }

  /** Write instead of speaking. */
  write(text) {
    this.interrupt();
    this.send({ type: "conversation.item.create", item: { type: "message", role: "user", content: [{ type: "input_text", text }] } });
    this.send({ type: "response.create" });
  }

  stop() {
    this.socket?.close(1000);
    this.end("");
  }

  end(why) {
    if (this.over) return;
    this.over = true;
    this.open = this.listening = false;
    this.player?.stop();
    this.stream?.getTracks().forEach((track) => track.stop());
    this.audio?.close();
    this.ended(why);
  }
}
