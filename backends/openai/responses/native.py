"""The body for a caller that speaks the Responses API itself: its own, but for other providers' items.

A reasoning item that the gateway wrote holds another provider's signed thinking, or none that a server could read;
``extra_content`` holds what another provider's own tool found. The encrypted reasoning of an answer is stamped
with its endpoint on the way to the caller, and goes back to that endpoint alone. The server is asked to store
nothing: what is kept is kept by the gateway, for the key that made it.
"""

from __future__ import annotations

from backends.base import Upstream
from backends.native import refuse_withheld
from backends.parameters import refuse_elsewhere, refuse_forbidden
from backends.streams.sealing import is_encoded, stamped, unstamped
from backends.translation import TranslatedRequest
from backends.wire.chat import Original
from backends.wire.responses import OWN_ID
from catalog.errors import UnsupportedParameter
from catalog.types import Json

_RUN_ELSEWHERE = frozenset({"web_search_call", "code_interpreter_call", "image_generation_call", "mcp_call"})
_SEALED = frozenset({"reasoning", "compaction"})
_OURS = ("routing", "strict", "timings")
_ENCRYPTED = "reasoning.encrypted_content"
"""The part of an answer without which reasoning that is not stored cannot go back."""


def native_request(original: Original, upstream: Upstream) -> TranslatedRequest:
    """The caller's body with the model's name at the upstream, always as a stream that is not stored.

    Raises InvalidRequest for a field that no request may have and for an id that the caller may not name, and
    UnsupportedParameter for a compaction that another endpoint made.
    """
    refuse_forbidden(original.request)
    refuse_elsewhere(original.request, upstream)
    refuse_withheld(original)
    body = original.request.to_wire(model=upstream.model, stream=True, store=False, **dict.fromkeys(_OURS))
    if upstream.reasons and _ENCRYPTED not in (body.get("include") or ()):
        body["include"] = [*(body.get("include") or ()), _ENCRYPTED]
    given = body["input"]
    if not isinstance(given, list):
        return TranslatedRequest(body)
    for item in given:
        made_by = unstamped(item.get("encrypted_content"))[0] if item.get("type") == "compaction" else None
        if made_by not in (None, upstream.endpoint):
            raise UnsupportedParameter(
                f"A compaction item in 'input' was made by the endpoint '{made_by}', which alone can read it. "
                "Choose a model of that endpoint, or send the conversation itself.",
                param="input",
            )
    foreign = [str(item["type"]) for item in given if _is_foreign(item, upstream)]
    body["input"] = [_plain(item) for item in given if not _is_foreign(item, upstream)]
    return TranslatedRequest(body, tuple(dict.fromkeys(f"input.{kind}" for kind in foreign)))


def stamp_reasoning(event: Json, upstream: Upstream) -> Json:
    """The event, with the endpoint's stamp on the encrypted reasoning in it."""
    response = event.get("response")
    held = [event.get("item"), *((response.get("output") or ()) if isinstance(response, dict) else ())]
    for item in held:
        stamp(item, upstream)
    return event


def stamp(item: object, upstream: Upstream) -> None:
    """Stamp the encrypted content of an item with its endpoint, if only that can read it."""
    if isinstance(item, dict) and item.get("type") in _SEALED and item.get("encrypted_content"):
        item["encrypted_content"] = stamped(str(item["encrypted_content"]), upstream.endpoint)


def _is_foreign(item: Json, upstream: Upstream) -> bool:
    """Whether an item is of an answer by another API or endpoint: reasoning, or what its own tool found.

    Reasoning of which the caller has the summary alone is stored nowhere.
    """
    kind = item.get("type")
    if kind == "reasoning":
        sealed = item.get("encrypted_content")
        if not sealed and not item.get("content"):
            return True
        if is_encoded(sealed) or str(item.get("id")).startswith(f"rs_{OWN_ID}"):
            return True
        return unstamped(sealed)[0] not in (None, upstream.endpoint)
    return kind in _RUN_ELSEWHERE and "extra_content" in item


def _plain(item: Json) -> Json:
    """The item without the gateway's stamp, and without Google's signature in ``extra_content``."""
    stamp, own = unstamped(item.get("encrypted_content"))
    if stamp is not None:
        item = {**item, "encrypted_content": own}
    if "extra_content" not in item:
        return item
    return {name: value for name, value in item.items() if name != "extra_content"}
