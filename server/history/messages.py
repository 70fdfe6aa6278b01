"""A request of Anthropic's Messages API as a chat, with the caller's own files in it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from backends.wire.chat import TranslatedChat
from backends.wire.messages import CountTokensRequest, MessagesRequest
from catalog.errors import NotPermitted
from server.callers import Origin
from server.history.files import with_files
from server.runtime import Runtime
from server.storage.provider_objects import refuse_addresses, withheld
from server.wires.messages import to_chat
from server.wires.web_search import can_search


async def message_chat(
    body: MessagesRequest | CountTokensRequest,
    origin: Origin,
    runtime: Runtime,
    query: Mapping[str, str] = MappingProxyType({}),
) -> TranslatedChat:
    """The chat of a request.

    Raises InvalidRequest for a malformed one and for an address that the caller may not name, NotFound and
    PayloadTooLarge for a file in it.
    """
    contents: list[Any] = [message.content for message in body.messages]
    if any(isinstance(content, list) for content in contents):
        filed = await with_files(contents, runtime, origin.caller)
        if filed is not contents:
            messages = [
                message.model_copy(update={"content": content})
                for message, content in zip(body.messages, filed, strict=True)
            ]
            body = body.model_copy(update={"messages": messages})
        refuse_addresses(runtime.storage, origin.caller, contents)
    extras = body.model_extra or {}
    if extras.get("fallbacks") and origin.caller.key is not None and origin.caller.key.models:
        raise NotPermitted(
            "This key may use some models only, and 'fallbacks' lets others answer. Leave it out.",
            param="fallbacks",
        )
    held = withheld(runtime.storage, origin.caller, extras)
    searches = partial(can_search, runtime=runtime, caller=origin.caller)
    return to_chat(body, origin.headers, query, searches=searches, withheld=held)
