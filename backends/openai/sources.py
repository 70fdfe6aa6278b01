"""Annotations from the sources that Perplexity lists beside an answer. Source: its page on chat completions.

An answer's text has marks (``[2]``), and its chunks have a list: ``search_results`` with titles, or ``citations``
with addresses alone. Both stay where they are, for callers that know them.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from catalog.types import Json

_MARK = re.compile(r"\[(\d{1,3})\]")


async def with_annotations(chunks: AsyncGenerator[Json]) -> AsyncGenerator[Json]:
    """The chunks; the one that ends a choice has its annotations, and a server tool call with all sources."""
    texts: dict[int, list[str]] = {}
    sources: list[Json] = []
    async with aclosing(chunks) as read:
        async for chunk in read:
            sources = _sources(chunk) or sources
            for choice in chunk.get("choices") or ():
                text = texts.setdefault(choice["index"], [])
                text.append(choice["delta"].get("content") or "")
                if choice.get("finish_reason") and sources:
                    _cite(choice["delta"], "".join(text), sources, str(chunk.get("id")))
            yield chunk


def _sources(chunk: Json) -> list[Json]:
    listed: Any = chunk.get("search_results") or chunk.get("citations")
    found = [{"url": one} if isinstance(one, str) else one for one in listed] if isinstance(listed, list) else []
    usable = [one if isinstance(one, dict) and isinstance(one.get("url"), str) else {} for one in found]
    return usable if any(usable) else []


def _cite(delta: Json, text: str, sources: list[Json], answer: str) -> None:
    made = []
    for mark in _MARK.finditer(text):
        at = int(mark[1]) - 1
        source = sources[at] if 0 <= at < len(sources) else {}
        if source:
            place: Json = {"start_index": mark.start(), "end_index": mark.end()}
            named = {"title": str(source.get("title") or ""), "url": source["url"]}
            made.append({"type": "url_citation", "url_citation": {**place, **named}})
    if made:
        delta["annotations"] = [*(delta.get("annotations") or ()), *made]
    urls = [{"type": "url", "url": source["url"]} for source in sources if source]
    action = {"type": "search", "query": "", "queries": [], "sources": urls}
    search = {"id": f"ws_{answer}", "type": "web_search_call", "status": "completed", "action": action}
    delta["server_tool_calls"] = [*(delta.get("server_tool_calls") or ()), search]
