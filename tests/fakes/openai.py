"""A fake of OpenAI: its wire in full, words for tokens. Source: OpenAI's API reference and its Python SDK."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web
from openai.types.image_create_variation_params import ImageCreateVariationParams
from openai.types.responses.input_token_count_params import InputTokenCountParams

from catalog.types import Json
from tests.fakes import openai_chat, openai_media
from tests.fakes.films import VideoRoutes
from tests.fakes.openai_batches import BatchRoutes
from tests.fakes.openai_responses import (
    answered,
    mistake_in,
    prompt_words,
    response_document,
    response_events,
)
from tests.fakes.server import Call, Route

DONE = b"data: [DONE]\n\n"


def event(payload: Any, name: str = "") -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + orjson.dumps(payload) + b"\n\n"


class FakeOpenAI(BatchRoutes, VideoRoutes):
    """``reply`` is what its chat models say; without ``keeps_form`` also when JSON is asked for.

    ``output`` are items that a response has whatever is asked, ``ending`` fields of its document (a status of
    "lost": the stream ends without one), ``between`` events in the middle of it.

    With ``key`` set, every request must bring it as a bearer token.
    """

    prefix = "/v1"

    def __init__(self, *, uds: Path | None = None, key: str | None = None) -> None:
        super().__init__(uds=uds)
        self.key = key
        self.reply = "The quick brown fox jumps over the lazy dog."
        self.models = [
            "fake-chat",
            "fake-embed",
            "fake-rerank",
            "fake-classify",
            "fake-moderation",
            "whisper-1",
            "tts-1",
            "gpt-image-1",
        ]
        self.context = 4096
        self.streams = True
        self.fixed_dimensions = False
        self.keeps_form = True
        self.output: list[Json] | None = None
        self.ending: Json = {}
        self.between: list[Json] = []

    @property
    def base_url(self) -> str:
        return self.origin + self.prefix

    def routes(self) -> list[Route]:
        return [
            ("GET", f"{self.prefix}/models", self.list_models),
            ("GET", self.prefix + "/models/{id}", self.show_model),
            ("POST", f"{self.prefix}/chat/completions", self.chat),
            ("POST", f"{self.prefix}/completions", self.complete),
            ("POST", f"{self.prefix}/responses", self.respond),
            ("POST", f"{self.prefix}/responses/input_tokens", self.count),
            ("POST", f"{self.prefix}/responses/compact", self.compact),
            ("POST", f"{self.prefix}/embeddings", self.embed),
            ("POST", f"{self.prefix}/rerank", self.rerank),
            ("POST", f"{self.prefix}/classify", self.classify),
            ("POST", f"{self.prefix}/moderations", self.moderate),
            ("POST", f"{self.prefix}/audio/transcriptions", self.transcribe),
            ("POST", f"{self.prefix}/audio/translations", self.transcribe),
            ("POST", f"{self.prefix}/audio/speech", self.speak),
            ("POST", f"{self.prefix}/images/generations", self.draw),
            ("POST", f"{self.prefix}/images/edits", self.edit),
            ("POST", f"{self.prefix}/images/variations", self.vary),
            *self.batch_routes(),
            *self.video_routes(),
        ]

    async def compact(self, request: web.Request, call: Call) -> web.StreamResponse:
        assert call.body.keys() <= {"model", "input", "instructions", "previous_response_id", "prompt_cache_key"}
        users = [{"type": "message", **item} for item in call.body["input"] if item.get("role") == "user"]
        made = {"id": "cmp_1", "type": "compaction", "encrypted_content": "gAAAA-compacted"}
        told = {"id": "resp_c", "object": "response.compaction", "created_at": 1, "output": [*users, made]}
        usage = {"input_tokens": 20, "output_tokens": 5, "total_tokens": 25}
        return await self.document(request, call, {**told, "usage": usage})

    def batch_answer(self, endpoint: str, body: Json) -> Json:
        if endpoint.endswith("/responses"):
            return response_document(body, *answered(body, self.reply, refuse=False))
        if endpoint.endswith("/embeddings"):
            return openai_media.embeddings(body)
        return openai_chat.chat_document(body, openai_chat.answer(body, self.reply, refuse=False))

    def rejected(self, call: Call) -> web.Response | None:
        """The refusal of a wrong key or an unknown model."""
        sent = call.headers.get("authorization", "").removeprefix("Bearer ")
        if self.key is not None and sent != self.key:
            message = f"Incorrect API key provided: {sent}. You can find your API key in your settings."
            return self.refused(call, 401, message, code="invalid_api_key", kind="invalid_request_error")
        model = call.body.get("model")
        if call.method == "POST" and model not in self.models:
            message = f"The model `{model}` does not exist or you do not have access to it."
            return self.refused(call, 404, message, code="model_not_found", kind="invalid_request_error")
        return None

    async def chat(self, request: web.Request, call: Call) -> web.StreamResponse:
        if refusal := self.rejected(call):
            return refusal
        needed = openai_chat.prompt_tokens(call.body["messages"])
        if needed > self.context:
            message = (
                f"This model's maximum context length is {self.context} tokens. However, your messages "
                f"resulted in {needed} tokens. Please reduce the length of the messages."
            )
            return self.refused(call, 400, message, code="context_length_exceeded")
        said = self.answer(call)
        if call.body.get("stream") and self.streams:
            chunks = openai_chat.chat_chunks(call.body, said)
            return await self.stream(request, call, self._events(chunks))
        return await self.document(request, call, openai_chat.chat_document(call.body, said))

    def answer(self, call: Call) -> openai_chat.Answer:
        """The answer to a chat."""
        asked = call.body if self.keeps_form else {**call.body, "response_format": None}
        return openai_chat.answer(asked, self.reply, refuse=call.fault.refuse)

    async def complete(self, request: web.Request, call: Call) -> web.StreamResponse:
        if refusal := self.rejected(call):
            return refusal
        if call.body.get("stream") and self.streams:
            chunks = openai_chat.completion_chunks(call.body, self.reply)
            return await self.stream(request, call, self._events(chunks))
        return await self.document(request, call, openai_chat.completion_document(call.body, self.reply))

    async def respond(self, request: web.Request, call: Call) -> web.StreamResponse:
        if refusal := self.rejected(call):
            return refusal
        if (mistake := mistake_in(call.body)) is not None:
            return self.refused(call, 400, f"Invalid request: {mistake}", code="unknown_parameter")
        if (needed := prompt_words(call.body)) > self.context:
            message = f"This model's maximum context length is {self.context} tokens, and you requested {needed}."
            return self.refused(call, 400, message, code="context_length_exceeded")
        output, ending = answered(call.body, self.reply, refuse=call.fault.refuse)
        output = output if self.output is None else self.output
        ending = {**ending, **self.ending}
        if call.body.get("stream") and self.streams:
            made = list(response_events(call.body, output, ending))
            made[4:4] = self.between
            return await self.stream(request, call, (event(payload, payload["type"]) for payload in made))
        return await self.document(request, call, response_document(call.body, output, ending))

    async def count(self, request: web.Request, call: Call) -> web.StreamResponse:
        if refusal := self.rejected(call):
            return refusal
        if extra := call.body.keys() - InputTokenCountParams.__annotations__.keys():
            return self.refused(call, 400, f"Unknown parameter: '{min(extra)}'.", code="unknown_parameter")
        return await self.document(request, call, {"object": "response.input_tokens", "input_tokens": 4321})

    async def embed(self, request: web.Request, call: Call) -> web.StreamResponse:
        if refusal := self.rejected(call):
            return refusal
        body = {**call.body, "dimensions": None} if self.fixed_dimensions else call.body
        return await self.document(request, call, openai_media.embeddings(body))

    async def rerank(self, request: web.Request, call: Call) -> web.StreamResponse:
        if refusal := self.rejected(call):
            return refusal
        return await self.document(request, call, openai_media.rerank(call.body))

    async def classify(self, request: web.Request, call: Call) -> web.StreamResponse:
        if refusal := self.rejected(call):
            return refusal
        return await self.document(request, call, openai_media.classification(call.body))

    async def moderate(self, request: web.Request, call: Call) -> web.StreamResponse:
        if refusal := self.rejected(call):
            return refusal
        return await self.document(request, call, openai_media.moderation(call.body))

    async def transcribe(self, request: web.Request, call: Call) -> web.StreamResponse:
        if refusal := self.rejected(call):
            return refusal
        if not call.files.get("file"):
            return self.refused(
                call, 400, "Audio file might be corrupted or unsupported", kind="invalid_request_error"
            )
        if call.body.get("stream") == "true" and self.streams:
            return await self.stream(request, call, self._transcript())
        match call.body.get("response_format", "json"):
            case "verbose_json":
                granularities = call.body.get("timestamp_granularities[]") or []
                return await self.document(request, call, openai_media.verbose_transcript(granularities))
            case "diarized_json":
                return await self.document(request, call, openai_media.diarized_transcript())
            case "json":
                return await self.document(request, call, {"text": openai_media.TRANSCRIPT})
            case _:
                call.finished = True
                return web.Response(text=openai_media.TRANSCRIPT)

    async def speak(self, request: web.Request, call: Call) -> web.StreamResponse:
        if refusal := self.rejected(call):
            return refusal
        audio = openai_media.wav()
        pieces = (audio[at : at + 1000] for at in range(0, len(audio), 1000))
        return await self.stream(request, call, pieces, content_type="audio/wav")

    async def draw(self, request: web.Request, call: Call) -> web.StreamResponse:
        if refusal := self.rejected(call):
            return refusal
        return await self._pictures(request, call, call.body, "image_generation")

    async def edit(self, request: web.Request, call: Call) -> web.StreamResponse:
        if refusal := self.rejected(call):
            return refusal
        if (mistake := openai_media.mistake_in_edit(call.body, call.files)) is not None:
            return self.refused(call, 400, mistake, code="unknown_parameter")
        return await self._pictures(request, call, openai_media.typed_form(call.body), "image_edit")

    async def vary(self, request: web.Request, call: Call) -> web.StreamResponse:
        """As servers do it that have variations; OpenAI itself has retired the endpoint."""
        if refusal := self.rejected(call):
            return refusal
        if extra := call.body.keys() - ImageCreateVariationParams.__annotations__.keys():
            return self.refused(call, 400, f"Unknown parameter: '{min(extra)}'.", code="unknown_parameter")
        return await self._pictures(request, call, openai_media.typed_form(call.body), "image_edit")

    async def _pictures(self, request: web.Request, call: Call, body: Json, kind: str) -> web.StreamResponse:
        document = openai_media.images(body)
        if not body.get("stream"):
            return await self.document(request, call, document)
        picture = document["data"][0]["b64_json"]
        events = [
            {"type": f"{kind}.partial_image", "b64_json": picture, "partial_image_index": at}
            for at in range(body.get("partial_images") or 0)
        ]
        events.append({"type": f"{kind}.completed", "b64_json": picture, "usage": document["usage"]})
        return await self.stream(request, call, (event(item, item["type"]) for item in events))

    async def list_models(self, request: web.Request, call: Call) -> web.StreamResponse:
        if refusal := self.rejected(call):
            return refusal
        return await self.document(
            request, call, {"object": "list", "data": [_model(name) for name in self.models]}
        )

    async def show_model(self, request: web.Request, call: Call) -> web.StreamResponse:
        name = request.match_info["id"]
        if name not in self.models:
            return self.refused(call, 404, f"The model '{name}' does not exist", code="model_not_found")
        return await self.document(request, call, _model(name))

    @staticmethod
    def _events(chunks: Iterator[Json]) -> Iterator[bytes]:
        for chunk in chunks:
            yield event(chunk)
        yield DONE

    @staticmethod
    def _transcript() -> Iterator[bytes]:
        for piece in openai_chat.words(openai_media.TRANSCRIPT):
            yield event({"type": "transcript.text.delta", "delta": piece})
        yield event({"type": "transcript.text.done", "text": openai_media.TRANSCRIPT})
        yield DONE


def _model(name: str) -> Json:
    return {"id": name, "object": "model", "created": openai_chat.CREATED, "owned_by": "fake"}
