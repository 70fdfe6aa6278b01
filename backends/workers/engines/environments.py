"""Checks for an engine's packages, in this Python or in another interpreter that the settings name for it.

Some engines pin conflicting versions of torch or transformers. Each may therefore have its own interpreter, in
which Roundhouse is installed with that engine's extra.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

LOOK_AGAIN = 30.0
"""Seconds before an interpreter that lacked a package is checked again."""
_PATIENCE = 20.0
_ASK = (
    "import sys\n"
    "from importlib.util import find_spec\n"
    "print(next((name for name in sys.argv[1:] if find_spec(name) is None), ''))"
)


class Environment:
    """A Python interpreter that can be checked for packages, which are not imported. Thread-safe."""

    def __init__(self, python: Path | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.python = str(python) if python is not None else sys.executable
        self.own = python is None
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, ...], tuple[str | None, float]] = {}

    def lacks(self, packages: Sequence[str]) -> str | None:
        """Return the first missing package, or None. Another interpreter is started for it; success is cached."""
        if self.own:
            return next((package for package in packages if not _installed(package)), None)
        with self._lock:
            wanted = ("backends", *packages)
            lacking, since = self._known.get(wanted, ("", 0.0))
            if lacking is not None and (lacking == "" or self._clock() - since >= LOOK_AGAIN):
                lacking = _ask(self.python, wanted)
                self._known[wanted] = lacking, self._clock()
            return "roundhouse itself" if lacking == "backends" else lacking


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _ask(python: str, packages: Sequence[str]) -> str | None:
    try:
        said = subprocess.run(  # noqa: S603 -- an interpreter of the operator's settings, and no shell
            [python, "-P", "-c", _ASK, *packages], capture_output=True, check=True, timeout=_PATIENCE, text=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"the interpreter {python} does not run ({type(error).__name__})"
    return said.stdout.strip() or None
