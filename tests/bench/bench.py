"""The conditions under which one benchmark runs, and its progress lines."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 15.0
"""Seconds without a line after which a long step says how far it is."""


@dataclass(frozen=True)
class Bench:
    """One run of a benchmark. ``quick`` asks for rough figures in seconds; ``out`` is where pictures go."""

    name: str
    out: Path
    quick: bool = False
    began: float = field(default_factory=time.monotonic)

    def say(self, step: str) -> None:
        """Print a progress line with the benchmark's name and its seconds so far."""
        print(f"  {self.name} {time.monotonic() - self.began:4.0f} s  {step}", flush=True)

    def pick(self, whole: T, quick: T) -> T:
        """The amount for this run."""
        return quick if self.quick else whole

    def rounds(self, count: int, step: str) -> Iterator[int]:
        """Count from 0 to ``count - 1``; print the step at its start, and the round where rounds take long."""
        self.say(f"{step}: {count} rounds")
        said = time.monotonic()
        for number in range(count):
            if time.monotonic() - said > PATIENCE:
                self.say(f"{step}: round {number + 1} of {count}")
                said = time.monotonic()
            yield number
