"""Names of models as Ollama's clients write them.

They add ``:latest`` to a name without a tag, and look for that name in the list of models. A repository of the
hub is ``hf.co/OWNER/REPOSITORY[:QUANTISATION]``. Source: Ollama's ``types/model/name.go``.
"""

from __future__ import annotations

from catalog.catalog import Catalog
from catalog.model import HubSource, Model
from routing.reading.intent import is_auto

LATEST = ":latest"
_HUBS = ("hf.co/", "huggingface.co/")


def tagged(name: str) -> str:
    """The name in Ollama's lists: with a tag."""
    return name if ":" in name else name + LATEST


def own_name(name: str, catalog: Catalog) -> str:
    """The catalogue's name of the model that a client of Ollama calls ``name``; the same name if it has none."""
    address = hub_address(name)
    if address is not None:
        row = _pulled(address, catalog)
        return name if row is None else row.id
    base = name[: -len(LATEST)]
    if name.casefold().endswith(LATEST) and base and (is_auto(base) or not catalog.knows(name)):
        return base
    return name


def hub_address(name: str) -> str | None:
    """``OWNER/REPOSITORY[:PATTERN]`` of a name that begins with the hub's; ``None`` for another."""
    for hub in _HUBS:
        if name.casefold().startswith(hub):
            address = name[len(hub) :]
            return address[: -len(LATEST)] if address.casefold().endswith(LATEST) else address
    return None


def _pulled(address: str, catalog: Catalog) -> Model | None:
    """The model of a repository, of the quantisation if the address has one."""
    repository, _, wanted = address.casefold().partition(":")
    for row in catalog:
        source = row.source
        if isinstance(source, HubSource) and source.repository.casefold() == repository:
            known = ((source.pattern or "").casefold(), (row.size.quantization or "").casefold())
            if not wanted or wanted in known:
                return row
    return None
