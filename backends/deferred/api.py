"""The interface of a provider's batch API: :class:`Batches`, and what it takes and gives.

A batch is named by its caller. The name is in each custom id, so that a batch whose id was lost with a process can
be found again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from backends.base import Upstream
from backends.http import UpstreamResponse
from catalog.errors import UpstreamProtocolError
from catalog.types import Json

MOST_BYTES = 32 << 20
"""Bytes of one batch, which are held in memory while it is sent."""
CLOCK_SKEW = 300.0
"""Seconds by which a provider's clock may be behind, in a search for a batch by the time of its making."""
RESULT_BYTES = 64 << 20
"""Bytes of one result."""
RESULTS_BYTES = 8 << 30
"""Bytes of all results of a batch."""


class BatchLine(NamedTuple):
    """A request of a batch: its custom id, and the body as an ordinary call would send it, without ``stream``."""

    custom_id: str
    body: Json


@dataclass(frozen=True, slots=True)
class BatchCall:
    """The common part of the requests of one batch: the API's path that they ask, and headers of that call."""

    path: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Begun(NamedTuple):
    """A search for a batch by its name: its id, if there is one. Without ``certain``, look again later."""

    id: str | None
    certain: bool = True


class BatchState(NamedTuple):
    """A batch as the provider tells it. ``failure`` is why it was not worked on, if it was not.

    ``results`` are the places of its results, once it has ended, and ``inputs`` the files that it was made of.
    """

    ended: bool
    failure: str | None = None
    results: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()


class Recorded(NamedTuple):
    """The answer that an ordinary call would have had: status, media type and body."""

    status: int
    media_type: str
    body: bytes


class BatchResult(NamedTuple):
    """The result of a request; ``answer`` is ``None`` for one that was not answered."""

    custom_id: str
    answer: Recorded | None


class Batches(Protocol):
    """A provider's batch API. Every method raises only :mod:`catalog.errors`."""

    @property
    def most_bytes(self) -> int:
        """The most bytes of all requests of one batch."""
        ...

    async def begin(self, upstream: Upstream, name: str, call: BatchCall, lines: Sequence[BatchLine]) -> str:
        """Make a batch; its id."""
        ...

    async def find(self, upstream: Upstream, name: str, since: float, count: int) -> Begun:
        """The batch of this name, made after ``since`` (Unix seconds) with ``count`` requests."""
        ...

    async def look(self, upstream: Upstream, batch: str) -> BatchState:
        """The state of a batch."""
        ...

    def results(
        self, upstream: Upstream, state: BatchState, custom_ids: Sequence[str]
    ) -> AsyncIterator[BatchResult]:
        """The results of a batch that has ended, in any order. ``custom_ids`` are its requests', in order."""
        ...

    async def cancel(self, upstream: Upstream, batch: str) -> None:
        """Ask the provider to stop; the batch ends a while later, with the results that it has."""
        ...

    async def tidy(self, upstream: Upstream, state: BatchState) -> None:
        """Delete the files that a batch which has ended was made of; its results stay."""
        ...


async def json_lines(response: UpstreamResponse, upstream: Upstream) -> AsyncIterator[bytes]:
    """The lines of an answer that are not blank. Raises UpstreamProtocolError for one of too many bytes."""
    rest = b""
    async for piece in response.iter_bytes(RESULTS_BYTES):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.strip():
                yield line
        if len(rest) > RESULT_BYTES:
            raise UpstreamProtocolError(f"The endpoint '{upstream.endpoint}' sent a result that is too long.")
    if rest.strip():
        yield rest
