"""A fake of Azure OpenAI: OpenAI's wire at Azure's addresses, with the results of its content filters.

As Azure does, it says in a first chunk, which has no id, time or model, what the filters found in the prompt.
Source: Microsoft's reference of Azure OpenAI in Foundry, "Content filtering" and "Content streaming".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiohttp import web

from catalog.types import Json
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Call

SAFE = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}
PROMPT = [{"prompt_index": 0, "content_filter_results": SAFE}]


class FakeAzure(FakeOpenAI):
    """The deployment is named ``fake-chat``. ``asynchronous`` sends the results of filters after the text."""

    prefix = "/openai/deployments/fake-chat"
    batch_prefix = "/openai"
    file_status = "pending"

    def __init__(self, *, key: str = "az-fake", asynchronous: bool = False) -> None:
        super().__init__()
        self.azure_key = key
        self.asynchronous = asynchronous

    def rejected(self, call: Call) -> web.Response | None:
        if call.headers.get("api-key") != self.azure_key or "api-version" not in call.query:
            return self.refused(call, 401, "Access denied due to invalid subscription key.", code="401")
        return super().rejected(call)

    async def document(self, request: web.Request, call: Call, payload: Any, *, status: int = 200) -> web.Response:
        if isinstance(payload, dict) and payload.get("object") == "chat.completion":
            choices = [{**choice, "content_filter_results": SAFE} for choice in payload["choices"]]
            payload = {**payload, "choices": choices, "prompt_filter_results": PROMPT}
        return await super().document(request, call, payload, status=status)

    def _events(self, chunks: Iterator[Json]) -> Iterator[bytes]:  # type: ignore[override]
        return super()._events(self._filtered(chunks))

    def _filtered(self, chunks: Iterator[Json]) -> Iterator[Json]:
        empty: Json = {"id": "", "object": "", "created": 0, "model": "", "choices": []}
        yield {**empty, "prompt_filter_results": PROMPT}
        for chunk in chunks:
            if not self.asynchronous:
                for choice in chunk["choices"]:
                    choice["content_filter_results"] = SAFE
            yield chunk
            if self.asynchronous and chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                offsets = {"check_offset": 0, "start_offset": 0, "end_offset": 1}
                found = {"content_filter_results": SAFE, "content_filter_offsets": offsets}
                yield {**empty, "choices": [{"index": 0, "finish_reason": None, **found}]}
