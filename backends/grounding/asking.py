"""Asks a chat model that sees where things are, in its family's own words or by a JSON schema."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import islice
from typing import Protocol, cast

from backends.base import Backend, Chat, Upstream
from backends.grounding.families import Family, family_of
from backends.grounding.pictures import shown_in
from backends.grounding.places import Where, read_spans
from backends.grounding.request import GroundingChat
from backends.grounding.spans import EDGES, edge_spans
from backends.pictures.sizes import PixelSize, fetched, size_of
from backends.streams.assemble import ChatAssembler
from backends.wire.chat import ContentPart, ResponseFormat
from catalog.errors import AnswerInvalid
from catalog.types import Json


class Locating(Chat, Backend, Protocol):
    """A backend with chats."""


async def locate(backend: Locating, upstream: Upstream, chat: GroundingChat) -> Json:
    """The places of a chat's phrases, as :class:`backends.grounding.request.GroundList`.

    Raises AnswerInvalid where a model without spans of its own kept to no form, and as the backend's chats.
    """
    family = family_of(upstream.model, upstream.family)
    if family is not None and family.detects is None:
        family = None
    asked = _in_words(chat, family) if family is not None else _by_schema(chat, backend, upstream)
    sizes: dict[str, PixelSize] = {}
    fetched.set(sizes)
    assembler = ChatAssembler()
    async with aclosing(cast("AsyncGenerator[Json]", backend.chat(upstream, asked))) as chunks:
        async for chunk in chunks:
            assembler.add(chunk)
    answer = assembler.result()
    choice: Json = answer["choices"][0] if answer["choices"] else {"message": {}, "finish_reason": None}
    text = choice["message"].get("content") or ""
    spans = await read_spans(text, family) if family is not None else list(islice(edge_spans(text), chat.most))
    if family is None and not spans and choice["finish_reason"] == "stop" and not _is_empty_form(text):
        raise AnswerInvalid(
            f"'{upstream.model}' did not say where things are in a form that can be read. Choose a model that is "
            "made for it, such as Qwen3-VL."
        )
    shown = shown_in(chat)
    known = [await size_of(url, sizes) for url in shown.urls]
    where = Where(shown, known, upstream, asked)
    places = [place for span in spans if (place := where.place(span)) is not None][: chat.most]
    size = known[0]
    found: Json = {
        "object": "grounding",
        "image": None if size is None else {"width": size.width, "height": size.height},
        "data": [_located(place, chat.phrases) for place in places],
        "content": text,
        "finish_reason": choice["finish_reason"],
    }
    return {**found, "usage": answer["usage"]} if answer.get("usage") else found


def _located(place: Json, phrases: tuple[str, ...]) -> Json:
    """The place without its position in the text. One without a label has the only phrase's."""
    label = place["label"] or (phrases[0] if len(phrases) == 1 else "")
    kept = {
        name: value for name, value in place.items() if name not in ("image_index", "start_index", "end_index")
    }
    return {**kept, "label": label}


def _is_empty_form(text: str) -> bool:
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(held, dict) and held.get("boxes") == []


def _in_words(chat: GroundingChat, family: Family) -> GroundingChat:
    assert family.detects is not None
    return _asking(chat, family.detects.format(phrase=family.joined.join(chat.phrases)))


def _by_schema(chat: GroundingChat, backend: Locating, upstream: Upstream) -> GroundingChat:
    """The chat with a schema for its answer; where the server takes none, the prompt alone tells the form."""
    names = json.dumps(list(chat.phrases), ensure_ascii=False)
    asked = _asking(
        chat,
        f"Locate every instance of each of these in the picture: {names}. Answer with one JSON object, "
        '{"boxes": [{"label": "...", "left": 0, "top": 0, "right": 0, "bottom": 0}]}, at most '
        f"{chat.most} boxes and none for what is not there. The label is one of the names given. Edges are whole "
        "numbers from 0 to 1000: thousandths of the width, from the left, and of the height, from the top.",
    )
    form = {
        "type": "json_schema",
        "json_schema": {"name": "boxes", "strict": True, "schema": _schema(chat.phrases, chat.most)},
    }
    bound = asked.model_copy(update={"response_format": ResponseFormat.model_validate(form)})
    return asked if "response_format" in backend.dropped(bound, upstream) else bound


def _schema(phrases: tuple[str, ...], most: int) -> Json:
    edge = {"type": "integer", "minimum": 0, "maximum": 1000}
    box = {
        "type": "object",
        "properties": {"label": {"type": "string", "enum": list(phrases)}, **dict.fromkeys(EDGES, edge)},
        "required": ["label", *EDGES],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"boxes": {"type": "array", "maxItems": most, "items": box}},
        "required": ["boxes"],
        "additionalProperties": False,
    }


def _asking(chat: GroundingChat, prompt: str) -> GroundingChat:
    (message,) = chat.messages
    assert isinstance(message.content, list)
    content = [message.content[0], ContentPart(type="text", text=prompt)]
    return chat.model_copy(update={"messages": [message.model_copy(update={"content": content})]})
