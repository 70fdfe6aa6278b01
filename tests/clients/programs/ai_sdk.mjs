// Vercel's AI SDK with its openai-compatible provider: a tool loop, plain and streamed, an object, an embedding.
import assert from "node:assert";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const scripted = process.env.ROUNDHOUSE_UPSTREAM === "scripted";
const provider = createOpenAICompatible({
  name: "roundhouse", baseURL: process.env.OPENAI_BASE_URL, apiKey: process.env.OPENAI_API_KEY,
  includeUsage: true, supportsStructuredOutputs: true,
});
const model = provider(process.env.ROUNDHOUSE_MODEL);
const get_weather = tool({
  description: "The weather.",
  inputSchema: z.object({ city: z.enum(["Oslo", "Rome"]) }),
  execute: async ({ city }) => `Snow in ${city}, -4 degrees.`,
});
const asked = {
  model, maxRetries: 0, maxOutputTokens: scripted ? 200 : 60, tools: { get_weather }, stopWhen: stepCountIs(4),
  prompt: 'What is the weather in Oslo? Call get_weather {"city": "Oslo"}',
};
const proven = (text) => scripted && assert.ok(text.includes("Snow in Oslo, -4 degrees."), text);

proven((await generateText(asked)).text);
const stream = streamText({ ...asked, onError: ({ error }) => { throw error; } });
proven(await stream.text);
assert.ok((await stream.usage).inputTokens > 0);
const output = Output.object({ schema: z.object({ name: z.enum(["Ada", "Bob"]), age: z.number() }) });
const person = await generateText({ model, maxRetries: 0, prompt: "Ada is 36.", output });
assert.equal(typeof person.output.name, "string");
const embedder = provider.embeddingModel(scripted ? "capable-embed" : "all-minilm-l6-v2");
assert.ok((await embed({ model: embedder, value: "one", maxRetries: 0 })).embedding.length > 2);
