"""Log files of workers: the current and the previous one of each model, kept after the worker's end."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_CHUNK = 64 * 1024


class WorkerLog:
    """The log of one model. The worker process appends to it directly, so it survives the gateway."""

    def __init__(self, folder: Path, model_id: str, *, limit: int) -> None:
        self._limit = limit
        name = re.sub(r"[^\w.-]+", "_", model_id)[:80]
        if name != model_id:
            name += "-" + hashlib.sha256(model_id.encode()).hexdigest()[:8]
        self.path = folder / f"{name}.log"
        self.older = folder / f"{name}.log.1"

    @contextmanager
    def append(self) -> Iterator[BinaryIO]:
        """Open the file for a process to append to; create the folder if necessary."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.trim()
        with self.path.open("ab", buffering=0) as file:
            yield file

    def trim(self) -> None:
        """If the file exceeds its limit, copy its end to the older file and truncate it.

        It is truncated in place, because the worker keeps it open for appending.
        """
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return
        if size <= self._limit:
            return
        with self.path.open("rb") as source, self.older.open("wb") as target:
            source.seek(max(0, size - self._limit))
            shutil.copyfileobj(source, target)
        with self.path.open("r+b") as file:
            file.truncate(0)

    def size(self) -> int:
        """Return the size of the current file in bytes; 0 without one."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def tail(self, lines: int, *, since: int = 0) -> str:
        """Return the last lines, continued from the older file if needed; ``since`` skips that many bytes."""
        text = _end_of(self.path, lines, since)
        missing = lines - text.count("\n")
        if missing > 0 and not since:
            text = _end_of(self.older, missing, 0) + text
        return text


def _end_of(path: Path, lines: int, since: int) -> str:
    if lines <= 0:
        return ""
    try:
        with path.open("rb") as file:
            position = file.seek(0, 2)
            since = since if since <= position else 0
            data = b""
            while position > since and data.count(b"\n") <= lines:
                step = min(_CHUNK, position - since)
                position -= step
                file.seek(position)
                data = file.read(step) + data
    except FileNotFoundError:
        return ""
    return "".join(data.decode(errors="replace").splitlines(keepends=True)[-lines:])
