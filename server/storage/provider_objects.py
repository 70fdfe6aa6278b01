"""Ids and addresses in a request that name objects of a provider's account, which all keys share.

They may go to a provider only for its account's own operator, or if the settings list them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

from backends.fetch import leads_inside
from backends.native import no_object
from backends.wire.chat import Message
from catalog.errors import InvalidRequest
from catalog.types import Json
from server.callers import Caller
from server.storage.addresses import addresses_of, containers, names_account
from server.storage.storage import Storage

_HOLDERS = frozenset({"input_file", "input_image", "file", "container_upload", "computer_screenshot"})
"""Types of parts and sources that may name a file. A citation names one, too, but asks for nothing."""


_IDS = frozenset(
    {
        *("file_id", "file_ids", "vector_store_ids", "container", "container_id", "skill_id"),
        *("audio", "voice", "prompt", "previous_message_id"),
        *("previous_response_id", "response_id", "conversation", "conversation_id", "thread", "thread_id"),
        *("assistant", "assistant_id", "agent_id", "run_id", "prompt_id", "context_management", "context_id"),
        *("cached_content", "cachedContent", "cache_id", "files", "input_file_id", "skill_ids", "container_ids"),
        *("vector_store", "vector_stores", "vector_store_id", "collection_id", "collection_ids", "dataset_id"),
        *("knowledge_base_id", "knowledge_base_ids", "knowledge_id", "attachments"),
    }
)
"""Fields that name objects of a provider's account: an id, several, or objects with an ``id``."""
_NAMES_TOO = frozenset({"audio", "voice", "prompt"})
"""Those of them whose plain text is no id."""
_OFFERED = frozenset({"type", "skill_id", "version"})
"""Fields of a skill that Anthropic itself offers to every account."""
_UNREAD = frozenset({"annotations", "arguments", "metadata", "parameters", "input_schema", "schema", "results"})
"""Fields within which nothing is asked of a provider: sources, schemas, arguments, findings, notes."""


def may_name(storage: Storage, caller: Caller, name: str) -> bool:
    """Whether a caller may name an object of a provider's account: an admin any, others the listed ones."""
    return caller.admin or any(fnmatchcase(name, pattern) for pattern in storage.settings.provider_ids)


def withheld(storage: Storage, caller: Caller, *parts: Any, filed: Any = ()) -> str | None:
    """The first id within parts of a request that names an object at a provider which the caller may not name.

    ``filed`` are parts whose files :func:`with_files` has seen to.
    """
    found = first_withheld(storage, caller, parts, filed)
    return None if found is None else found[1]


def refuse_objects(storage: Storage, caller: Caller, fields: Json) -> None:
    """Raises InvalidRequest if fields beyond a request's API name an object that the caller may not name."""
    refuse(first_withheld(storage, caller, [fields]))
    refuse_addresses(storage, caller, fields)


def refuse_addresses(storage: Storage, caller: Caller, *parts: Any) -> None:
    """Raises InvalidRequest for an address in parts of a request that opens what the caller may not name.

    That is an object of a provider's account, and for every caller a host of a private network.
    """
    for part in parts:
        for address in addresses_of(part):
            if names_account(address):
                if not may_name(storage, caller, address):
                    raise InvalidRequest(
                        f"{address[:100]!r} is no public address: it names an object of the provider's account, "
                        "which all keys share. Send the data itself or an https:// address. The operator can list "
                        "it in storage.provider_ids."
                    )
            elif leads_inside(address, storage.hosts):
                raise InvalidRequest(
                    f"{address[:100]!r} leads to a private network, and is given to no model. Send the data "
                    "itself as a data: URL. The operator can list the host in [backends.fetch]."
                )


def refuse_in_texts(storage: Storage, caller: Caller, messages: Iterable[Message]) -> None:
    """Raises InvalidRequest if the text of a system message has the address of a file that may not be named.

    DashScope's qwen-long reads files so: ``fileid://`` and the id, in a system message.
    """
    if caller.admin:
        return
    for message in messages:
        if message.role not in _OF_SYSTEM or message.content is None:
            continue
        parts = message.content
        for text in [parts] if isinstance(parts, str) else [part.text for part in parts if part.text]:
            if "://" not in text or "fileid://" not in text.lower():
                continue  # the pattern takes ten times as long
            for found in _FILE_IN_TEXT.finditer(text):
                if not any(may_name(storage, caller, name) for name in (found[0], found[1])):
                    raise no_object(found[0], "messages")


_OF_SYSTEM = frozenset({"system", "developer"})
_FILE_IN_TEXT = re.compile(r"fileid://([\w.-]+)", re.ASCII | re.IGNORECASE)


def first_withheld(
    storage: Storage, caller: Caller, parts: Iterable[Any], filed: Any = ()
) -> tuple[str, str] | None:
    ids = chain((pair for part in parts for pair in _ids(part, filed=False)), _ids(filed, filed=True))
    return next(((field, name) for field, name in ids if not may_name(storage, caller, name)), None)


def refuse(found: tuple[str, str] | None) -> None:
    if found is not None:
        raise no_object(found[1], found[0])


def _ids(value: Any, *, filed: bool) -> Iterator[tuple[str, str]]:
    """The fields that name objects of a provider's account, each with its id."""
    if isinstance(value, list):
        for each in containers(value):
            yield from _ids(each, filed=filed)
    elif isinstance(value, dict):
        if value.get("type") == "anthropic" and value.keys() <= _OFFERED:
            return
        done = holder(value) if filed else None
        for name, held in value.items():
            if name in _IDS and not (done is value and name == "file_id"):
                yield from ((name, one) for one in _named_by(name, held))
            if name not in _UNREAD and held is not done and isinstance(held, list | dict):
                yield from _ids(held, filed=filed)


def _named_by(field: str, held: Any) -> Iterator[str]:
    match held:
        case str() if field not in _NAMES_TOO:
            yield held
        case list():
            yield from (one for one in held if isinstance(one, str))
            yield from (one["id"] for one in held if isinstance(one, dict) and isinstance(one.get("id"), str))
        case {"id": str(name)}:
            yield name


def file_ids(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for each in containers(value):
            yield from file_ids(each)
    elif isinstance(value, dict):
        name = holder(value).get("file_id")
        if isinstance(name, str) and name:
            yield name
        for held in containers(list(value.values())):
            yield from file_ids(held)


def holder(part: Json) -> Json:
    """The object with the ``file_id`` of a part, which a chat has within; an empty one if the part names none."""
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in _HOLDERS:
        return {}
    inner = part.get("file")
    return inner if isinstance(inner, dict) else part
