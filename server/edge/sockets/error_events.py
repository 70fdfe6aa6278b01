"""An error as the event that a session's client reads."""

from __future__ import annotations

from secrets import token_hex

import orjson

from catalog.errors import RoundhouseError


def error_text(error: RoundhouseError) -> bytes:
    """The JSON of an ``error`` event that no event of the client's has caused."""
    return orjson.dumps({"type": "error", "event_id": f"event_{token_hex(10)}", **error.to_body()})
