"""Client secrets: short-lived keys that open realtime sessions and nothing else.

A server with a key of its own makes one for a browser, with the session's configuration. Only its digest is
stored. Source: OpenAI's API reference, POST /v1/realtime/client_secrets.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from catalog.types import Json
from routing.accounts.virtual_keys import digest_of
from server.callers import Caller
from server.storage.storage import Storage

PREFIX = "ek_"
KIND = "client_secret"


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """The holder of a secret: the id of the key that made it, and a session's configuration as it was sent."""

    owner: str
    session: Json


async def make_secret(storage: Storage, caller: Caller, session: Json, *, seconds: float) -> tuple[str, float]:
    """Store a new secret; returns it and the wall time at which it expires. Raises as :meth:`Storage.keep`."""
    value = PREFIX + secrets.token_urlsafe(32)
    expires = storage.now() + seconds
    record = storage.new(KIND, digest_of(value), {"session": session}, caller, expires_at=expires)
    await storage.keep(record)
    return value, expires


async def find_secret(storage: Storage, presented: str) -> ClientSecret | None:
    """The secret that was presented, unless it is unknown or expired. Raises Unavailable."""
    record = await storage.records.get(KIND, digest_of(presented))
    if record is None or (record.expires_at is not None and record.expires_at <= storage.now()):
        return None
    return ClientSecret(record.owner, record.body["session"])
