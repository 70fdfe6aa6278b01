"""The runner: each benchmark in a process of its own, failures reported at the end."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tests.bench.fetching import ROOT
from tests.bench.report import Figure, Report, at_least, at_most, load, save
from tests.bench.runner import Ended, exit_status, run_all, summarise

GOOD = """
from tests.bench.report import Figure, Report, at_most

def run(bench):
    bench.say("measures")
    return Report(bench.name, "A good one", (Figure("time", 1.0, "ms", at_most(bench.pick(1, 2))),))
"""
FAILING = "def run(bench):\n    raise ValueError('the model is absent')\n"
DYING = "import os, signal\n\ndef run(bench):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
HANGING = "import threading\n\ndef run(bench):\n    threading.Event().wait()\n"


def run_modules(folder: Path, limit: float | None = None, **modules: str) -> tuple[list[Ended], str]:
    """Run benchmarks given as source; returns how they ended, and the printed text."""
    for name, source in modules.items():
        (folder / f"bench_{name}.py").write_text(source)
    said = StringIO()
    console = Console(file=said, width=150)
    benches = {name: f"bench_{name}" for name in modules}
    ended = run_all(benches, out=folder / "out", quick=True, console=console, limit=limit)
    summarise(ended, console)
    return ended, said.getvalue()


@pytest.fixture(autouse=True)
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tmp_path}")


def test_a_failing_or_dying_benchmark_does_not_stop_the_others(tmp_path: Path) -> None:
    ended, said = run_modules(tmp_path, failing=FAILING, dying=DYING, good=GOOD)
    assert [one.report.failed for one in ended] == [
        "ValueError: the model is absent",
        "its process was ended by SIGKILL before it reported",
        "",
    ]
    assert exit_status(ended, quick=True) == 1
    assert "A good one" in said, "the table of the one that ran is printed"
    summary = said[said.index("All benchmarks") :]
    assert "failed: ValueError: the model is absent" in summary


def test_a_hanging_benchmark_is_ended_at_its_limit(tmp_path: Path) -> None:
    ended, _ = run_modules(tmp_path, limit=0.2, hanging=HANGING)
    assert ended[0].report.failed == "it took longer than 0.2 s"


def test_a_report_of_an_earlier_run_is_not_taken_for_this_one(tmp_path: Path) -> None:
    save(Report("dying", "An old one", (Figure("time", 1.0),)), tmp_path / "out")
    ended, _ = run_modules(tmp_path, dying=DYING)
    assert ended[0].report.failed


def test_a_missed_bound_fails_whole_runs_only() -> None:
    missed = [Ended(Report("slow", "", (Figure("time", 3.0, "ms", at_most(2)),)), 1.0)]
    assert exit_status(missed, quick=False) == 1
    assert exit_status(missed, quick=True) == 0, "a rough figure scatters"


def test_a_comparison_that_was_not_made_misses_no_bound_and_says_why(tmp_path: Path) -> None:
    figure = Figure("beside a peer", None, bound=at_least(15), reason="run the whole bench")
    report = Report("overhead", "What a hop costs", (figure, Figure("time", 0.5, "ms", at_most(1.5), {"a": 1.0})))
    save(report, tmp_path)
    assert load(tmp_path / "overhead.json") == report
    assert not report.missed
    said = StringIO()
    summarise([Ended(report, 1.0)], Console(file=said, width=150))
    assert "1 not compared" in said.getvalue()
