"""Anthropic's Python SDK: its own tool loop, plain and streamed, a stream of text, counting, the models."""

import anthropic
from anthropic import beta_tool
from task import DEMAND, MODEL, PROMPT, TOKENS, get_weather, proven

client = anthropic.Anthropic(max_retries=0)
tool = beta_tool(get_weather)
asked = {"model": MODEL, "max_tokens": TOKENS, "messages": [{"role": "user", "content": PROMPT}]}


def text_of(message: object) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


proven(text_of(client.beta.messages.tool_runner(**asked, tools=[tool]).until_done()))
for stream in client.beta.messages.tool_runner(**asked, tools=[tool], stream=True):
    message = stream.get_final_message()
proven(text_of(message))
choice = {"type": "auto" if DEMAND == "auto" else "any"}
called = client.messages.create(**asked, tools=[tool.to_dict()], tool_choice=choice)
assert called.stop_reason == "tool_use", called
with client.messages.stream(**asked) as stream:
    assert "".join(stream.text_stream)
assert client.messages.count_tokens(model=MODEL, messages=asked["messages"]).input_tokens > 5
assert MODEL in {model.id for model in client.models.list()}
