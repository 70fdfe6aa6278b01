"""A fake of Ollama: its own API, and OpenAI's below ``/v1``. What it gets and gives are its SDK's types.

A request whose body is not the SDK's own is refused with 422, which no test expects.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import ollama
import orjson
from aiohttp import web
from ollama._types import ChatRequest as Request
from ollama._types import EmbedRequest, ListResponse, ProcessResponse, ShowResponse
from pydantic import BaseModel, ValidationError, create_model

from catalog.types import Json
from tests.fakes import openai_media
from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai_chat import Answer, answer, example_of, prompt_tokens, words
from tests.fakes.server import Call, Route

_CREATED = "2026-01-01T00:00:00Z"
_OF_THE_SERVER = frozenset({"truncate", "shift"})
"""Fields of the server's own ``api/types.go`` that the SDK lacks."""


def checked(kind: type[BaseModel], document: Any, *, beside: frozenset[str] = frozenset()) -> None:
    """Raises ValidationError for a document that is not of the SDK's type, unknown fields included."""
    known = set(kind.model_fields) | {field.alias for field in kind.model_fields.values() if field.alias} | beside
    strict = create_model(kind.__name__, __base__=kind, __cls_kwargs__={"extra": "forbid"})
    strict.model_validate({name: value for name, value in document.items() if name not in beside})
    assert set(document) <= known


