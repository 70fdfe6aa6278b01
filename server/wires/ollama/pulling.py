"""Translates the events of a pull into the lines of Ollama's progress."""

from __future__ import annotations

from catalog.errors import RoundhouseError
from catalog.store.progress import PullEvent, Stage
from catalog.types import Json
from server.edge.errors import ollama_error
from server.wires.ollama.lines import json_lines

SUCCESS: Json = {"status": "success"}
_STATUSES = {
    Stage.METADATA: "pulling manifest",
    Stage.VERIFYING: "verifying sha256 digest",
    Stage.PREPARING: "preparing",
}


class PullEncoder:
    """Encodes a pull's events as the lines of Ollama's progress."""

    def __init__(self) -> None:
        self._last: Json | None = None

    def encode(self, item: PullEvent) -> bytes:
        line = _line(item)
        if line is None or line == self._last:
            return b""
        self._last = line
        return json_lines([line])

    def finish(self) -> bytes:
        return json_lines([SUCCESS])

    def fail(self, error: RoundhouseError) -> bytes | None:
        return json_lines([ollama_error(error)])


def _line(event: PullEvent) -> Json | None:
    if event.stage in (Stage.CACHED, Stage.DONE, Stage.SKIPPED):
        return None
    if event.stage is not Stage.DOWNLOADING:
        return {"status": _STATUSES[event.stage]}
    line: Json = {"status": f"pulling {event.file}"}
    if event.sha256 is not None:
        line = {"status": f"pulling {event.sha256[:12]}", "digest": f"sha256:{event.sha256}"}
    if event.total is not None:
        line |= {"total": event.total, "completed": min(event.done, event.total)}
    return line
