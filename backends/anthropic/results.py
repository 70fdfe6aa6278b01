"""Translates between Anthropic's own tools and OpenAI's items, and its citations into annotations.

A call of a tool that the provider runs itself, with its result, is one of the Responses API's items in
``server_tool_calls`` (:mod:`backends.streams.chunks`), and ``extra_content.anthropic`` has Anthropic's own blocks,
for the next turn. Source: Anthropic's pages on web search, code execution and citations.
"""

from __future__ import annotations

from typing import Any

import orjson

from catalog.types import Json

SERVER_CALLS = frozenset({"server_tool_use", "mcp_tool_use"})
RESULTS = "_tool_result"
"""The end of the type of every block that holds the result of such a call."""

_CODE = frozenset({"code_execution", "bash_code_execution", "text_editor_code_execution"})
_OUTPUTS = ("stdout", "stderr", "content", "error_code")


def uncounted_kind(call: Json) -> str | None:
    """The kind of a call which Anthropic's usage does not count: "mcp" or "code_execution"; None for others."""
    if call["type"] == "mcp_tool_use":
        return "mcp"
    return "code_execution" if call.get("name") in _CODE else None


def item_of(call: Json, result: Json | None, container: str = "") -> Json:
    """The item of a call with its result; without one, the call is incomplete. ``container`` may have run it."""
    content = None if result is None else result.get("content")
    error = content if isinstance(content, dict) and str(content.get("type")).endswith("_error") else None
    failed = error is not None or bool(result and result.get("is_error"))
    status = "incomplete" if result is None else "failed" if failed else "completed"
    item = {"id": call["id"], "status": status, **_kind(call, content, error, container)}
    return {**item, "extra_content": {"anthropic": [call] if result is None else [call, result]}}


def blocks_of(items: Any) -> list[Json]:
    """Anthropic's own blocks of items that came from it; other providers' items have none."""
    blocks: list[Json] = []
    for item in items if isinstance(items, list) else ():
        extra = item.get("extra_content") if isinstance(item, dict) else None
        kept = extra.get("anthropic") if isinstance(extra, dict) else None
        if isinstance(kept, list) and len(kept) == 2 and _is_run(*kept):
            blocks += kept
    return blocks


def _is_run(call: Any, result: Any) -> bool:
    """Whether the blocks are a call of one of Anthropic's own tools and its result."""
    if not isinstance(call, dict) or not isinstance(result, dict):
        return False
    named = call.get("type") in ("server_tool_use", "mcp_tool_use") and str(result.get("type")).endswith(RESULTS)
    return named and call.get("id") == result.get("tool_use_id")


def annotation_of(citation: Json, start: int, end: int) -> Json:
    """The annotation of the answer's characters from ``start`` to ``end``.

    ``content`` is the cited text of the source, under OpenRouter's name.
    """
    title = citation.get("title") or citation.get("document_title") or ""
    cited = citation.get("cited_text") or ""
    url = citation.get("url") or citation.get("source")
    if url:
        place = {"start_index": start, "end_index": end, "title": title, "url": url, "content": cited}
        return {"type": "url_citation", "url_citation": place}
    file = {"file_id": citation.get("file_id") or "", "filename": title, "index": end, "content": cited}
    return {"type": "file_citation", "file_citation": file}


def _kind(call: Json, content: Any, error: Json | None, container: str) -> Json:
    name, given = call["name"], call.get("input") or {}
    if name == "web_search":
        found = content if isinstance(content, list) else []
        sources = [{"type": "url", "url": one["url"]} for one in found if one.get("url")]
        query = str(given.get("query", ""))
        action: Json = {"type": "search", "query": query, "queries": [query], "sources": sources}
        return {"type": "web_search_call", "action": action}
    if name == "web_fetch":
        return {"type": "web_search_call", "action": {"type": "open_page", "url": given.get("url")}}
    if name in _CODE:
        code = given.get("code") or given.get("command")
        logs = _output(content)
        return {
            "type": "code_interpreter_call",
            "code": code if isinstance(code, str) and len(given) == 1 else orjson.dumps(given).decode(),
            "container_id": container,
            "outputs": [{"type": "logs", "logs": logs}] if logs else [],
        }
    return {
        "type": "mcp_call",
        "name": name,
        "arguments": orjson.dumps(given).decode(),
        "server_label": call.get("server_name") or "anthropic",
        "output": None if error is not None else _output(content),
        "error": None if error is None else {"type": "mcp_tool_execution_error", "content": error},
    }


def _output(content: Any) -> str:
    """The text of a result."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(_output(one.get("text") or one) for one in content if isinstance(one, dict))
    if not isinstance(content, dict):
        return ""
    texts = [content[name] for name in _OUTPUTS if isinstance(content.get(name), str) and content[name]]
    return "\n".join(texts) if texts else orjson.dumps(content).decode()
