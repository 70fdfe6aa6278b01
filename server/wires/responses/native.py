"""Passes an upstream's own events of the Responses API on. Source: OpenAI's API reference."""

from __future__ import annotations

from collections.abc import Iterator

from catalog.errors import StreamBroken
from catalog.types import Json
from routing.calling.answer import TIMINGS

_ENDS = frozenset({"response.completed", "response.incomplete"})


class NativeResponse:
    """One answer in OpenAI's events, with the gateway's name of the model and its ``own`` fields of the response.

    Call :meth:`feed` for each event, then :meth:`finish` or :meth:`fail`; :attr:`response` is the newest state of
    the response. ``own`` are its id and where it is stored: the upstream stores nothing.
    """

    def __init__(self, own: Json) -> None:
        self.response: Json = {}
        self._own = own
        self._number = -1
        self._end: Json | None = None

    def feed(self, event: Json, chunk: Json) -> Iterator[Json]:
        """The event to send; the last one waits for :meth:`finish`.

        ``chunk`` has the gateway's name of the model and, if asked for, the times.
        """
        if type(event.get("sequence_number")) is not int:
            event["sequence_number"] = self._number + 1
        self._number = event["sequence_number"]
        response = event.get("response")
        if isinstance(response, dict):
            # A compaction, which ends as a response does, has no state.
            response |= {"id": self._own["id"]} if response.get("object") == "response.compaction" else self._own
            response["model"] = chunk["model"]
            timings = (chunk.get("usage") or {}).get(TIMINGS)
            if timings is not None and isinstance(response.get("usage"), dict):
                response["usage"][TIMINGS] = timings
            self.response = response
        if event["type"] in _ENDS:
            self._end = event
        else:
            yield event

    def finish(self) -> Iterator[Json]:
        """The last event. Raises StreamBroken for an answer without one."""
        if self._end is None:
            raise StreamBroken("The answer ended without response.completed.")
        yield self._end

    def fail(self, error: Json) -> Iterator[Json]:
        """``response.failed`` with this ``error``."""
        self.response = {**self.response, "status": "failed", "error": error}
        yield {"type": "response.failed", "response": self.response, "sequence_number": self._number + 1}
