"""The fake's Responses API: one message of text. Source: OpenAI's API reference, and the SDK's event types."""

from __future__ import annotations

from collections.abc import Iterator

from catalog.types import Json
from tests.fakes.openai_chat import CREATED, words


def _text_part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _message(text: str, status: str) -> Json:
    content = [_text_part(text)] if status == "completed" else []
    return {"id": "msg_fake", "type": "message", "role": "assistant", "status": status, "content": content}


def response_document(body: Json, reply: str, *, status: str = "completed") -> Json:
    """The response object, complete or in progress."""
    done = status == "completed"
    return {
        "id": "resp_fake",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": body["model"],
        "output": [_message(reply, "completed")] if done else [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 5,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": len(words(reply)),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 5 + len(words(reply)),
        }
        if done
        else None,
        "user": None,
        "metadata": {},
    }


def response_events(body: Json, reply: str) -> Iterator[Json]:
    """The events of a streamed response, numbered."""
    place = {"item_id": "msg_fake", "output_index": 0, "content_index": 0}
    events: list[Json] = [
        {"type": "response.created", "response": response_document(body, reply, status="in_progress")},
        {"type": "response.in_progress", "response": response_document(body, reply, status="in_progress")},
        {"type": "response.output_item.added", "output_index": 0, "item": _message("", "in_progress")},
        {"type": "response.content_part.added", **place, "part": _text_part("")},
        *(
            {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
            for piece in words(reply)
        ),
        {"type": "response.output_text.done", **place, "text": reply, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": _text_part(reply)},
        {"type": "response.output_item.done", "output_index": 0, "item": _message(reply, "completed")},
        {"type": "response.completed", "response": response_document(body, reply)},
    ]
    for number, payload in enumerate(events):
        yield {**payload, "sequence_number": number}
