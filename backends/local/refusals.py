"""The refusals of workers as typed errors."""

from __future__ import annotations

import re
from collections.abc import Mapping

from backends.base import Upstream
from backends.http.errors import error_details, read_error
from catalog.errors import CapabilityMismatch, InvalidRequest, RoundhouseError
from catalog.model import Capability

_NO_MEDIA = ("image input is not supported", "audio input is not supported", "video input is not supported")


_TEMPLATE_SAYS = re.compile(r"\bJinja Exception: (.+)", re.DOTALL)
"""The words of a template that refuses a conversation, after the place in its source."""


def worker_error(status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream) -> RoundhouseError:
    """The typed error of a worker's refusal. llama-server answers 500 to media that its model does not take, and
    quotes its template's source where that refuses the messages."""
    if status == 500:
        message = error_details(body).message
        if message.startswith(_NO_MEDIA):
            kind = message.partition(" ")[0]
            error = CapabilityMismatch(f"The model '{upstream.model}' takes no {kind} input.", param="messages")
            error.lacks = frozenset({Capability.VISION if kind == "image" else f"{kind}_input"})
            return error
    elif status == 400 and (said := _TEMPLATE_SAYS.search(error_details(body).message)):
        return InvalidRequest(
            f"The chat template of '{upstream.model}' does not take these messages: {said[1][:300]} It has rules "
            "for the order of roles, mostly a user's message first and an answer after each.",
            param="messages",
        )
    return read_error(status, headers, body, upstream)
