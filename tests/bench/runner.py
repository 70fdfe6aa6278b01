"""Runs benchmarks one after another, each in a process of its own, and sums them up.

A benchmark that fails, hangs or is killed does not keep the others from running.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.bench.fetching import ROOT
from tests.bench.report import Report, load, show

WHOLE_LIMIT, QUICK_LIMIT = 3600.0, 600.0
"""Seconds that one benchmark may take, with its installations."""


@dataclass(frozen=True)
class Ended:
    """A finished benchmark and the seconds that it took."""

    report: Report
    seconds: float


def run_all(
    benches: Mapping[str, str], *, out: Path, quick: bool, console: Console, limit: float | None = None
) -> list[Ended]:
    """Run benchmarks, given as name and module, and print the table of each as it ends."""
    ended = []
    limit = limit or (QUICK_LIMIT if quick else WHOLE_LIMIT)
    for number, (name, module) in enumerate(benches.items(), 1):
        console.print(f"[bold][{number}/{len(benches)}] {name}")
        began = time.monotonic()
        report = _run(name, module, out, quick=quick, limit=limit)
        ended.append(Ended(report, time.monotonic() - began))
        show(report, console)
        if report.failed:
            console.print(f"{name} failed: {report.failed}", markup=False, style="red")
    return ended


def summarise(ended: list[Ended], console: Console) -> None:
    """Print a line for each benchmark: its time, and its result or the reason of its failure."""
    table = Table(title="All benchmarks", header_style="bold", title_justify="left")
    table.add_column("benchmark")
    table.add_column("seconds", justify="right")
    table.add_column("result")
    for one in ended:
        table.add_row(one.report.name, f"{one.seconds:.0f}", _result(one.report))
    table.add_row("all", f"{sum(one.seconds for one in ended):.0f}", "")
    console.print(table)


def exit_status(ended: list[Ended], *, quick: bool) -> int:
    """1 when a benchmark failed or, unless the figures are rough, one missed a bound."""
    failed = any(one.report.failed for one in ended)
    missed = any(one.report.missed for one in ended)
    return int(failed or (missed and not quick))


def _run(name: str, module: str, out: Path, *, quick: bool, limit: float) -> Report:
    written = out / f"{name}.json"
    written.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.bench.child", name, module, "--out", str(out.resolve())]
    process = subprocess.Popen(
        [*command, *(["--quick"] if quick else [])], cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        return Report(name, "", failed=f"it took longer than {limit:g} s")
    finally:
        _stop(process)
    try:
        return load(written)
    except (OSError, ValueError):
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        return Report(name, "", failed=f"its process {how} before it reported")


def _stop(process: subprocess.Popen[bytes], timeout: float = 10.0) -> None:
    """End a benchmark that still runs, gently first so that it ends its servers, and then its whole group."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _result(report: Report) -> str:
    if report.failed:
        return f"[red]failed:[/] {escape(report.failed)}"
    absent = sum(figure.value is None for figure in report.figures)
    told = [f"[red]missed:[/] {'; '.join(figure.name for figure in report.missed)}"] if report.missed else ["ok"]
    return "; ".join([*told, *([f"{absent} not compared"] if absent else [])])
