"""The body for a caller that speaks the Responses API itself: its own, but for other providers' items.

A reasoning item that the gateway wrote holds another provider's signed thinking, or none that a server could read;
``extra_content`` holds what another provider's own tool found.
"""

from __future__ import annotations

from backends.base import Upstream
from backends.parameters import refuse_forbidden
from backends.streams.sealing import is_encoded
from backends.translation import TranslatedRequest
from backends.wire.chat import Original
from backends.wire.responses import OWN_ID
from catalog.types import Json

_RUN_ELSEWHERE = frozenset({"web_search_call", "code_interpreter_call", "image_generation_call", "mcp_call"})
_OURS = ("routing", "strict", "timings")


def native_request(original: Original, upstream: Upstream) -> TranslatedRequest:
    """The caller's body with the model's name at the upstream, always as a stream.

    Raises InvalidRequest for a field that no request may have.
    """
    refuse_forbidden(original.request)
    body = original.request.to_wire(model=upstream.model, stream=True, **dict.fromkeys(_OURS))
    given = body["input"]
    if not isinstance(given, list):
        return TranslatedRequest(body)
    foreign = [str(item["type"]) for item in given if _is_foreign(item)]
    body["input"] = [_plain(item) for item in given if not _is_foreign(item)]
    return TranslatedRequest(body, tuple(dict.fromkeys(f"input.{kind}" for kind in foreign)))


def _is_foreign(item: Json) -> bool:
    """Whether an item is the gateway's own, of an answer by another API: reasoning, or what its own tool found."""
    kind = item.get("type")
    if kind == "reasoning":
        return is_encoded(item.get("encrypted_content")) or str(item.get("id")).startswith(f"rs_{OWN_ID}")
    return kind in _RUN_ELSEWHERE and "extra_content" in item


def _plain(item: Json) -> Json:
    """The item without Google's signature, which the gateway keeps in ``extra_content``."""
    if "extra_content" not in item:
        return item
    return {name: value for name, value in item.items() if name != "extra_content"}
