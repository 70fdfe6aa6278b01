"""Names of models as Ollama's clients write them.

They add ``:latest`` to a name without a tag. A repository of the hub is ``hf.co/OWNER/REPOSITORY[:QUANTISATION]``.
Source: Ollama's ``types/model/name.go``.
"""

from __future__ import annotations

from collections.abc import Iterable

from catalog.model import HubSource, Model

LATEST = ":latest"
_HUBS = ("hf.co/", "huggingface.co/")


def tagged(name: str) -> str:
    """The name in Ollama's lists: with a tag."""
    return name if ":" in name else name + LATEST


def untagged(name: str) -> str:
    """The name without ``:latest``, in any case; the same name if nothing else is in it."""
    base = name[: -len(LATEST)]
    return base if base and name.casefold().endswith(LATEST) else name


def hub_address(name: str) -> str | None:
    """``OWNER/REPOSITORY[:PATTERN]`` of a name that begins with the hub's; ``None`` for another."""
    for hub in _HUBS:
        if name.casefold().startswith(hub):
            return untagged(name[len(hub) :])
    return None


def of_address(address: str, rows: Iterable[Model]) -> Model | None:
    """The model of a repository, of the quantisation if the address has one."""
    repository, _, wanted = address.casefold().partition(":")
    for row in rows:
        source = row.source
        if isinstance(source, HubSource) and source.repository.casefold() == repository:
            known = ((source.pattern or "").casefold(), (row.size.quantization or "").casefold())
            if not wanted or wanted in known:
                return row
    return None
