"""Collects what Gemini's own tools found and made, beside the text of one candidate.

Google's grounding becomes annotations and one item of a search; ``extra_content.google`` of the item has the
metadata, and the parts to send back in the next turn. Source: Google's Gemini API reference (GroundingMetadata,
Segment, Part).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from catalog.types import Json

_SOURCES = ("web", "retrievedContext", "maps", "image")
_RUNS = frozenset({"executableCode", "codeExecutionResult", "toolCall", "toolResponse"})
_OUTCOMES = {"OUTCOME_OK": "completed"}


@dataclass(slots=True)
class OwnTools:
    """The results of one candidate. ``texts`` are the pieces of its answer."""

    texts: list[str] = field(default_factory=list)
    _grounding: Json = field(default_factory=dict)
    _citations: list[Json] = field(default_factory=list)
    _searches: list[Json] = field(default_factory=list)
    _code: list[Json] = field(default_factory=list)

    def note(self, candidate: Json) -> None:
        """Take the candidate's metadata: that of later events completes that of earlier ones."""
        self._grounding |= {
            name: value for name, value in (candidate.get("groundingMetadata") or {}).items() if value
        }
        cited = candidate.get("citationMetadata") or {}
        self._citations = cited.get("citationSources") or cited.get("citations") or self._citations

    def take(self, part: Json) -> bool:
        """Keep a part of a tool that Google runs itself; False for any other part."""
        if _RUNS.isdisjoint(part):
            return False
        runs_code = "executableCode" in part or "codeExecutionResult" in part
        (self._code if runs_code else self._searches).append(part)
        return True

    @property
    def queries(self) -> list[str]:
        """The searches that were made."""
        told = self._grounding.get("webSearchQueries")
        return [str(query) for query in told] if told else [query for query in self._asked() if query]

    def annotations(self) -> list[Json]:
        """OpenAI's annotations: Google gives the places of an answer's text in bytes, OpenAI in characters."""
        found = self._grounding.get("groundingChunks") or []
        if not found and not self._citations:
            return []
        text = "".join(self.texts)
        raw = text.encode()
        made: list[Json] = []
        for support in self._grounding.get("groundingSupports") or ():
            start, end = _place(support.get("segment") or {}, text, raw)
            cited = [found[at] for at in support.get("groundingChunkIndices") or () if at < len(found)]
            made += [_annotation(_source(chunk), start, end) for chunk in cited]
        return made + [_annotation(one, *_place(one, text, raw)) for one in self._citations]

    def items(self, prefix: str) -> list[Json]:
        """The items of ``server_tool_calls``; their ids begin with ``prefix``."""
        made = [*self._runs(prefix)]
        sources = [_source(one).get("uri") for one in self._grounding.get("groundingChunks") or ()]
        if self.queries or self._searches or any(sources):
            queries = self.queries
            action = {
                "type": "search",
                "query": queries[0] if queries else "",
                "queries": queries,
                "sources": [{"type": "url", "url": url} for url in sources if url],
            }
            own: Json = {"grounding_metadata": self._grounding} if self._grounding else {}
            if self._searches:
                own["parts"] = self._searches
            head: Json = {"id": f"{prefix}_search", "type": "web_search_call", "status": "completed"}
            made.append({**head, "action": action, "extra_content": {"google": own}})
        return made

    def _asked(self) -> Iterator[str]:
        for part in self._searches:
            args = (part.get("toolCall") or {}).get("args") or {}
            listed = args.get("queries") or [args.get("query")]
            yield from (str(query) for query in listed if query)

    def _runs(self, prefix: str) -> Iterator[Json]:
        """An item for each run of code, which is a part with the code and mostly one with its result."""
        runs: list[list[Json]] = []
        for part in self._code:
            if "executableCode" in part or not runs:
                runs.append([part])
            else:
                runs[-1].append(part)
        for at, parts in enumerate(runs):
            code = (parts[0].get("executableCode") or {}).get("code")
            results = [part["codeExecutionResult"] for part in parts if "codeExecutionResult" in part]
            outcome = _OUTCOMES.get(results[-1].get("outcome"), "failed") if results else "incomplete"
            logs = [{"type": "logs", "logs": one["output"]} for one in results if one.get("output")]
            yield {
                "id": f"{prefix}_code_{at}",
                "type": "code_interpreter_call",
                "status": outcome,
                "code": code,
                "container_id": "",
                "outputs": logs,
                "extra_content": {"google": {"parts": parts}},
            }


def parts_of_items(items: Any) -> list[Json]:
    """Google's own parts of items that came from it; other providers' items have none."""
    parts: list[Json] = []
    for item in items if isinstance(items, list) else ():
        extra = item.get("extra_content") if isinstance(item, dict) else None
        own = extra.get("google") if isinstance(extra, dict) else None
        kept = own.get("parts") if isinstance(own, dict) else None
        parts += [part for part in kept if _is_run(part)] if isinstance(kept, list) else []
    return parts


def _is_run(part: Any) -> bool:
    return isinstance(part, dict) and not _RUNS.isdisjoint(part)


def picture_of(part: Json, extra: Json) -> Json:
    """A picture as a part of ``images``; ``extra`` is its signature."""
    data = part["inlineData"]
    url = f"data:{data['mimeType']};base64,{data['data']}"
    return {"type": "image_url", "image_url": {"url": url}, **extra}


def _source(chunk: Json) -> Json:
    source: Json = next((chunk[kind] for kind in _SOURCES if chunk.get(kind)), {})
    return {**source, "uri": source.get("uri") or source.get("sourceUri")}


def _annotation(source: Json, start: int, end: int) -> Json:
    place: Json = {"start_index": start, "end_index": end, "title": source.get("title") or ""}
    return {"type": "url_citation", "url_citation": {**place, "url": source.get("uri") or ""}}


def _place(segment: Json, text: str, raw: bytes) -> tuple[int, int]:
    """The characters of a segment. Its text decides where its bytes, which count within a part, say another."""
    start, end = int(segment.get("startIndex") or 0), int(segment.get("endIndex") or 0)
    before = len(raw[:start].decode(errors="ignore"))
    said = raw[start:end].decode(errors="ignore")
    told = segment.get("text")
    if told and told != said and (found := text.find(told)) >= 0:
        return found, found + len(told)
    return before, before + len(said)
