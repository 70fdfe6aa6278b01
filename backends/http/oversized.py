"""Tells a request beyond a whole limit of tokens a minute from one that comes while the limit is used up."""

from __future__ import annotations

import re

from backends.base import Upstream
from catalog.errors import ContextLengthExceeded

_NUMBERS = re.compile(r"\blimit:? ?([\d,]+)\b.{0,40}?\brequested:? ?([\d,]+)", re.IGNORECASE | re.DOTALL)
"""As OpenAI and Groq say it: "Limit 30000, Requested 41250", with "Used 9500" between them in a busy minute."""


def oversized(text: str, message: str, upstream: Upstream) -> ContextLengthExceeded | None:
    """The error of a request that no wait makes fit, by the provider's ``text``; None for any other.

    Only this request is at fault: neither the endpoint nor its key has to rest. ``message`` is ``text`` scrubbed.
    """
    found = _NUMBERS.search(text)
    if found is None:
        return None
    limit, requested = (int(number.replace(",", "")) for number in found.groups())
    if requested <= limit:
        return None
    error = ContextLengthExceeded.told(
        f"The request is larger than all that the endpoint '{upstream.endpoint}' takes of '{upstream.model}' in a "
        f"minute: {message}"
    )
    error.limit, error.requested = limit, requested
    return error
