// Anthropic's TypeScript SDK: its own tool loop, a stream of text, counting.
import assert from "node:assert";
import Anthropic from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";

const model = process.env.ROUNDHOUSE_MODEL;
const scripted = process.env.ROUNDHOUSE_UPSTREAM === "scripted";
const client = new Anthropic({ maxRetries: 0 });
const messages = [{ role: "user", content: 'What is the weather in Oslo? Call get_weather {"city": "Oslo"}' }];
const tool = betaTool({
  name: "get_weather",
  description: "The weather.",
  inputSchema: { type: "object", properties: { city: { type: "string", enum: ["Oslo", "Rome"] } }, required: ["city"] },
  run: ({ city }) => `Snow in ${city}, -4 degrees.`,
});
const text = (message) => message.content.filter((block) => block.type === "text").map((block) => block.text).join("");

const answer = await client.beta.messages.toolRunner({ model, max_tokens: scripted ? 200 : 60, messages, tools: [tool] });
if (scripted) assert.ok(text(answer).includes("Snow in Oslo, -4 degrees."), text(answer));
const streamed = await client.messages.stream({ model, max_tokens: 50, messages }).finalMessage();
assert.ok(text(streamed));
assert.ok((await client.messages.countTokens({ model, messages })).input_tokens > 5);
