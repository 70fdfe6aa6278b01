"""``python -m tests.bench [NAME ...]``: run benchmarks, print their tables, keep figures and pictures in ``out/``.

Exit status 1 when a figure misses its bound.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from rich.console import Console

from tests.bench.report import Report, save, show

OUT = Path(__file__).parent / "out"
REPORTING = ("chat", "embeddings", "footprint", "overhead", "streams", "memory", "processes")
"""Modules with ``run() -> Report``."""
OWN = ("decision", "simulation")
"""Modules with a ``main()`` that prints and saves by itself, and gives an exit status."""


def main(arguments: list[str] | None = None) -> int:
    """Run what is named, or everything."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join((*REPORTING, *OWN))}")
    parser.add_argument("--out", type=Path, default=OUT, help="where figures and pictures go")
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.names) - {*REPORTING, *OWN}
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    console = Console(width=150)
    missed = False
    for name in chosen.names or (*REPORTING, *OWN):
        module = import_module(f"tests.bench.{name}")
        if name in OWN:
            own: Callable[[list[str]], int] | Callable[[], int] = module.main
            options = [["--out", str(chosen.out)]] if name == "simulation" else []
            missed |= bool(own(*options))
            continue
        report: Report = module.run()
        show(report, console)
        save(report, chosen.out)
        missed |= report.missed
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
