"""The list of models in Anthropic's shape, a page at a time. Source: Anthropic's API reference, "Models"."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from backends.wire.common import AS_COUNT, ModelName
from catalog.errors import InvalidRequest
from catalog.model import Capability
from catalog.types import Json


class ModelPageQuery(BaseModel):
    """``after_id`` and ``before_id`` are ids of models, as ``last_id`` and ``first_id`` of another page."""

    model_config = ConfigDict(frozen=True)
    limit: Annotated[int, Field(ge=1, le=1000), AS_COUNT] = 20
    after_id: ModelName | None = None
    before_id: ModelName | None = None


def page(cards: Sequence[Any], query: ModelPageQuery) -> Json:
    """One page of the models' cards, in their order; ``has_more``: there are more in the direction asked for.

    Raises InvalidRequest for a cursor that is no model of the list.
    """
    ids = [card["id"] for card in cards]
    if query.before_id is not None:
        end = _position(ids, query.before_id, "before_id")
        start = max(0, end - query.limit)
        more = start > 0
    else:
        start = 0 if query.after_id is None else _position(ids, query.after_id, "after_id") + 1
        end = min(len(ids), start + query.limit)
        more = end < len(ids)
    data = [model_info(card) for card in cards[start:end]]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"data": data, "has_more": more, **ends}


def model_info(card: Any) -> Json:
    """A model's card in Anthropic's shape. The names of the router have no capabilities of their own."""
    ends = card.get("shutdown_date")
    return {
        "type": "model",
        "id": card["id"],
        "display_name": card.get("name") or card["id"],
        "created_at": datetime.fromtimestamp(card["created"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "max_input_tokens": card.get("max_input_tokens") or card.get("context_window"),
        "max_tokens": card.get("max_output_tokens"),
        "lifecycle": "active" if ends is None else "deprecated",
        "retires_at": None if ends is None else f"{ends}T00:00:00Z",
        "capabilities": _capabilities(frozenset(card["capabilities"])) if "capabilities" in card else None,
    }


def _capabilities(has: Collection[str]) -> Json:
    """Support by Anthropic's names: what a request to the model has an effect of, not what is left out of it."""

    def supported(name: str | None, **parts: str | None) -> Json:
        each = {part: supported(capability) for part, capability in parts.items()}
        return {"supported": name in has, **each}

    reasoning, searching = Capability.REASONING.value, Capability.WEB_SEARCH.value
    thought, off = supported(reasoning), {"supported": True}
    return {
        "batch": supported(Capability.CHAT.value),
        "citations": supported(None),
        "code_execution": supported(None),
        "context_management": supported(None),
        "effort": supported(reasoning, **dict.fromkeys(("low", "medium", "high", "xhigh", "max"), reasoning)),
        "image_input": supported(Capability.VISION.value),
        "pdf_input": supported(Capability.DOCUMENTS.value),
        "server_tools": supported(searching, web_search=searching, code_execution=None),
        "structured_outputs": supported(Capability.JSON_SCHEMA.value),
        "thinking": {
            **thought,
            "types": {"adaptive": thought, "enabled": thought, "disabled": off, "between_tools": off},
        },
    }


def _position(ids: Sequence[str], wanted: str, param: str) -> int:
    try:
        return ids.index(wanted)
    except ValueError:
        raise InvalidRequest(f"'{param}' is not the id of a model in this list.", param=param) from None
