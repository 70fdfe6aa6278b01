// OpenAI's node SDK: its own tool loop, a streamed answer, and a loop of responses.
import assert from "node:assert";
import OpenAI from "openai";

const model = process.env.ROUNDHOUSE_MODEL;
const scripted = process.env.ROUNDHOUSE_UPSTREAM === "scripted";
const client = new OpenAI({ maxRetries: 0 });
const question = 'What is the weather in Oslo? Call get_weather {"city": "Oslo"}';
const parameters = { type: "object", properties: { city: { type: "string", enum: ["Oslo", "Rome"] } }, required: ["city"] };
const weather = ({ city }) => `Snow in ${city}, -4 degrees.`;
const choice = scripted ? "auto" : "required";
const proven = (text) => assert.ok(scripted ? text.includes("Snow in Oslo, -4 degrees.") : text !== null, text);

// A small real model may talk to its limit, which this loop takes for an error.
for (const stream of scripted ? [false, true] : []) {
  const runner = client.chat.completions.runTools({
    model, stream, max_tokens: 100,
    messages: [{ role: "user", content: question }],
    tools: [{ type: "function", function: { name: "get_weather", parameters, parse: JSON.parse, function: weather } }],
  });
  proven(await runner.finalContent());
}

const input = [{ role: "user", content: question }];
const tools = [{ type: "function", name: "get_weather", parameters, strict: false }];
const first = await client.responses.stream({ model, input, tools, tool_choice: choice }).finalResponse();
const calls = first.output.filter((item) => item.type === "function_call");
assert.ok(calls.length > 0);
input.push(...first.output);
for (const { call_id, arguments: given } of calls)
  input.push({ type: "function_call_output", call_id, output: weather(JSON.parse(given)) });
const last = await client.responses.create({ model, input, tools, tool_choice: "none" });
proven(last.output_text);
