"""The figures of a benchmark, and how they are shown: a table, a JSON file, a picture."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class Bound:
    """The bound of a figure."""

    kind: Literal["<=", ">="]
    value: float

    def kept(self, figure: float) -> bool:
        """Whether ``figure`` keeps to it."""
        return figure <= self.value if self.kind == "<=" else figure >= self.value

    def __str__(self) -> str:
        return f"{self.kind} {self.value:g}"


def at_most(value: float) -> Bound:
    """A figure may be so large."""
    return Bound("<=", value)


def at_least(value: float) -> Bound:
    """A figure must be so large."""
    return Bound(">=", value)


@dataclass(frozen=True)
class Figure:
    """One measured figure; ``beside`` holds its parts by contestant, all from one run.

    ``value`` is ``None`` for a comparison that was not made; then ``reason`` says why.
    """

    name: str
    value: float | None
    unit: str = ""
    bound: Bound | None = None
    beside: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""

    @property
    def missed(self) -> bool:
        """Whether it has a bound and does not keep to it."""
        return self.bound is not None and self.value is not None and not self.bound.kept(self.value)


@dataclass(frozen=True)
class Report:
    """The figures of one benchmark. ``note`` is for the reader; ``failed`` is the reason of a failure."""

    name: str
    title: str
    figures: tuple[Figure, ...] = ()
    note: str = ""
    failed: str = ""

    @property
    def missed(self) -> tuple[Figure, ...]:
        """The figures that miss their bound."""
        return tuple(figure for figure in self.figures if figure.missed)


def show(report: Report, console: Console) -> None:
    """Print a report."""
    table = Table(title=report.title, header_style="bold", title_justify="left")
    table.add_column("figure")
    for column in ("side by side", "value", "bound", ""):
        table.add_column(column, justify="right")
    for figure in report.figures:
        bound = "" if figure.bound is None else str(figure.bound)
        if figure.value is None:
            table.add_row(figure.name, f"not compared: {escape(figure.reason)}", "", bound, "")
            continue
        verdict = "" if figure.bound is None else "[red]missed" if figure.missed else "[green]ok"
        beside = "\n".join(f"{name} {value:.4g}" for name, value in figure.beside.items())
        table.add_row(figure.name, beside, f"{figure.value:.4g} {figure.unit}".strip(), bound, verdict)
    if report.figures:
        console.print(table)
    if report.note:
        console.print(f"{report.name}: {report.note}", markup=False)


def save(report: Report, folder: Path, *, quick: bool = False) -> None:
    """Write a report, and the machine's load while it was made, as ``NAME.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "benchmark": report.name,
        "title": report.title,
        "note": report.note,
        "failed": report.failed,
        "quick": quick,
        "load_average": os.getloadavg(),
        "cores": os.cpu_count(),
        "figures": [
            {
                "name": figure.name,
                "value": figure.value,
                "unit": figure.unit,
                "bound": None if figure.bound is None else str(figure.bound),
                "missed": figure.missed,
                "beside": dict(figure.beside),
                "reason": figure.reason,
            }
            for figure in report.figures
        ],
    }
    (folder / f"{report.name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Report:
    """Read a report that :func:`save` wrote. Raises OSError, ValueError."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    figures = tuple(
        Figure(
            name=found["name"],
            value=found["value"],
            unit=found["unit"],
            bound=None if found["bound"] is None else _bound(found["bound"]),
            beside=found["beside"],
            reason=found["reason"],
        )
        for found in document["figures"]
    )
    return Report(document["benchmark"], document["title"], figures, document["note"], document["failed"])


def _bound(text: str) -> Bound:
    kind, _, value = text.partition(" ")
    return Bound(cast("Literal['<=', '>=']", kind), float(value))


def draw(report: Report, folder: Path) -> None:
    """Draw the figures that have something beside them as ``NAME.png``; needs matplotlib."""
    drawn = [figure for figure in report.figures if figure.beside and figure.value is not None]
    if drawn:
        _draw(report, drawn, folder / f"{report.name}.png")


def _draw(report: Report, figures: list[Figure], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = 3
    rows = -(-len(figures) // columns)
    picture, axes = plt.subplots(rows, columns, figsize=(5 * columns, 2.2 * rows + 0.6), squeeze=False)
    for place in axes.flat[len(figures) :]:
        place.axis("off")
    for place, figure in zip(axes.flat, figures, strict=False):
        names, values = list(figure.beside), list(figure.beside.values())
        place.barh(names, values, color=["tab:orange" if name == "Roundhouse" else "tab:grey" for name in names])
        if min(values) > 0 and max(values) > 30 * min(values):
            place.set_xscale("log")
        bound = "" if figure.bound is None else f" (bound {figure.bound})"
        place.set_title(f"{figure.name}: {figure.value:.3g} {figure.unit}{bound}", fontsize=8)
        place.invert_yaxis()
    picture.suptitle(report.title)
    picture.tight_layout()
    picture.savefig(path, dpi=110)
    plt.close(picture)
