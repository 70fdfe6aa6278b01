"""Fits the grammar of an answer to llama-server: behind a thought, and up to the model's own end of a text."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import orjson

from backends.base import Upstream
from backends.constraints.lark import after_thought, with_end
from backends.http import HttpClient
from backends.openai.backend import checked
from catalog.types import Json

_MAX_KNOWN = 256
_OPENED = re.compile(r"<(think|thinking|thought|reason|reasoning|seed:think)>\s*$")
"""The tag of a thought at the end of a prompt."""


class Grammars:
    """Asks each worker once for what its grammars depend on."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self._thoughts: dict[tuple[str, bytes], str | None] = {}
        self._ends: dict[str, int | None] = {}

    async def fitted(self, body: Json, upstream: Upstream, *, chat: bool = True) -> Json:
        """The body with its grammar, if it has one, in the form that this worker's model can keep.

        In a ``chat`` the answer comes after the thought that the template opens.
        """
        if "grammar" not in body or upstream.engine not in (None, "llamacpp"):
            return body
        grammar, token = body["grammar"], await self._end(upstream)
        if token is not None:
            grammar = with_end(grammar, token)
        end = await self._thought(body.get("chat_template_kwargs"), upstream) if chat else None
        if end is None:
            return {**body, "grammar": grammar}
        # llama-server takes all before the end of a thought for it.
        return {**body, "grammar": after_thought(grammar, end), "reasoning_format": "deepseek"}

    async def _end(self, upstream: Upstream) -> int | None:
        """The token that ends a text of the model; None if the worker does not tell."""
        key = upstream.uds or upstream.base_url
        if key not in self._ends:
            root = root_of(upstream)
            text = checked(await self._http.get_json(root, "/props"), "", upstream).get("eos_token")
            asked = {"content": text, "parse_special": True}
            answer = await self._http.post_json(root, "/tokenize", asked) if isinstance(text, str) and text else {}
            tokens = checked(answer, "", upstream).get("tokens")
            if len(self._ends) >= _MAX_KNOWN:
                self._ends.clear()
            self._ends[key] = tokens[0] if isinstance(tokens, list) and len(tokens) == 1 else None
        return self._ends[key]

    async def _thought(self, arguments: Any, upstream: Upstream) -> str | None:
        """The tag that ends the thought which the chat template opens; None if it opens none."""
        key = (upstream.uds or upstream.base_url, orjson.dumps(arguments))
        if key not in self._thoughts:
            probe: Json = {"messages": [{"role": "user", "content": "Hello"}]}
            if arguments is not None:
                probe["chat_template_kwargs"] = arguments
            answer = await self._http.post_json(root_of(upstream), "/apply-template", probe)
            opened = _OPENED.search(checked(answer, "", upstream).get("prompt") or "")
            if len(self._thoughts) >= _MAX_KNOWN:
                self._thoughts.clear()
            self._thoughts[key] = f"</{opened[1]}>" if opened else None
        return self._thoughts[key]


def root_of(upstream: Upstream) -> Upstream:
    """The worker's address without ``/v1``."""
    return replace(upstream, base_url=upstream.base_url.rstrip("/").removesuffix("/v1"))
