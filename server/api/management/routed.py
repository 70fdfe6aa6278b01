"""Reads a body of ``POST /v1/route``: which endpoint's body it is, and the facts of that endpoint's request."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import orjson
from fastapi import Request

from backends.wire.common import WireModel
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.messages import MessagesRequest
from backends.wire.responses import ResponsesRequest
from catalog.catalog import Catalog
from catalog.errors import InvalidRequest
from catalog.model import Capability
from routing.facts import Facts
from server.edge.callers import origin_of, with_stand_in
from server.edge.json_body import parse
from server.edge.services import runtime_of
from server.jobs import JOBS, chat_job

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
EMBEDDINGS, COMPLETIONS, IMAGES = "/v1/embeddings", "/v1/completions", "/v1/images/generations"
VIDEOS = "/v1/videos"
SPEECH, RERANK, CLASSIFY, MODERATE = "/v1/audio/speech", "/v1/rerank", "/v1/classify", "/v1/moderations"
_ENDPOINTS: Mapping[Capability, tuple[str, ...]] = {
    Capability.CHAT: (CHAT, RESPONSES, MESSAGES),
    Capability.COMPLETION: (COMPLETIONS,),
    Capability.EMBED: (EMBEDDINGS,),
    Capability.RERANK: (RERANK,),
    Capability.CLASSIFY: (CLASSIFY,),
    Capability.MODERATE: (MODERATE,),
    Capability.SPEAK: (SPEECH,),
    Capability.IMAGE: (IMAGES,),
    Capability.VIDEO: (VIDEOS,),
}
"""The endpoints whose bodies ask for a capability."""
_BY_FIELD: Mapping[str, tuple[str, ...]] = {
    "messages": (CHAT, MESSAGES),
    "documents": (RERANK,),
    "labels": (CLASSIFY,),
    "voice": (SPEECH,),
    "input": (EMBEDDINGS, RESPONSES),
    "prompt": (COMPLETIONS, IMAGES, VIDEOS, RESPONSES),
}
"""The endpoints that a field may be of; of several, the one that knows most of the body's fields is meant."""
_OWN = frozenset({"model", "routing", "timings", "capability", "endpoint"})


_OF_CHATS: Mapping[str, type[WireModel]] = {RESPONSES: ResponsesRequest, MESSAGES: MessagesRequest}
"""The bodies of chats in other languages than that of chat completions."""


class Read(NamedTuple):
    """The facts of a body, the endpoint that it was read for, and remarks on what may be meant otherwise."""

    facts: Facts
    endpoint: str
    remarks: list[str]


async def read(body: bytes, request: Request) -> Read:
    """Read the body of an endpoint. Raises InvalidRequest for one that is no endpoint's, and as that endpoint."""
    fields = parse(WireModel, body).model_extra or {}
    named, asked_of = fields.pop("capability", None), fields.pop("endpoint", None)
    capability = None if named is None else _named(named)
    endpoint = _endpoint(fields, capability) if asked_of is None else _named_endpoint(asked_of, capability)
    open_to_both = named is asked_of is None and endpoint == EMBEDDINGS and not fields.keys() & _OF_EMBEDDINGS
    if open_to_both and _only_chats(fields.get("model"), runtime_of(request).catalog):
        endpoint, open_to_both = RESPONSES, False
    fields.setdefault("model", "auto")
    kind = _body_of(endpoint)
    asked = with_stand_in(request, parse(kind, orjson.dumps(fields)))
    origin, runtime = origin_of(request), runtime_of(request)
    if isinstance(asked, ResponsesRequest):
        from server.history.turns import turn_of

        unkept = asked.model_copy(update={"store": False, "background": None})
        job = await (await turn_of(runtime, unkept, origin.caller, origin.trace)).job(origin)
    elif isinstance(asked, MessagesRequest):
        from server.history.messages import message_chat

        job = chat_job(await message_chat(asked, origin, runtime), origin)
    else:
        job = JOBS[_capability_of(endpoint)][1](asked, origin)
    remarks = [_EITHER] if open_to_both else []
    remarks += _misspelt(fields, kind, endpoint)
    return Read(job.facts, endpoint, remarks)


