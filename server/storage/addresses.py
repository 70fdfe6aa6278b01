"""Addresses of media that name an object of a provider's account, where a public one is meant.

A provider opens such an address with the account's own rights: Gemini its Files API and ``gs://`` (Google's pages
on file input methods), Bedrock ``s3://`` (Converse's S3Location), Kimi ``ms://``, MiniMax ``mm_file://``,
DashScope ``oss://``. The account is shared by all keys, so these count as ids. Public media has the scheme http,
https or data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

_HELD = frozenset(
    {
        *("url", "uri", "image_url", "video_url", "audio_url", "file_url", "document_url", "file_uri", "fileUri"),
        *("s3_uri", "s3Location", "gcs_uri", "gcsUri"),
    }
)
"""Fields of parts whose text is an address."""
_DATA = frozenset({"data", "file_data", "image", "images", "video", "audio", "file"})
"""Fields whose text is data, or an address of any scheme."""
_UNREAD = frozenset(
    {
        *("annotations", "citations", "arguments", "metadata", "parameters", "input_schema", "schema", "results"),
        *("action", "sources", "input", "tabs", "state_changes", "logprobs", "extra_content"),
    }
)
"""Fields within which no address is opened: sources, actions and arguments of tools, notes."""
_CONTAINERS = frozenset({list, dict})
_SCHEME = re.compile(r"\s*([a-z][a-z0-9+.-]*):", re.IGNORECASE | re.ASCII)
_PUBLIC = frozenset({"http", "https", "data"})
_APIS = ("generativelanguage.googleapis.com", "aiplatform.googleapis.com")
"""Hosts of provider APIs that open addresses of their own with the rights of the account."""


def addresses_of(value: Any) -> Iterator[str]:
    """The addresses within parts of a request, those of data among them. Texts are not searched."""
    if isinstance(value, list):
        for each in containers(value):
            yield from addresses_of(each)
    elif isinstance(value, dict):
        for name, held in value.items():
            if isinstance(held, str):
                if name in _HELD:
                    if held:
                        yield held
                elif name in _DATA and value.get("type") != "text" and _is_address(held):
                    yield held
            elif isinstance(held, list | dict) and name not in _UNREAD:
                yield from addresses_of(held)
                if name in _DATA and isinstance(held, list) and str in set(map(type, held)):
                    yield from (each for each in held if isinstance(each, str) and _is_address(each))


def containers(values: list[Any]) -> Iterator[Any]:
    """The lists and objects among the values: a list may have millions of numbers, so most are not looked at."""
    if not _CONTAINERS.isdisjoint(map(type, values)):
        yield from (each for each in values if type(each) in _CONTAINERS)


def names_account(address: str) -> bool:
    """Whether an address is of a provider's account: it has no public scheme, or the host of a provider's API."""
    scheme = _SCHEME.match(address)
    if scheme is None or scheme[1].lower() not in _PUBLIC:
        return True
    if scheme[1].lower() == "data":
        return False
    plain = "".join(unquote(address).lower().split())
    return any(host in plain for host in _APIS)


def _is_address(text: str) -> bool:
    scheme = _SCHEME.match(text)
    return scheme is not None and text.startswith("//", scheme.end())
