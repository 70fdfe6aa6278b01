"""The figures that the rows measure, kept for the table of :mod:`tests.faults.report`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

OUT = Path(__file__).parents[1] / "bench" / "out" / "faults.json"


def full() -> bool:
    """Whether the full counts and times were asked for (``make faults``); the bounds are the same."""
    return os.environ.get("ROUNDHOUSE_FAULTS") == "full"


def count(quick: int, whole: int) -> int:
    """``whole`` in the full run, else ``quick``."""
    return whole if full() else quick


@dataclass(frozen=True)
class Figure:
    """One measured value and its bound, formatted for the table."""

    row: int
    what: str
    bound: str
    measured: str


@dataclass
class Figures:
    """Collects measured values and asserts their bounds."""

    kept: list[Figure] = field(default_factory=list)

    def note(self, row: int, what: str, *, bound: str, measured: str) -> None:
        """Keep a figure that the test asserts itself."""
        self.kept.append(Figure(row, what, bound, measured))

    def at_most(self, row: int, what: str, measured: float, bound: float, unit: str = "") -> None:
        """Keep a figure, then assert that it is within its bound."""
        self.note(row, what, bound=f"≤ {bound:.6g} {unit}".strip(), measured=f"{measured:.4g} {unit}".strip())
        assert measured <= bound, f"{what}: {measured:.4g} {unit}, more than {bound:.6g}"

    def at_least(self, row: int, what: str, measured: float, bound: float, unit: str = "") -> None:
        """Keep a figure, then assert that it is not below its bound."""
        self.note(row, what, bound=f"≥ {bound:.6g} {unit}".strip(), measured=f"{measured:.6g} {unit}".strip())
        assert measured >= bound, f"{what}: {measured:.4g} {unit}, less than {bound:.6g}"

    def write(self) -> None:
        """Merge the figures into the file of earlier runs; a figure replaces an older one of the same name."""
        known = {(figure.row, figure.what): figure for figure in (*read(), *self.kept)}
        OUT.parent.mkdir(parents=True, exist_ok=True)
        OUT.write_text(json.dumps([asdict(known[key]) for key in sorted(known)], indent=1, ensure_ascii=False))


def read() -> list[Figure]:
    """The figures of earlier runs; none where there are none."""
    if not OUT.exists():
        return []
    return [Figure(**entry) for entry in json.loads(OUT.read_text())]
