"""Blocks of a message for what a provider's own tools did and found. Source: Anthropic's API reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.anthropic.native import FOREIGN_CALL
from catalog.types import Json


def citation_of(annotation: Json) -> Json | None:
    """The citation of a place on the web; None for an annotation of another kind.

    ``encrypted_index`` is Anthropic's own: an empty one says that another provider cited.
    """
    inner = annotation.get("url_citation")
    if inner is None:
        return None
    cited = inner.get("content")
    return {
        "type": "web_search_result_location",
        "url": inner["url"],
        "title": inner.get("title"),
        "cited_text": cited if isinstance(cited, str) else "",
        "encrypted_index": "",
    }


def blocks_of(item: Json, titles: Mapping[str, str]) -> list[Json]:
    """The blocks of an item of ``server_tool_calls``: a call, and its result where there is one.

    ``titles`` are those of the pages by their addresses. Items of other kinds have no blocks.
    """
    extra = item.get("extra_content") if isinstance(item.get("extra_content"), dict) else {}
    own = (extra or {}).get("anthropic")
    if isinstance(own, list):
        return [block for block in own if isinstance(block, dict)]
    match item.get("type"):
        case "web_search_call":
            return _search(item, titles, extra)
        case "code_interpreter_call":
            return _code(item, extra)
        case _:
            return []


def _search(item: Json, titles: Mapping[str, str], extra: Any) -> list[Json]:
    action = item.get("action") or {}
    if action.get("type") == "open_page":
        return [_call(item, "web_fetch", {"url": action.get("url")}, extra)]
    queries = action.get("queries") or [action.get("query") or ""]
    urls = [str(source.get("url")) for source in action.get("sources") or ()]
    found = [
        {
            "type": "web_search_result",
            "url": url,
            "title": titles.get(url) or url,
            "encrypted_content": "",
            "page_age": None,
        }
        for url in urls
    ]
    result = {"type": "web_search_tool_result", "tool_use_id": _name(item), "content": found}
    return [_call(item, "web_search", {"query": "\n".join(map(str, queries))}, extra), result]


def _code(item: Json, extra: Any) -> list[Json]:
    logs = "".join(str(output.get("logs") or "") for output in item.get("outputs") or ())
    failed = item.get("status") != "completed"
    ran: Json = {"type": "code_execution_result", "return_code": int(failed), "content": []}
    ran |= {"stdout": "", "stderr": logs} if failed else {"stdout": logs, "stderr": ""}
    result = {"type": "code_execution_tool_result", "tool_use_id": _name(item), "content": ran}
    return [_call(item, "code_execution", {"code": item.get("code")}, extra), result]


def _call(item: Json, name: str, given: Json, extra: Any) -> Json:
    call = {"type": "server_tool_use", "id": _name(item), "name": name, "input": given}
    google = extra.get("google") if isinstance(extra, dict) else None
    parts = google.get("parts") if isinstance(google, dict) else None
    return {**call, "extra_content": {"google": {"parts": parts}}} if parts else call


def _name(item: Json) -> str:
    return f"{FOREIGN_CALL}{item.get('id')}"
