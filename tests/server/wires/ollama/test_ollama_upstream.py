"""A client of Ollama's API in front of another Ollama: what it sends arrives as it was."""

from __future__ import annotations

from typing import Any

from backends.base import Upstream
from backends.ollama.request import translate
from catalog.types import Json
from server.wires.ollama.chat import to_chat
from server.wires.ollama.requests import OllamaChatRequest
from server.wires.translation import Losses

UPSTREAM = Upstream("o", "ollama", "http://127.0.0.1:1", "llama3")
FUNCTION = {"name": "add", "description": "d", "parameters": {"type": "object", "properties": {}}}


def sent(body: Json, keep_alive: Any = None) -> tuple[Json, tuple[str, ...]]:
    """The body that the other server gets, and the names of what it does not get."""
    request = OllamaChatRequest.model_validate({"model": "m", **body})
    chat = to_chat(request, model="m", keep_alive=keep_alive, losses=Losses())
    call = translate(chat, UPSTREAM)
    return call.body, (*chat.left_out, *call.dropped)


def test_every_option_arrives() -> None:
    options = {
        "temperature": 0.5, "top_k": 4, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.5, "seed": 7, "stop": ["x"],
        "presence_penalty": 0.5, "frequency_penalty": 0.5, "repeat_penalty": 1.5, "repeat_last_n": 9,
        "mirostat": 1, "mirostat_tau": 0.5, "mirostat_eta": 0.5, "num_predict": 5, "num_ctx": 4096, "num_gpu": 1,
        "num_batch": 2, "num_thread": 3, "num_keep": 4, "use_mmap": True, "penalize_newline": True, "tfs_z": 0.5,
    }  # fmt: skip
    body, lost = sent({"messages": [{"role": "user", "content": "Hi"}], "options": options})
    assert body["options"] == options
    assert lost == ()


def test_a_conversation_with_pictures_thoughts_and_tools_arrives() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi", "images": ["iVBORw0KGgoAAAAN"]},
        {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": [
            {"function": {"name": "add", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "2", "tool_name": "add"},
    ]  # fmt: skip
    tools = [{"type": "function", "function": FUNCTION}]
    body, lost = sent({"messages": messages, "tools": tools, "think": "high"}, keep_alive="5m")
    assert body["messages"] == messages
    assert body["tools"] == tools
    assert (body["think"], body["keep_alive"]) == ("high", "5m")
    assert lost == ()


def test_a_format_and_logprobs_arrive() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    closed = {**schema, "additionalProperties": False}  # as Ollama's own grammars have it
    asked = {"messages": [{"role": "user", "content": "Hi"}], "logprobs": True, "top_logprobs": 2}
    body, lost = sent({**asked, "format": schema})
    assert (body["format"], body["logprobs"], body["top_logprobs"], lost) == (closed, True, 2, ())
    assert sent({**asked, "format": "json"})[0]["format"] == "json"
    assert sent({**asked, "think": False})[0]["think"] is False
