"""Fits grammars to a worker's model: behind the thought that its template opens, up to the end of its turn."""

from __future__ import annotations

import re
from dataclasses import replace

import orjson

from backends.base import Upstream
from backends.constraints.lark import after_thought, until
from backends.http import HttpClient
from backends.openai.backend import checked
from catalog.types import Json

_MAX_KNOWN = 256
_OPENED = re.compile(r"<(think|thinking|thought|reason|reasoning|seed:think)>\s*$")
"""The tag of a thought at the end of a prompt."""
_TOKEN = re.compile(r"<[^<>\s]+>")
"""A token that a grammar can name."""


class Grammars:
    """Each worker's template and vocabulary; a worker is asked once."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self._thoughts: dict[tuple[str, bytes], str | None] = {}
        self._ends: dict[str, str | None] = {}

    async def of_chat(self, body: Json, upstream: Upstream) -> Json:
        """The body with its grammar behind the thought that the chat template opens, if it opens one.

        llama-server applies a grammar from the first token, and takes all before the end of a thought for it.
        """
        if "grammar" not in body or upstream.engine not in (None, "llamacpp"):
            return body
        arguments = orjson.dumps(body.get("chat_template_kwargs"))
        key = (upstream.uds or upstream.base_url, arguments)
        if key not in self._thoughts:
            probe = {"messages": [{"role": "user", "content": "Hello"}]}
            if "chat_template_kwargs" in body:
                probe["chat_template_kwargs"] = body["chat_template_kwargs"]
            answer = checked(await self._http.post_json(root_of(upstream), "/apply-template", probe), "", upstream)
            opened = _OPENED.search(answer.get("prompt") or "")
            if len(self._thoughts) >= _MAX_KNOWN:
                self._thoughts.clear()
            self._thoughts[key] = f"</{opened[1]}>" if opened else None
        end = self._thoughts[key]
        if end is not None:
            body = {**body, "grammar": after_thought(body["grammar"], end), "reasoning_format": "deepseek"}
        return await self.of_text(body, upstream)

    async def of_text(self, body: Json, upstream: Upstream) -> Json:
        """The body with a grammar that lets the model end its turn.

        llama-server gives llguidance one token that ends a text, and where the vocabulary has two (SmolLM2's
        ``<|endoftext|>`` and ``<|im_end|>``) it may be the one that the model never writes.
        """
        if "grammar" not in body or upstream.engine not in (None, "llamacpp"):
            return body
        key = upstream.uds or upstream.base_url
        if key not in self._ends:
            props = checked(await self._http.get_json(root_of(upstream), "/props"), "", upstream)
            token = props.get("eos_token")
            if len(self._ends) >= _MAX_KNOWN:
                self._ends.clear()
            self._ends[key] = token if isinstance(token, str) and _TOKEN.fullmatch(token) else None
        end = self._ends[key]
        return body if end is None else {**body, "grammar": until(body["grammar"], end)}


def root_of(upstream: Upstream) -> Upstream:
    """The worker's address without ``/v1``."""
    return replace(upstream, base_url=upstream.base_url.rstrip("/").removesuffix("/v1"))
