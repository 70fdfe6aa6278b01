"""Filters of the catalogue, for ``GET /v1/models`` and ``roundhouse list``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from catalog.model import Capability, Model

_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,6})?)\s*(?:([kmgt])(i?)b?|b)?", re.IGNORECASE)
_GENERATE = frozenset({Capability.CHAT, Capability.COMPLETION})
_WORKING = 1.2
_RUNTIME = 200 * 2**20
"""Of an estimate from the files' size: working memory as a factor, and bytes of an inference library."""


def bytes_of_text(value: object) -> object:
    """Read a size: ``8GB`` (decimal), ``8GiB`` (binary), a number of bytes. Raises ValueError for another text."""
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise ValueError("it must be a size, such as 8GB, 8GiB or a number of bytes")
    unit = "kmgt".find((found[2] or "-").lower()) + 1
    return int(float(found[1]) * (1024 if found[3] else 1000) ** unit)


_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\d"}]}
ByteSize = Annotated[int, Field(ge=0, le=2**60), BeforeValidator(bytes_of_text), WithJsonSchema(_SCHEMA)]


class ModelFilter(BaseModel):
    """Selects models; a model with an unknown figure fails a filter on it.

    ``capability`` and ``tags`` are lists, all of whose members a model needs. ``max_memory`` bounds the memory of
    a model of this machine, as bytes or such as ``8GB``; ``max_price`` bounds the dollars per million tokens, of
    input and of output.
    """

    capability: list[Capability] | None = Field(default=None, max_length=32)
    local: bool | None = None
    provider: str | None = Field(default=None, max_length=256)
    tags: list[Annotated[str, Field(max_length=256)]] | None = Field(default=None, max_length=32)
    max_memory: ByteSize | None = None
    max_price: float | None = Field(default=None, ge=0, le=1e9, allow_inf_nan=False)

    @property
    def filters(self) -> bool:
        """Whether anything is filtered."""
        return any(getattr(self, name) is not None for name in ModelFilter.model_fields)

    def passes(self, row: Model) -> bool:
        """Whether a row passes every filter."""
        return (
            row.capabilities.issuperset(self.capability or ())
            and (self.local is None or row.local == self.local)
            and (self.provider is None or row.provider.lower() == self.provider.lower())
            and row.tags.issuperset(self.tags or ())
            and (self.max_memory is None or _at_most(memory_of(row), self.max_memory))
            and (self.max_price is None or _at_most(_price_of(row), self.max_price))
        )

    def select(self, rows: Iterable[Model]) -> list[Model]:
        """The rows that pass, in their order."""
        return [row for row in rows if self.passes(row)]


def memory_of(row: Model) -> int | None:
    """The bytes that a local model takes when it is loaded, estimated from its files if the row has no figure."""
    if not row.local:
        return None
    if row.size.memory is not None:
        return row.size.memory
    return None if row.size.disk is None else int(_WORKING * row.size.disk) + _RUNTIME


def _price_of(row: Model) -> float | None:
    """The higher of a row's prices per million tokens; that of the answer counts where tokens are generated."""
    prices = [row.price.input]
    if row.price.output is not None or row.capabilities & _GENERATE:
        prices.append(row.price.output)
    known = [price for price in prices if price is not None]
    return max(known) if len(known) == len(prices) else None


def _at_most(value: float | None, limit: float) -> bool:
    return value is not None and value <= limit
