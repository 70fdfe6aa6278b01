"""OpenAI's Python SDK: tool loops of chat, plain and streamed, and of responses; forms, embeddings, models."""

from typing import Literal

from openai import LengthFinishReasonError, OpenAI
from pydantic import BaseModel
from task import DEMAND, EMBEDDER, MODEL, PROMPT, SCHEMA, SCRIPTED, TOKENS, TOOL, proven, run_tool

client = OpenAI(max_retries=0)


class Person(BaseModel):
    name: Literal["Ada", "Bob"]
    age: int


def chat(streamed: bool) -> None:
    messages = [{"role": "user", "content": PROMPT}]
    choice = DEMAND
    while True:
        asked = {
            "model": MODEL,
            "messages": messages,
            "tools": [TOOL],
            "tool_choice": choice,
            "max_tokens": TOKENS,
        }
        if streamed:
            with client.chat.completions.stream(**asked) as stream:
                try:
                    said = stream.get_final_completion().choices[0].message
                except LengthFinishReasonError:
                    assert not SCRIPTED, "a small model may talk to its limit"
                    return None
        else:
            said = client.chat.completions.create(**asked).choices[0].message
        if not said.tool_calls:
            return proven(said.content)
        messages.append(said)
        for call in said.tool_calls:
            output = run_tool(call.function.name, call.function.arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": output})
        choice = "none"


def responses() -> None:
    tool = {"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": False}
    items = [{"role": "user", "content": PROMPT}]
    choice = DEMAND
    while True:
        asked = {
            "model": MODEL,
            "input": items,
            "tools": [tool],
            "tool_choice": choice,
            "max_output_tokens": TOKENS,
        }
        with client.responses.stream(**asked) as stream:
            *_, last = stream
        assert last.type in ("response.completed", "response.incomplete"), "a small model talks to its limit"
        answer = last.response
        calls = [item for item in answer.output if item.type == "function_call"]
        if not calls:
            return proven(answer.output_text)
        items += answer.output
        for call in calls:
            output = run_tool(call.name, call.arguments)
            items.append({"type": "function_call_output", "call_id": call.call_id, "output": output})
        choice = "none"


chat(streamed=False)
chat(streamed=True)
responses()
asked = [{"role": "user", "content": "Ada is 36."}]
parsed = client.chat.completions.parse(model=MODEL, messages=asked, response_format=Person, max_tokens=200)
assert isinstance(parsed.choices[0].message.parsed, Person)
parsed = client.responses.parse(model=MODEL, input=asked, text_format=Person, max_output_tokens=200)
assert isinstance(parsed.output_parsed, Person)
assert len(client.embeddings.create(model=EMBEDDER, input=["one", "two"]).data) == 2
assert MODEL in {model.id for model in client.models.list()}
