"""Addresses of the Hugging Face hub as people write and paste them.

All of these name a repository: ``hub:OWNER/NAME``, ``hf.co/OWNER/NAME:Q4_K_M``, ``https://huggingface.co/OWNER/NAME``,
``.../tree/REVISION``, ``.../blob/REVISION/FILE``, ``hf://OWNER/NAME/FILE``, and plain ``OWNER/NAME[:PATTERN]``.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
_SCHEMES = ("hub:", "hf://", "huggingface://", "hf:")
_NAME = re.compile(r"\w[\w.-]*")
_PAGES = frozenset({"tree", "blob", "resolve", "raw", "commit"})


class Address(NamedTuple):
    """A repository of the hub; ``pattern`` is a quantisation, file or glob, ``revision`` a branch or commit."""

    repository: str
    pattern: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        return self.repository if self.pattern is None else f"{self.repository}:{self.pattern}"


def address_of(text: str) -> Address | None:
    """The address that ``text`` is, or ``None``: a plain name, another host, or no repository."""
    rest, explicit = _without_scheme(text.strip())
    if rest is None:
        return None
    rest, _, tag = rest.partition(":")
    parts = [part for part in rest.split("/") if part]
    if rest.startswith("/") or len(parts) < 2 or not all(_NAME.fullmatch(part) for part in parts[:2]):
        return None
    further, revision = parts[2:], None
    if further and further[0] in _PAGES:
        revision, further = (further[1] if len(further) > 1 else None), further[2:]
    elif further and not (explicit or further[-1].lower().endswith(".gguf")):
        return None
    if tag.casefold() == "latest":
        tag = ""
    return Address("/".join(parts[:2]), "/".join(further) or tag or None, revision)


def is_explicit(text: str) -> bool:
    """Whether ``text`` names the hub itself, so that it can be no id of the catalogue."""
    rest, explicit = _without_scheme(text.strip())
    return rest is not None and explicit


def _without_scheme(text: str) -> tuple[str | None, bool]:
    """The path after the hub's name, without a query, and whether it was there; ``None`` for another host."""
    if "://" in text and not text.casefold().startswith(_SCHEMES):
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or (parts.hostname or "") not in _HOSTS:
            return None, False
        return unquote(parts.path).strip("/"), True
    for scheme in _SCHEMES:
        if text.casefold().startswith(scheme):
            return text[len(scheme) :].strip("/"), True
    host, separator, rest = text.partition("/")
    if separator and host.casefold() in _HOSTS:
        return unquote(rest.partition("?")[0]).strip("/"), True
    return text, False
