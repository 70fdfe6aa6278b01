// OpenAI's node SDK over /v1/realtime: a spoken question and answer, and a function call, by a client's secret.
import assert from "node:assert";
import net from "node:net";
import OpenAI from "openai";
import { OpenAIRealtimeWS } from "openai/realtime/ws";

const model = process.env.ROUNDHOUSE_MODEL;
const scripted = process.env.ROUNDHOUSE_UPSTREAM === "scripted";
const client = new OpenAI({ maxRetries: 0 });
const voice = { model: "hibari" };

// The microphone: a spoken question, and the silence that ends the turn.
const speech = await client.audio.speech.create({ ...voice, voice: "heart", input: "What is the weather in Oslo?", response_format: "pcm" });
const question = Buffer.concat([Buffer.from(await speech.arrayBuffer()), Buffer.alloc(48000)]);

const parameters = { type: "object", properties: { city: { type: "string", enum: ["Oslo", "Rome"] } }, required: ["city"] };
const audio = { input: { transcription: { model: "whisper-tiny.en" } }, output: voice };
const session = { type: "realtime", model, instructions: "Answer in one sentence.", max_output_tokens: 60, audio };
const secret = await client.realtime.clientSecrets.create({ session });
assert.match(secret.value, /^ek_/);

// The SDK always asks for wss://. Without TLS in front of the server, its socket connects in plain.
const options = { createConnection: ({ host, port }) => net.connect({ host, port: Number(port) }) };
const realtime = new OpenAIRealtimeWS({ model, options }, new OpenAI({ apiKey: secret.value, maxRetries: 0 }));
const events = [];
const waiting = new Set();
realtime.on("event", (event) => {
  events.push(event);
  for (const check of waiting) check();
});
realtime.on("error", (error) => assert.fail(error));

/** The first event of a type from a place on. */
const until = (type, from = 0) => new Promise((resolve) => {
  const check = () => {
    const found = events.slice(from).find((event) => event.type === type);
    if (!found) return;
    waiting.delete(check);
    resolve(found);
  };
  waiting.add(check);
  check();
});
const sum = (type, from) => events.slice(from).filter((event) => event.type === type).map((event) => event.delta).join("");

const created = await until("session.created");
assert.equal(created.session.audio.input.transcription.model, "whisper-tiny.en");
for (let at = 0; at < question.length; at += 4800)
  realtime.send({ type: "input_audio_buffer.append", audio: question.subarray(at, at + 4800).toString("base64") });
const heard = await until("conversation.item.input_audio_transcription.completed");
assert.match(heard.transcript, /weather/i);
const { response } = await until("response.done");
assert.ok(["completed", "incomplete"].includes(response.status), JSON.stringify(response.status_details));
const sound = events.filter((event) => event.type === "response.output_audio.delta").map(({ delta }) => Buffer.from(delta, "base64"));
assert.ok(Buffer.concat(sound).length > 4800, "the answer is spoken");
assert.ok(sum("response.output_audio_transcript.delta", 0).length > 0);

// A function call in text, and its result.
const tools = [{ type: "function", name: "get_weather", parameters }];
realtime.send({ type: "session.update", session: { type: "realtime", output_modalities: ["text"], tools, tool_choice: scripted ? "auto" : "required" } });
let from = events.length;
const content = [{ type: "input_text", text: 'What is the weather in Oslo? Call get_weather {"city": "Oslo"}' }];
realtime.send({ type: "conversation.item.create", item: { type: "message", role: "user", content } });
realtime.send({ type: "response.create" });
const called = (await until("response.done", from)).response.output.filter((item) => item.type === "function_call");
assert.ok(called.length > 0);
from = events.length;
for (const { call_id, arguments: given } of called)
  realtime.send({ type: "conversation.item.create", item: { type: "function_call_output", call_id, output: `Snow in ${JSON.parse(given).city}, -4 degrees.` } });
realtime.send({ type: "response.create", response: { tool_choice: "none" } });
await until("response.done", from);
const text = sum("response.output_text.delta", from);
assert.ok(scripted ? text.includes("Snow in Oslo, -4 degrees.") : text.length > 0, text);
realtime.close();
