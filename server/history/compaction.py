"""Compacted conversations: a summary in an opaque item, sealed for the key that it was made for.

The item's ``encrypted_content`` is the summary with an authentication code (HMAC-SHA256) over the summary and the
caller's id, under a secret of the installation. Another key's, or a changed one, is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import replace
from typing import Any

import orjson

from backends.native import refusal_of
from backends.wire.chat import ChatRequest, TranslatedChat
from backends.wire.responses import OWN_ID
from catalog.errors import InvalidRequest, StreamBroken
from catalog.types import Json
from server.callers import Caller
from server.storage.storage import Storage

NATIVE = "compaction"
"""The language of requests that a provider compacts itself; see :mod:`backends.openai.responses.compaction`."""
_SEAL = "rhc1."
_INSTRUCTIONS = (
    "Summarise the conversation above, so that it can go on from the summary alone. Keep every fact, name, "
    "number, decision, file and open task that later turns may need. Answer with the summary only."
)
_HEADING = "Summary of the conversation so far:\n\n"


def is_own(item: Json) -> bool:
    """Whether an item is a compaction of this kind; one of OpenAI's is for OpenAI alone."""
    content = item.get("encrypted_content")
    return item.get("type") == "compaction" and isinstance(content, str) and content.startswith(_SEAL)


async def sealed(storage: Storage, caller: Caller, summary: str) -> Json:
    """The item with a summary. Raises Unavailable."""
    body = orjson.dumps(summary)
    code = _code(await storage.secret("compaction"), caller, body)
    content = _SEAL + base64.urlsafe_b64encode(code + body).decode()
    return {"id": f"cmp_{OWN_ID}{secrets.token_hex(16)}00", "type": "compaction", "encrypted_content": content}


async def compacted(storage: Storage, caller: Caller, items: list[Json], response: Json) -> Json:
    """OpenAI's answer to a request to compact ``items``: the user's messages and the summary of ``response``.

    Raises StreamBroken for a summary without a text, and Unavailable.
    """
    parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
    summary = "".join(part["text"] for part in parts if part["type"] == "output_text")
    if not summary.strip():
        raise StreamBroken("The model gave no summary. Try again, or choose another model.")
    said = [item for item in items if item["type"] == "message" and item.get("role") == "user"]
    return {
        "id": response["id"],
        "object": "response.compaction",
        "created_at": response["created_at"],
        "output": [*said, await sealed(storage, caller, summary)],
        "usage": response["usage"] or {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
    }


async def opened(storage: Storage, caller: Caller, item: Json) -> Json:
    """The message that stands for a compaction. Raises InvalidRequest for one that was not made for this key."""
    try:
        data = base64.urlsafe_b64decode(item["encrypted_content"][len(_SEAL) :])
    except (binascii.Error, ValueError):
        data = b""
    code, body = data[:32], data[32:]
    if not hmac.compare_digest(code, _code(await storage.secret("compaction"), caller, body)):
        raise InvalidRequest(
            "A compaction item in 'input' was changed, or was not made by this server for this key. Send the "
            "conversation itself, or compact it again.",
            param="input",
        )
    text = _HEADING + orjson.loads(body)
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def _code(secret: bytes, caller: Caller, body: bytes) -> bytes:
    return hmac.digest(secret, caller.id.encode() + b"\0" + body, hashlib.sha256)


def summarising(chat: TranslatedChat, *, natively: bool) -> ChatRequest:
    """The chat that asks for the summary of another. Its model and bound are the other's; tools are not offered.

    ``natively``: a provider that compacts itself gets the caller's own request instead. Raises
    UnsupportedParameter for a conversation with parts that only such a provider can read, if that is not asked.
    """
    refusal = refusal_of(chat)
    if refusal is not None and not natively:
        raise refusal
    messages: list[Any] = [message.model_dump(mode="json", exclude_unset=True) for message in chat.messages]
    gateways = {name: value for name, value in (chat.model_extra or {}).items() if name in ("routing", "strict")}
    body = {**gateways, "model": chat.model, "messages": [*messages, {"role": "user", "content": _INSTRUCTIONS}]}
    if chat.max_completion_tokens is not None:
        body["max_completion_tokens"] = chat.max_completion_tokens
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    if not natively or chat.original is None:
        return ChatRequest.model_validate(asked)
    return TranslatedChat.of(asked, (), frozenset(), replace(chat.original, wire=NATIVE))
