"""Ollama's Python package: a tool loop, a streamed answer, a form, embeddings, the models."""

import json

import ollama
from task import EMBEDDER, KEY, MODEL, PROMPT, SCRIPTED, get_weather, proven

client = ollama.Client(headers={"Authorization": f"Bearer {KEY}"})
short = {"num_predict": 60}
messages = [{"role": "user", "content": PROMPT}]
said = client.chat(MODEL, messages, tools=[get_weather], options=short).message
messages.append(said)
for call in said.tool_calls or ():
    output = get_weather(**call.function.arguments)
    messages.append({"role": "tool", "tool_name": call.function.name, "content": output})
if SCRIPTED:
    proven("".join(part.message.content or "" for part in client.chat(MODEL, messages, stream=True)))
named = {"name": {"enum": ["Ada", "Bob"]}}
form = {"type": "object", "properties": named, "required": ["name"], "additionalProperties": False}
assert "name" in json.loads(
    client.chat(MODEL, [{"role": "user", "content": "I am Ada."}], format=form, options=short).message.content
)
*parts, last = client.generate(MODEL, "Say hello.", stream=True, options=short)
assert last.done
assert "".join(part.response for part in parts)
assert len(client.embed(EMBEDDER, ["one", "two"]).embeddings) == 2
assert any(model.model.startswith(MODEL) for model in client.list().models)
assert client.show(MODEL).capabilities
