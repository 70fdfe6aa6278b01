"""The lines of a batch that become one batch of a provider, and the files that they are read from."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import orjson

from backends.deferred.api import BatchLine
from catalog.errors import BudgetExceeded, RoundhouseError, UpstreamError
from catalog.types import Json
from server.batches.journal import Lines
from server.batches.lines import Line


@dataclass(slots=True)
class Group:
    """Lines that are, or become, one batch of a provider. ``told`` is what the record knows of it."""

    told: Json
    path: Path
    numbers: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        name: str = self.told["name"]
        return name


@dataclass(slots=True)
class Spool:
    group: Group
    file: IO[bytes]
    size: int = 0


class AllBut(Container[int]):
    """Every number but those in ``kept`` that are not in ``taken``."""

    def __init__(self, kept: Lines, taken: Lines) -> None:
        self._kept = kept
        self._taken = taken

    def __contains__(self, number: object) -> bool:
        return not isinstance(number, int) or number not in self._kept or number in self._taken


class InputLines:
    """Lines of the input by their numbers."""

    def __init__(self, path: Path, numbers: Sequence[int]) -> None:
        """Reads the whole file once, to find the places. Raises OSError."""
        wanted = set(numbers)
        self._at: dict[int, int] = {}
        self._file = path.open("rb")
        at = 0
        for number, row in enumerate(self._file, start=1):
            if number in wanted:
                self._at[number] = at
            at += len(row)

    def close(self) -> None:
        self._file.close()

    def __contains__(self, number: int) -> bool:
        return number in self._at

    def read(self, number: int) -> Line:
        self._file.seek(self._at[number])
        return Line(number, self._file.readline())


def _rows(path: Path) -> Iterator[tuple[int, bytes]]:
    """The numbers and bodies of the lines of one batch of a provider."""
    with path.open("rb") as file:
        for row in file:
            number, _, body = row.partition(b" ")
            yield int(number), body


def hold_of(group: Group) -> str:
    """The name of the money that is reserved for a group since ``reserved_at``."""
    return f"{group.name}@{group.told['reserved_at']}"


def sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def numbers_in(path: Path) -> list[int]:
    return [number for number, _ in _rows(path)]


def lines_of(group: Group) -> list[BatchLine]:
    return [BatchLine(custom_id_of(group, number), orjson.loads(body)) for number, body in _rows(group.path)]


def custom_id_of(group: Group, number: int) -> str:
    return f"{group.name}-{number}"


def number_of(group: Group, custom_id: str) -> int | None:
    """The number of the line that a custom id of this batch stands for."""
    name, _, number = custom_id.rpartition("-")
    return int(number) if name == group.name and number.isdecimal() else None


def note_missing(told: Json, lines: int, *, fallback: bool, beyond: bool = False) -> None:
    """Note how many lines of a group are refused, or asked at the full price (``fallback``)."""
    if beyond:
        told["refused"], told["beyond"] = lines, True
    else:
        told["live" if fallback else "refused"] = lines


def refusal_of(told: Json) -> RoundhouseError | None:
    """The error of a group's lines that are not asked one by one; ``None`` if they are."""
    why = str(told.get("failure") or "The provider's batch has no result for this line.").rstrip(".")
    if told.get("beyond"):
        return BudgetExceeded(f"{why}. The line was not asked at the full price, which is higher.")
    if told.get("refused"):
        return UpstreamError(f"{why}. The settings forbid to ask it at the full price (storage.batch_fallback).")
    return None


def notice_of(groups: Sequence[Json]) -> str | None:
    """A sentence about the lines that the batches of providers did not answer, and why; ``None`` without any."""
    told = [
        f"{count} lines were {what}"
        for name, what in (("live", "asked one by one, at the full price"), ("refused", "refused"))
        if (count := sum(group.get(name, 0) for group in groups))
    ]
    if not told:
        return None
    reasons = dict.fromkeys(
        group.get("failure") or "The provider has no result for them."
        for group in groups
        if group.get("live") or group.get("refused")
    )
    return f"Not answered by the provider's batch API: {' and '.join(told)}. {' '.join(list(reasons)[:3])}"[:1000]
