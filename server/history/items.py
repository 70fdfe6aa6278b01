"""Items of a conversation as they are kept, each with an id and a type. Source: OpenAI's SDK types."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from backends.wire.responses import INCLUDES, OWN_ID
from catalog.errors import InvalidRequest
from catalog.types import Json

_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "web_search_call": "ws",
    "compaction": "cmp",
}
_OWN = re.compile(rf"[a-z]+_{OWN_ID}([0-9a-f]{{32}})(?:i[0-9a-f]{{4,}}|[0-9a-f]{{2,}})")


def as_items(given: str | Iterable[Json] | None, name: str) -> list[Json]:
    """The items of an ``input``, complete; those without an id are named after ``name``, 32 hexadecimal digits."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    return [_complete(item, f"{OWN_ID}{name}i{position:04x}") for position, item in enumerate(given or ())]


def name_items(output: list[Json], before: Iterable[Json], name: str) -> None:
    """Give each item of an answer without an id, or with that of another item, an id after ``name`` (see above).

    Providers repeat ids, and an item is stored under its own.
    """
    taken = {item.get("id") for item in before}
    for position, item in enumerate(output):
        if not isinstance(item.get("id"), str) or not item["id"] or item["id"] in taken:
            prefix = _PREFIXES.get(str(item.get("type")), "item")
            item["id"] = f"{prefix}_{OWN_ID}{name}{position:02x}"
        taken.add(item["id"])


def _complete(item: Json, name: str) -> Json:
    kind = item.get("type") or "message"
    made = {"id": f"{_PREFIXES.get(kind, 'item')}_{name}", **item, "type": kind}
    if not made["id"]:
        made["id"] = f"{_PREFIXES.get(kind, 'item')}_{name}"
    if kind == "message":
        if isinstance(item.get("content"), str):
            made["content"] = [_text(item["content"], assistant=item.get("role") == "assistant")]
        made.setdefault("status", "completed")
    elif kind.endswith(("_call", "_output")):
        made["status"] = made.get("status") or "completed"
    return made


def _text(text: str, *, assistant: bool) -> Json:
    if assistant:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": text}


def response_of(item_id: str) -> str | None:
    """The id of the response that an item of the gateway's own naming belongs to."""
    found = _OWN.fullmatch(item_id)
    return None if found is None else f"resp_{found[1]}"


def without_own_ids(items: Iterable[Json]) -> list[Json]:
    """The items without the ids that the gateway gave, which no other server knows.

    Reasoning keeps its id, by which backends tell it from the provider's own, and so do messages of the assistant
    and pictures, which must have one.
    """
    return [_anonymous(item) for item in items]


def _anonymous(item: Json) -> Json:
    name = item.get("id")
    if item.get("type") in ("reasoning", "image_generation_call") or item.get("role") == "assistant":
        return item
    if not isinstance(name, str) or _OWN.fullmatch(name) is None:
        return item
    return {key: value for key, value in item.items() if key != "id"}


def shown(items: Iterable[Json], include: Sequence[str] | None) -> list[Json]:
    """The items as a caller reads them: without those parts that are shown on request, unless they are included.

    Raises InvalidRequest for an unknown name in ``include``.
    """
    wanted = frozenset(include or ())
    if unknown := sorted(wanted - INCLUDES):
        raise InvalidRequest(
            f"{unknown[0][:80]!r} cannot be included. Choose of: {', '.join(sorted(INCLUDES))}.", param="include"
        )
    encrypted, logprobs = "reasoning.encrypted_content" in wanted, "message.output_text.logprobs" in wanted
    if encrypted and logprobs:
        return list(items)
    return [_shown(item, encrypted=encrypted, logprobs=logprobs) for item in items]


def _shown(item: Json, *, encrypted: bool, logprobs: bool) -> Json:
    kind = item.get("type")
    if kind == "reasoning" and not encrypted and "encrypted_content" in item:
        return {name: value for name, value in item.items() if name != "encrypted_content"}
    if kind == "message" and not logprobs and isinstance(item.get("content"), list):
        return {**item, "content": [_without_logprobs(part) for part in item["content"]]}
    return item


def _without_logprobs(part: Any) -> Any:
    return {**part, "logprobs": []} if isinstance(part, dict) and part.get("logprobs") else part
