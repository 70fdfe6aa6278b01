"""``python -m tests.bench [NAME ...]``: run benchmarks, print their tables, keep figures and pictures in ``out/``.

Each benchmark fetches what it needs. Exit status 1 when one fails or, without ``--quick``, a figure misses its
bound; the others run all the same.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from tests.bench.bench import Bench
from tests.bench.fetching import Unavailable, plots
from tests.bench.runner import exit_status, run_all, summarise

OUT = Path(__file__).parent / "out"
NAMES = (
    "overhead",
    "storing",
    "batches",
    "streams",
    "memory",
    "processes",
    "chat",
    "embeddings",
    "footprint",
    "recogniser",
    "decision",
    "simulation",
    "learning",
    "conversations",
    "money",
    "realtime",
    "scale",
)
"""Modules of this package with ``run(bench) -> Report``."""
BY_NAME = ("gpu",)
"""Those that run only when they are named: they pull models of many gigabytes."""


def main(arguments: list[str] | None = None) -> int:
    """Run the named benchmarks, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(NAMES + BY_NAME)}")
    parser.add_argument("--quick", action="store_true", help="rough figures, without long installations")
    parser.add_argument("--out", type=Path, default=OUT, help="where figures and pictures go")
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.names) - {*NAMES, *BY_NAME}
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    console = Console(width=150)
    bench = Bench("plots", chosen.out, chosen.quick)
    try:
        plots(bench)
    except Unavailable as error:
        bench.say(f"no pictures without matplotlib: {error}")
    names = chosen.names or NAMES
    ended = run_all(
        {name: f"tests.bench.{name}" for name in names}, out=chosen.out, quick=chosen.quick, console=console
    )
    summarise(ended, console)
    if chosen.quick:
        console.print("Rough figures: a missed bound is shown, but only a failure gives exit status 1.")
    return exit_status(ended, quick=chosen.quick)


if __name__ == "__main__":
    sys.exit(main())