class FakeOllama(FakeOpenAI):
    """``loaded`` maps the models in memory to how long they are kept, as Ollama was last told.

    ``lacks`` are paths that it does not serve; ``context`` is the context length of every loaded model, in words.
    ``picks`` is which of the alternatives of a ``format`` it answers in; with ``calls_badly`` in none.
    """

    def __init__(self, *, key: str | None = None) -> None:
        super().__init__(key=key)
        self.models = ["fake-chat", "fake-embed"]
        self.loaded: dict[str, Json] = {}
        self.lacks: set[str] = set()
        self.thoughts = ""
        self.calls_badly = False
        self.picks = 0

    def routes(self) -> list[Route]:
        own: list[Route] = [
            ("POST", "/api/chat", self.native_chat),
            ("POST", "/api/embed", self.native_embed),
            ("GET", "/api/tags", self.tags),
            ("GET", "/api/ps", self.ps),
            ("POST", "/api/show", self.show),
            ("POST", "/api/generate", self.generate),
        ]
        return [*super().routes(), *((method, path, self._served(handler)) for method, path, handler in own)]

    def _served(self, handler: Any) -> Any:
        async def serve(request: web.Request, call: Call) -> web.StreamResponse:
            if call.path in self.lacks:
                return web.Response(text="404 page not found", status=404)
            served: web.StreamResponse = await handler(request, call)
            return served

        return serve

    def error(self, status: int, message: str, *, code: str | None = None, kind: str | None = None) -> Json:
        return {"error": message}

    def malformed(self) -> bytes:
        return b'{"message": {"role"\n'

    async def native_chat(self, request: web.Request, call: Call) -> web.StreamResponse:
        if refusal := self.rejected_natively(call):
            return refusal
        try:
            checked(Request, call.body, beside=_OF_THE_SERVER)
            for message in call.body["messages"]:
                images = [{"value": image} for image in message.get("images") or ()]  # the SDK's form of its text
                checked(ollama.Message, {**message, "images": images} if images else message)
        except (ValidationError, AssertionError) as wrong:
            return self.refused(call, 422, str(wrong))
        options = call.body.get("options") or {}
        needed, room = prompt_tokens(call.body["messages"]), options.get("num_ctx", self.context)
        if needed > room and call.body.get("truncate") is False:
            inner = {
                "code": 400,
                "message": f"request ({needed} tokens) exceeds the available context size ({room} tokens)",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": needed,
                "n_ctx": room,
            }
            return self.refused(call, 400, json.dumps({"error": inner}))
        said = self._said(call.body, options)
        lines = self._lines(call.body, said, needed)
        return await self.stream(request, call, lines, content_type="application/x-ndjson")

    def _said(self, body: Json, options: Json) -> Answer:
        asked = {**body, "stop": options.get("stop"), "max_tokens": options.get("num_predict")}
        form = body.get("format")
        if form == "json":
            asked["response_format"] = {"type": "json_object"}
        if not isinstance(form, dict):
            return answer(asked, self.reply, refuse=False)
        form = form["anyOf"][self.picks] if "anyOf" in form else form
        text = "not json" if self.calls_badly else json.dumps(example_of(form))
        return Answer(pieces=tuple(words(text)))

    def _lines(self, body: Json, said: Answer, needed: int) -> Iterator[bytes]:
        head = {"model": body["model"], "created_at": _CREATED}

        def line(message: Json, **more: Any) -> bytes:
            document = {**head, "message": {"role": "assistant", "content": "", **message}, "done": False, **more}
            checked(ollama.ChatResponse, document)
            return orjson.dumps(document) + b"\n"

        if body.get("think") and self.thoughts:
            yield line({"thinking": self.thoughts})
        for piece in said.pieces:
            more = {}
            if body.get("logprobs"):
                token = {"token": piece, "logprob": -0.25}
                more = {"logprobs": [{**token, "top_logprobs": [token] * body.get("top_logprobs", 0)}]}
            yield line({"content": piece}, **more)
        for name, arguments in said.calls:
            yield line({"tool_calls": [{"function": {"name": name, "arguments": json.loads(arguments)}}]})
        yield line(
            {},
            done=True,
            done_reason="length" if said.finish_reason == "length" else "stop",
            total_duration=2_000_000_000,
            load_duration=500_000_000,
            prompt_eval_count=needed,
            prompt_eval_duration=500_000_000,
            eval_count=said.tokens,
            eval_duration=1_000_000_000,
        )

    async def native_embed(self, request: web.Request, call: Call) -> web.StreamResponse:
        if refusal := self.rejected_natively(call):
            return refusal
        try:
            checked(EmbedRequest, call.body)
        except (ValidationError, AssertionError) as wrong:
            return self.refused(call, 422, str(wrong))
        texts = call.body["input"]
        if any(len(text.split()) > self.context for text in texts) and not call.body.get("truncate", True):
            return self.refused(call, 400, "the input length exceeds the context length")
        vectors = [openai_media.vector(text, call.body.get("dimensions") or 8) for text in texts]
        document = {
            "model": call.body["model"],
            "embeddings": vectors,
            "prompt_eval_count": sum(len(text.split()) for text in texts),
        }
        checked(ollama.EmbedResponse, document)
        return await self.document(request, call, document)

    def rejected_natively(self, call: Call) -> web.Response | None:
        if self.key is not None and call.headers.get("authorization") != f"Bearer {self.key}":
            return self.refused(call, 401, "unauthorized")
        if call.body.get("model") not in self.models:
            return self.refused(call, 404, f"model '{call.body.get('model')}' not found")
        return None

    async def tags(self, request: web.Request, call: Call) -> web.StreamResponse:
        rows = [
            {
                "name": name,
                "model": name,
                "modified_at": _CREATED,
                "size": 1_000_000,
                "digest": "0" * 64,
                "details": {
                    "format": "gguf",
                    "family": "llama",
                    "parameter_size": "135M",
                    "quantization_level": "Q4_1",
                },
            }
            for name in self.models
        ]
        document = {"models": rows}
        checked(ListResponse, document)
        return await self.document(request, call, document)

    async def ps(self, request: web.Request, call: Call) -> web.StreamResponse:
        rows = [
            {"name": name, "model": name, "size": 1, "size_vram": 0, "context_length": self.context}
            for name in self.loaded
        ]
        document = {"models": rows}
        checked(ProcessResponse, document)
        return await self.document(request, call, document)

    async def show(self, request: web.Request, call: Call) -> web.StreamResponse:
        if call.body.get("model") not in self.models:
            return web.json_response({"error": f"model '{call.body.get('model')}' not found"}, status=404)
        capabilities = ["embedding"] if "embed" in call.body["model"] else ["completion", "tools"]
        info = {"general.architecture": "llama", "llama.context_length": 2048}
        document = {"capabilities": capabilities, "model_info": info}
        checked(ShowResponse, document)
        return await self.document(request, call, document)

    async def generate(self, request: web.Request, call: Call) -> web.StreamResponse:
        """An empty prompt loads the model, or unloads it with a ``keep_alive`` of 0."""
        keep = call.body.get("keep_alive")
        if keep == 0:
            self.loaded.pop(call.body["model"], None)
        else:
            self.loaded[call.body["model"]] = {"keep_alive": keep}
        reason = "unload" if keep == 0 else "load"
        answer = {"model": call.body["model"], "created_at": _CREATED, "response": "", "done": True}
        return await self.document(request, call, {**answer, "done_reason": reason})
