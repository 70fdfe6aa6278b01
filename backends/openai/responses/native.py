"""The body for a caller that speaks the Responses API itself: its own, but for other providers' reasoning.

A reasoning item that the gateway wrote holds another provider's signed thinking, or none that a server could read.
"""

from __future__ import annotations

from backends.base import Upstream
from backends.parameters import refuse_forbidden
from backends.streams.sealing import is_encoded
from backends.translation import TranslatedRequest
from backends.wire.chat import Original
from catalog.types import Json

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
    kept = [_plain(item) for item in given if not _is_foreign(item)]
    body["input"] = kept
    return TranslatedRequest(body, ("input.reasoning",) if len(kept) < len(given) else ())


def _is_foreign(item: Json) -> bool:
    """Whether a reasoning item is the gateway's own, of an answer by another API."""
    return item.get("type") == "reasoning" and is_encoded(item.get("encrypted_content"))


def _plain(item: Json) -> Json:
    """The item without Google's signature, which the gateway keeps in ``extra_content``."""
    if "extra_content" not in item:
        return item
    return {name: value for name, value in item.items() if name != "extra_content"}
