"""Writes ``docs/FEATURES.md``: ``python -m tests.conformance.features.table``."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from server.observability.logging import configure_structlog
from server.observability.settings import LogSettings
from tests.conformance.features.probe import PROVIDERS, Cell, Gateway, Treatment, gateway
from tests.conformance.features.samples import DOORS

PAGE = Path(__file__).parents[3] / "docs" / "FEATURES.md"
_HEAD = """# What each provider does with each parameter

Every parameter of the official SDKs' request types, sent through each door to each provider that serves it.
`make features` writes this page by asking the real app before strict fakes of the providers, and a test compares
it.

- **native**: the provider gets it under its own name, as it was written.
- **mapped**: the provider gets it in its own terms. Parts that it lacks stand beside it, and in the answer's
  `x-roundhouse-dropped`.
- **named**: it is left out, and `x-roundhouse-dropped` says so; `strict` refuses the request.
- **refused**: a 4xx that says why, because the answer would be another without it.
- **gateway**: the gateway itself does it.

The column llama.cpp is a local model, where "mapped" is what the gateway emulates. The other engines of this
machine (vectors, speech, transcripts, pictures) name what they leave out in the same header.
"""


async def cells(asking: Gateway) -> dict[tuple[str, str, str], Cell]:
    """Every cell by door, sample and provider."""
    return {
        (name, sample.name, provider.name): await asking.cell(name, sample, provider)
        for name, door in DOORS.items()
        for sample in door.samples
        for provider in PROVIDERS
        if provider.serves(name)
    }


def page(found: dict[tuple[str, str, str], Cell]) -> str:
    """The page as Markdown."""
    parts = [_HEAD]
    for name, door in DOORS.items():
        columns = [one.name for one in PROVIDERS if one.serves(name)]
        rows: list[Iterable[str]] = [("parameter", *columns), ["---"] * (1 + len(columns))]
        rows += [
            (f"`{sample.parameter}`{sample.name[len(sample.parameter) :]}",
             *(_text(found[name, sample.name, column]) for column in columns))
            for sample in door.samples
        ]  # fmt: skip
        table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
        parts.append(f"## {name}: `POST {door.path}`\n\n{table}")
    return "\n".join(parts)


def _text(cell: Cell) -> str:
    names = cell.detail if cell.treatment in (Treatment.NATIVE, Treatment.MAPPED) else ""
    return f"{cell.treatment} (without {names})" if names else str(cell.treatment)


async def _write() -> None:
    configure_structlog(LogSettings(level="error"), sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        async with gateway(Path(folder), os.environ.__setitem__) as asking:
            text = page(await cells(asking))
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(_write())
