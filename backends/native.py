"""Requests whose caller and provider speak the same language: the original body is sent, not a translation.

A door keeps what it read in :class:`~backends.wire.chat.Original`, beside the chat that the router reads. A
backend that speaks that language (:class:`Native`) sends it, and yields chunks that carry the provider's own
events (:mod:`backends.streams.native`).
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from backends.base import Upstream
from backends.wire.chat import Original, TranslatedChat
from backends.wire.common import WireModel
from catalog.errors import InvalidRequest, UnsupportedParameter


@runtime_checkable
class Native(Protocol):
    """``speaks``: requests of a language ("messages", "responses") go to this upstream as they are."""

    def speaks(self, wire: str, upstream: Upstream) -> bool: ...


def original_for(backend: Any, request: WireModel, upstream: Upstream) -> Original | None:
    """The caller's own request if this backend sends it on; None if it sends the translation."""
    if not isinstance(request, TranslatedChat) or request.original is None or not isinstance(backend, Native):
        return None
    return request.original if backend.speaks(request.original.wire, upstream) else None


def refuse_withheld(original: Original) -> None:
    """Raises InvalidRequest for a request that names an object of the provider's which its caller may not name."""
    if original.withheld is not None:
        raise no_object(original.withheld)


def no_object(name: str, param: str | None = None) -> InvalidRequest:
    """The refusal of an id that the caller may not name."""
    return InvalidRequest(
        f"Nothing has the id {name[:100]!r} for this key. If it is an object of a provider's account, which all "
        "keys share, the operator can list it in storage.provider_ids.",
        param=param,
    )


def refusal_of(request: WireModel) -> UnsupportedParameter | None:
    """The error of a request whose translation would lose something that it cannot be answered without."""
    if not isinstance(request, TranslatedChat) or request.original is None or request.original.refusal is None:
        return None
    message, param = request.original.refusal
    return UnsupportedParameter(message, param=param)
