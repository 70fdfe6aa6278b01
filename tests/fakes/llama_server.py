"""A fake of llama-server with the deviations from OpenAI that were observed, listed in its methods."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

from catalog.types import Json
from tests.fakes import openai_chat
from tests.fakes.openai import DONE, FakeOpenAI, event
from tests.fakes.server import Call, Route

VOCABULARY = 0x110000
"""A token is a character."""


class FakeLlamaServer(FakeOpenAI):
    """``takes_tools`` says whether its chat template has a tool section; without one, tools are ignored.

    ``scripted`` is a fixed answer to every request. ``chances`` gives the probabilities of the next letters
    after a text; a letter that it does not name never comes.
    """

    def __init__(self, *, uds: Path | None = None, takes_tools: bool = False) -> None:
        super().__init__(uds=uds, key="worker-key")
        self.models = ["local"]
        self.takes_tools = takes_tools
        self.context = 64
        self.scripted: str | None = None
        self.template = "{{ x }}"
        self.end_token = ""
        self.steps = 0
        """Chunks of progress with the prompt, where a request asks for them."""
        self.opens = ""
        """The text with which its chat template begins every answer."""
        self.renders_calls = False
        """Whether its chat template renders calls of tools where there are no tools."""
        self.untold: set[int] = set()
        """Tokens whose probability is not told when they come, as of those that end no character."""
        self.more_props: Json = {}
        self.chances: Callable[[str], dict[str, float]] = lambda text: {}

    def routes(self) -> list[Route]:
        own: list[Route] = [
            ("GET", "/v1/models", self.listed),
            ("GET", "/props", self.props),
            ("POST", "/tokenize", self.tokenize),
            ("POST", "/detokenize", self.detokenize),
            ("POST", "/infill", self.infill),
            ("POST", "/apply-template", self.apply_template),
            ("POST", f"{self.prefix}/chat/completions/input_tokens", self.input_tokens),
            ("POST", "/completion", self.next_token),
        ]
        return [*own, *super().routes()]

    def error(self, status: int, message: str, *, code: str | None = None, kind: str | None = None) -> Json:
        """The code is the status, as a number."""
        return {"error": {"code": status, "message": message, "type": kind or "server_error"}}

    async def chat(self, request: web.Request, call: Call) -> web.StreamResponse:
        """No content in the first delta, ``id`` in logprobs, timings at the end or on every chunk, usage of one
        choice.
        """
        body = call.body
        needed = openai_chat.prompt_tokens(body["messages"])
        if needed > self.context:
            error = self.error(400, "request exceeds the available context size", kind="exceed_context_size_error")
            error["error"].update(n_prompt_tokens=needed, n_ctx=self.context)
            return web.json_response(error, status=400)
        if any(isinstance(message.get("content"), list) for message in body["messages"]):
            return self.refused(call, 500, "image input is not supported - hint: provide the mmproj")
        if not self.takes_tools:
            body = {name: value for name, value in body.items() if name not in ("tools", "tool_choice")}
        said = openai_chat.answer(body, self.reply, refuse=False)
        bound = re.fullmatch(r"%llguidance \{\}\nstart: %json (.*)\n", body.get("grammar", ""))
        if bound is not None:
            said = openai_chat.limited(json.dumps(openai_chat.example_of(json.loads(bound[1]))), body)
        if self.scripted is not None:
            said = openai_chat.limited(self.scripted, body)
        return await self.stream(request, call, (*self._progress(call), *self._chat_events(body, said)))

    def _progress(self, call: Call) -> Iterator[bytes]:
        """Chunks like the first of an answer, but for their field."""
        for step in range(self.steps if call.body.get("return_progress") else 0):
            progress = {"total": self.steps, "cache": 0, "processed": step, "time_ms": step}
            head = {"id": "chatcmpl-x", "object": "chat.completion.chunk", "created": 1, "model": "local"}
            part: Json = {"text": ""}
            if call.path.endswith("chat/completions"):
                part = {"delta": {"role": "assistant", "content": None}}
            choice = {"index": 0, **part, "finish_reason": None}
            yield event({**head, "choices": [choice], "prompt_progress": progress})

    @staticmethod
    def _chat_events(body: Json, said: openai_chat.Answer) -> Iterator[bytes]:
        for count, chunk in enumerate(openai_chat.chat_chunks(body, said)):
            if body.get("timings_per_token"):
                chunk["timings"] = {"cache_n": 1, "prompt_n": 3, "predicted_n": count}
            for choice in chunk["choices"]:
                if "role" in choice["delta"]:
                    choice["delta"] = {"role": "assistant", "content": None}
                for entry in (choice["logprobs"] or {}).get("content", ()):
                    entry["id"] = 7
                if choice["finish_reason"]:
                    chunk.setdefault("timings", {"predicted_n": 1})
            yield event(chunk)
        yield DONE

    async def complete(self, request: web.Request, call: Call) -> web.StreamResponse:
        """No echo, no suffix, chat's logprobs, one token at least, usage on the finishing chunk."""
        bound = {**call.body, "max_tokens": max(1, call.body.get("max_tokens", 1))}
        said = openai_chat.limited(self.reply, bound)
        return await self.stream(request, call, (*self._progress(call), *self._text_events(bound, said)))

    @staticmethod
    def _text_events(body: Json, said: openai_chat.Answer) -> Iterator[bytes]:
        head = {"id": "chatcmpl-x", "object": "text_completion", "created": 1, "model": body["model"]}
        yield b"data: null\n\n"
        for piece in said.pieces:
            logprobs = None
            if body.get("logprobs"):
                logprobs = {"content": [{**openai_chat.token_logprob(piece, body["logprobs"]), "id": 7}]}
            choice = {"index": 0, "text": piece, "logprobs": logprobs, "finish_reason": None}
            yield event({**head, "choices": [choice]})
        last = {"index": 0, "text": "", "logprobs": None, "finish_reason": said.finish_reason}
        yield event({**head, "choices": [last], "usage": openai_chat.usage(2, said.tokens), "timings": {}})
        yield DONE

    async def infill(self, request: web.Request, call: Call) -> web.StreamResponse:
        return self.refused(call, 501, "Infill is not supported by this model", kind="not_supported_error")

    async def listed(self, request: web.Request, call: Call) -> web.StreamResponse:
        """The model's row says how many tokens it has."""
        row = {"id": "local", "object": "model", "created": 1, "meta": {"n_vocab": VOCABULARY}}
        return await self.document(request, call, {"object": "list", "data": [row]})

    async def props(self, request: web.Request, call: Call) -> web.StreamResponse:
        caps = {"supports_tools": self.takes_tools}
        props = {"chat_template": self.template, "chat_template_caps": caps, "eos_token": self.end_token}
        return await self.document(request, call, {**props, **self.more_props})

    async def apply_template(self, request: web.Request, call: Call) -> web.StreamResponse:
        """A prompt with each turn between bars."""
        said = "".join(f"|{message['role']}: {self._rendered(message)}" for message in call.body["messages"])
        return await self.document(request, call, {"prompt": f"{said}|assistant: {self.opens}"})

    def _rendered(self, message: Json) -> str:
        return f"{message['content']}{message.get('tool_calls', '') if self.renders_calls else ''}"

    async def input_tokens(self, request: web.Request, call: Call) -> web.StreamResponse:
        """The tokens of the whole prompt, not of the messages alone."""
        counted = openai_chat.prompt_tokens(call.body["messages"])
        return await self.document(request, call, {"input_tokens": counted, "object": "response.input_tokens"})

    async def next_token(self, request: web.Request, call: Call) -> web.StreamResponse:
        """Probabilities of one letter: the model's own, or after the samplers, which apply a bias."""
        text = "".join(map(chr, call.body["prompt"]))
        needed = len(text)
        if needed > self.context * 10:
            error = self.error(400, "request exceeds the available context size", kind="exceed_context_size_error")
            error["error"].update(n_prompt_tokens=needed, n_ctx=self.context * 10)
            return web.json_response(error, status=400)
        logits = {ord(letter): math.log(chance) for letter, chance in self.chances(text).items()}
        after = call.body.get("post_sampling_probs", False)
        biased = dict(logits)
        for token, bias in call.body.get("logit_bias", ()):
            biased[token] = biased.get(token, -100.0) + bias
        if after:
            logits = {token: biased[token] for token in logits}
        whole = sum(map(math.exp, logits.values()))
        top = sorted(logits, key=lambda token: -logits[token])[: call.body["n_probs"]]
        rows = [
            {"id": token, "prob": math.exp(logits[token]) / whole}
            if after
            else {"id": token, "logprob": logits[token] - math.log(whole)}
            for token in top
        ]
        came = max(biased, key=lambda token: biased[token])
        said: Json = {"id": came, "top_probs" if after else "top_logprobs": rows}
        if not after:
            said["logprob"] = logits.get(came, -100.0) - math.log(whole)
            said["top_logprobs"] = [{**row, "token": chr(int(row["id"]))} for row in rows]
        told = [] if came in self.untold else [said]
        return await self.document(request, call, {"content": chr(came), "completion_probabilities": told})

    async def tokenize(self, request: web.Request, call: Call) -> web.StreamResponse:
        tokens: list[Any] = [ord(letter) for letter in call.body["content"]]
        if call.body.get("with_pieces"):
            tokens = [{"id": token, "piece": chr(token)} for token in tokens]
        return await self.document(request, call, {"tokens": tokens})

    async def detokenize(self, request: web.Request, call: Call) -> web.StreamResponse:
        return await self.document(request, call, {"content": "".join(map(chr, call.body["tokens"]))})
