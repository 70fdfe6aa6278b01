"""The events of a finished response that was not made in the background, made anew from its object."""

from __future__ import annotations

from collections.abc import Iterator

from catalog.types import Json
from server.wires.responses.hosted import HostedItem

_PARTS = {"output_text": ("output_text", "text"), "refusal": ("refusal", "refusal")}
_GIVEN = {
    "function_call": ("function_call_arguments", "arguments"),
    "custom_tool_call": ("custom_tool_call_input", "input"),
}


def replayed(response: Json) -> Iterator[Json]:
    """The events of a response in order and numbered from 0; each text comes in one piece."""
    for number, event in enumerate(_events(response)):
        yield {**event, "sequence_number": number}


def _events(response: Json) -> Iterator[Json]:
    begun = {**response, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    for kind in ("response.created", "response.in_progress"):
        yield {"type": kind, "response": begun}
    for index, item in enumerate(response["output"]):
        yield from _item(item, index)
    yield {"type": f"response.{response['status']}", "response": response}


def _item(item: Json, index: int) -> Iterator[Json]:
    kind, name = item.get("type"), item.get("id")
    place = {"item_id": name, "output_index": index}
    if kind == "message":
        yield _added({**item, "status": "in_progress", "content": []}, index)
        for at, part in enumerate(item.get("content") or ()):
            yield from _part(part, {**place, "content_index": at})
    elif kind == "reasoning":
        yield _added({**item, "summary": []}, index)
        for at, part in enumerate(item.get("summary") or ()):
            where = {**place, "summary_index": at}
            yield {"type": "response.reasoning_summary_part.added", **where, "part": {**part, "text": ""}}
            yield {"type": "response.reasoning_summary_text.delta", **where, "delta": part["text"]}
            yield {"type": "response.reasoning_summary_text.done", **where, "text": part["text"]}
            yield {"type": "response.reasoning_summary_part.done", **where, "part": part}
    elif kind in _GIVEN:
        event, field = _GIVEN[kind]
        yield _added({**item, "status": "in_progress", field: ""}, index)
        yield {"type": f"response.{event}.delta", **place, "delta": item[field]}
        yield {"type": f"response.{event}.done", **place, field: item[field], "name": item.get("name")}
    else:
        yield from HostedItem(str(name), index, body=item).events()
        return
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _added(item: Json, index: int) -> Json:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def _part(part: Json, place: Json) -> Iterator[Json]:
    kind, field = _PARTS.get(str(part.get("type")), ("output_text", "text"))
    text, logprobs = part.get(field) or "", {"logprobs": part.get("logprobs") or []} if field == "text" else {}
    empty = {**part, field: "", **({"annotations": [], "logprobs": []} if field == "text" else {})}
    yield {"type": "response.content_part.added", **place, "part": empty}
    yield {"type": f"response.{kind}.delta", **place, "delta": text, **logprobs}
    for at, annotation in enumerate(part.get("annotations") or ()):
        added = {"annotation_index": at, "annotation": annotation}
        yield {"type": "response.output_text.annotation.added", **place, **added}
    yield {"type": f"response.{kind}.done", **place, field: text, **logprobs}
    yield {"type": "response.content_part.done", **place, "part": part}