def _named(name: Any) -> Capability:
    if isinstance(name, str) and name in set(JOBS):
        return Capability(name)
    raise InvalidRequest(f"'capability' is one of {', '.join(c.value for c in JOBS)}.", param="capability")


def _named_endpoint(name: Any, capability: Capability | None) -> str:
    """The endpoint of this path. Raises InvalidRequest for one that is not explained or lacks the capability."""
    known = [endpoint for endpoints in _ENDPOINTS.values() for endpoint in endpoints]
    path = f"/{name.strip('/')}" if isinstance(name, str) else ""
    found = next((endpoint for endpoint in known if path in (endpoint, endpoint.removeprefix("/v1"))), None)
    if found is None:
        raise InvalidRequest(f"'endpoint' is one of {', '.join(known)}.", param="endpoint")
    if capability is not None and found not in _ENDPOINTS[capability]:
        raise InvalidRequest(f"'{found}' does not have the capability '{capability.value}'.", param="endpoint")
    return found


def _endpoint(fields: Mapping[str, Any], capability: Capability | None) -> str:
    field = next((name for name in _BY_FIELD if name in fields), None)
    if capability is not None:
        could = _ENDPOINTS[capability]
        fitting = tuple(each for each in could if field is not None and each in _BY_FIELD[field])
        return _nearest(fields, fitting or could)
    if field is None:
        raise InvalidRequest(
            "Give the body of the request to explain: 'messages' of a chat, 'input' of a response or of "
            "embeddings, 'prompt', 'documents', 'labels' or 'voice'; 'endpoint' or 'capability' says which where "
            "two have it.",
            param="messages",
        )
    return _nearest(fields, _BY_FIELD[field])


def _nearest(fields: Mapping[str, Any], endpoints: tuple[str, ...]) -> str:
    """The endpoint that knows most of the fields; of equals the first. Items and schemas tell by themselves."""
    if RESPONSES in endpoints and _objects(fields.get("input")):
        return RESPONSES
    if MESSAGES in endpoints and any("input_schema" in tool for tool in _objects(fields.get("tools"))):
        return MESSAGES
    return max(endpoints, key=lambda endpoint: len(fields.keys() & _known(_body_of(endpoint))))


def _objects(value: Any) -> list[Any]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _body_of(endpoint: str) -> type[WireModel]:
    return _OF_CHATS.get(endpoint) or JOBS[_capability_of(endpoint)][0]


def _capability_of(endpoint: str) -> Capability:
    return next(capability for capability, endpoints in _ENDPOINTS.items() if endpoint in endpoints)


def _known(kind: type[WireModel]) -> set[str]:
    fields = kind.model_fields
    return {*fields, *(field.alias for field in fields.values() if field.alias is not None)}


def _only_chats(model: Any, catalog: Catalog) -> bool:
    """Whether a named model chats and makes no embeddings."""
    if not isinstance(model, str) or not catalog.knows(model):
        return False
    capabilities = catalog.resolve(model).capabilities
    return Capability.CHAT in capabilities and Capability.EMBED not in capabilities


_OF_EMBEDDINGS = EmbeddingRequest.model_fields.keys() - {"model", "input", "user"}
"""Fields of a body of embeddings that tell it from one of the Responses API."""
_EITHER = (
    f"It was read as a body of {EMBEDDINGS}; {RESPONSES} takes it, too. Send capability: 'chat' to explain that."
)


def _misspelt(fields: Mapping[str, Any], kind: type[WireModel], endpoint: str) -> Iterable[str]:
    """Remarks on unknown fields whose names are nearly those of known ones: the endpoint passes them on as they
    are.
    """
    known = _known(kind)
    for name in fields.keys() - known - _OWN:
        near = difflib.get_close_matches(name[:80], known, n=1, cutoff=0.8)
        if near:
            yield f"{endpoint} knows no field '{name[:80]}' and passes it on; did you mean '{near[0]}'?"
