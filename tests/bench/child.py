"""``python -m tests.bench.child NAME MODULE --out FOLDER``: one benchmark, in a process of its own.

Calls the module's ``run(bench) -> Report`` and writes the report, or the reason why there is none, to
``FOLDER/NAME.json``. Exit status 1 when it failed.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from importlib import import_module
from pathlib import Path

from catalog.errors import RoundhouseError
from tests.bench.bench import Bench
from tests.bench.fetching import Unavailable, can_draw
from tests.bench.report import Report, draw, save

TOLD = (SystemExit, Unavailable, RoundhouseError)
"""Errors whose message is the whole reason; others are shown with their traceback."""


def main(arguments: list[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.child")
    parser.add_argument("name")
    parser.add_argument("module")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args(arguments)
    bench = Bench(chosen.name, chosen.out, chosen.quick)
    try:
        report: Report = import_module(chosen.module).run(bench)
    except (Exception, SystemExit) as error:  # the boundary of a benchmark: the runner reports the reason
        if not isinstance(error, TOLD):
            traceback.print_exc()
        save(Report(bench.name, "", failed=reason(error)), bench.out, quick=bench.quick)
        return 1
    save(report, bench.out, quick=bench.quick)
    if can_draw():
        draw(report, bench.out)
    return 0


def reason(error: BaseException) -> str:
    """An error in one line: its message, or the place of an assertion without one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        at = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {Path(at.filename).name}, line {at.lineno}: {at.line}"
    message = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"
    return message if isinstance(error, TOLD) else f"{type(error).__name__}: {message}"


if __name__ == "__main__":
    sys.exit(main())
