"""Runs a command on a pseudo-terminal of 80 columns, as a person would."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[()][A-Z0-9]|[=>78])")
_ASKS_CURSOR = b"\x1b[6n"
CTRL_C, CTRL_D, ENTER = "\x03", "\x04", "\r"


class Terminal:
    """A program on a pseudo-terminal; :attr:`raw` is all that it wrote."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self.raw = b""
        self._descriptor = descriptor
        self._seen = 0

    @property
    def text(self) -> str:
        """The program's output without escape sequences."""
        return _ESCAPES.sub("", self.raw.decode(errors="replace")).replace("\r", "")

    def type(self, keys: str) -> None:
        """Type these keys."""
        os.write(self._descriptor, keys.encode())

    def until(self, words: str, *, within: float = 60.0) -> str:
        """Wait for words that it has not written when the last call returned; returns the text since then."""
        end = time.monotonic() + within
        while words not in self.text[self._seen :]:
            assert time.monotonic() < end, f"{words!r} did not come:\n{self.text[self._seen :]}"
            if not self._read(0.1):
                assert words in self.text[self._seen :], f"it ended without {words!r}:\n{self.text}"
        at = self.text.index(words, self._seen) + len(words)
        since, self._seen = self.text[self._seen : at], at
        return since

    def finish(self, *, within: float = 60.0) -> int:
        """Wait for its end; returns the exit status."""
        end = time.monotonic() + within
        while self._read(0.1):
            assert time.monotonic() < end, f"it did not end:\n{self.text}"
        return self.process.wait(max(1.0, end - time.monotonic()))

    def _read(self, wait: float) -> bool:
        """Read what is there; False at the end."""
        if not select.select([self._descriptor], [], [], wait)[0]:
            return True
        try:
            data = os.read(self._descriptor, 65_536)
        except OSError:  # EIO: the other side is closed
            return False
        if _ASKS_CURSOR in data:
            os.write(self._descriptor, b"\x1b[24;1R")  # the last line
        self.raw += data
        return bool(data)


def _take_terminal() -> None:
    """Make standard input the controlling terminal, so that Ctrl-C is SIGINT, and heed it.

    A shell lets its background jobs ignore it, and the suite may be one.
    """
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def terminal(
    *command: str,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    columns: int = 80,
    pipes: Sequence[str] = (),
) -> Iterator[Terminal]:
    """Run a command on a new terminal until the block ends. ``pipes`` are of ``stdout``, ``stderr``: not on it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    own = {"TERM": "xterm-256color", "PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=subprocess.DEVNULL if "stdout" in pipes else theirs,
        stderr=subprocess.DEVNULL if "stderr" in pipes else theirs,
        cwd=cwd,
        env={**own, **(environment or {})},
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        os.close(ours)
