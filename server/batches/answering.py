"""Answers the lines of one batch, so many at a time, and puts the results into its journal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Container, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import orjson
import structlog

from catalog.errors import ModelNotFound, RoundhouseError
from routing.reading.intent import is_auto
from routing.state.records import Record
from server.batches.asking import Asker, caller_of_owner
from server.batches.dialects import Dialect, Request, tokens_of
from server.batches.journal import ResultJournal
from server.batches.lines import Door, Line
from server.batches.merging import FEW, EmbeddingMerger
from server.batches.pacing import Pacer
from server.batches.waits import Waits
from server.edge.errors import as_error
from server.edge.json_body import SHORT
from server.runtime import Runtime
from server.storage.slots import Slot

AT_A_TURN = 4
"""Lines of a merged request that are worked at in one turn of the event loop: more would hold up the next request,
and a worker that has one at a time would stand idle."""
MERGED_COST = 5
"""Lines that a merged request counts as."""


class Answering:
    """The answering of a batch's lines by one run."""

    def __init__(
        self,
        runtime: Runtime,
        dialect: Dialect,
        batch: Record,
        journal: ResultJournal,
        concurrency: int,
        pacer: Pacer,
        slot: Slot,
        waits: Waits,
    ) -> None:
        """``slot`` is that of the batch, taken while a line is in flight."""
        self._pacer = pacer
        self._dialect = dialect
        self._batch = batch
        self._journal = journal
        self._read = dialect.read(batch)
        self._slot = slot
        self._asker = Asker(runtime, batch.owner, slot.sleep, waits, pacer.gathering)
        self._slots = asyncio.Semaphore(concurrency)
        self._at_once = concurrency
        self._merger = _merger_for(runtime, batch)

    async def answer(self, blocks: AsyncGenerator[list[Line]], done: Container[int]) -> None:
        """Answer every line whose number is not in ``done``; ends early where the disk has no room.

        Called by a part of the batch that is ``working``. Raises an ExceptionGroup with OSError for a disk that
        fails.
        """
        async with self._slot.resting(), aclosing(blocks), asyncio.TaskGroup() as asking:
            async for block in blocks:
                lines = [line for line in block if line.number not in done]
                start = 0
                while start < len(lines):
                    cost = 1 if self._merger is None else min(MERGED_COST, self._at_once)
                    for _ in range(cost):
                        await self._slots.acquire()
                    await self._pacer.turn()
                    size = 1 if self._merger is None else FEW if self._pacer.talks else self._merger.size
                    group = lines[start : start + size]
                    if not await self._journal.reserve(len(group)):
                        return
                    asking.create_task(self._pacer.measured(self._take(group, cost)))
                    start += size

    async def refuse(self, blocks: AsyncGenerator[list[Line]], errors: Mapping[int, RoundhouseError]) -> None:
        """Give these lines their errors as results; ends early where the disk has no room."""
        async with aclosing(blocks):
            async for block in blocks:
                for line in block:
                    if line.number in errors:
                        if not await self._journal.reserve(1):
                            return
                        await self._failed(line, errors[line.number])

    async def _take(self, lines: Sequence[Line], cost: int) -> None:
        try:
            async with self._slot.working():
                for group in [lines] if self._merger is None else await self._together(lines):
                    for line in group:
                        await self._ask(line)
        finally:
            for _ in range(cost):
                self._slots.release()

    async def read(self, line: Line) -> Request:
        """A line, read. Raises InvalidRequest."""
        long = len(line.data) > SHORT
        return await asyncio.to_thread(self._read, line.data) if long else self._read(line.data)

    async def replay(self, line: Line, asker: Asker) -> bool:
        """Answer a line by ``asker``; False, and no result, for an error after which it is worth asking again."""
        try:
            request = await self.read(line)
            trace, answer = await asker.ask_once(request.door, request.body)
        except Exception as error:  # the boundary of a line: its error is its result
            if getattr(error, "retryable", False):
                return False
            await self._failed(line, error)
        else:
            await self._answered(line, request, trace, answer)
        return True

    async def _ask(self, line: Line) -> None:
        try:
            request = await self.read(line)
            trace, answer = await self._asker.ask(request.door, request.body)
        except Exception as error:  # the boundary of a line: its error is its result
            await self._failed(line, error)
        else:
            await self._answered(line, request, trace, answer)

    async def _together(self, lines: Sequence[Line]) -> list[list[Line]]:
        """Answer lines by merged requests; the lines that must be asked alone are returned, in groups."""
        merger = self._merger  # another group may show meanwhile that merging does not work here
        assert merger is not None
        groups: dict[bytes | None, list[tuple[Line, Request]]] = {}
        alone: list[Line] = []
        for number, line in enumerate(lines):
            if number % AT_A_TURN == 0:
                await asyncio.sleep(0)
            try:
                request = self._read(line.data)
            except RoundhouseError:
                alone.append(line)
                continue
            groups.setdefault(merger.key(request.body), []).append((line, request))
        left = [alone]
        for key, group in groups.items():
            if key is None or len(group) == 1 or not await self._merged(group[0][1].door, group):
                left.append([line for line, _ in group])
        return left

    async def _merged(self, door: Door, group: Sequence[tuple[Line, Request]]) -> bool:
        """Whether a merged request has answered the lines of a group."""
        merger = self._merger
        if merger is None:  # another group showed meanwhile that it does not work here
            return False
        began = asyncio.get_running_loop().time()
        try:
            body = merger.merge([request.body for _, request in group])
            trace, answer = await self._asker.ask(door, body)
        except RoundhouseError:
            return False  # asked alone, the line at fault shows itself
        merger.took(asyncio.get_running_loop().time() - began, len(group))
        answers = merger.split(answer, len(group))
        if answers is None:
            self._merger = None
            return False
        for number, ((line, request), each) in enumerate(zip(group, answers, strict=True)):
            if number % AT_A_TURN == 0:
                await asyncio.sleep(0)
            await self._answered(line, request, trace, each)
        return True

    async def _answered(self, line: Line, request: Request, trace: str, answer: Any) -> None:
        told = self._dialect.answered(self._batch, line.number, request.custom_id, trace, answer)
        result = orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY)
        await self._journal.add(line.number, True, result, tokens_of(told))

    async def _failed(self, line: Line, error: Exception) -> None:
        if not isinstance(error, RoundhouseError):
            structlog.get_logger("server.batches").error("line.failed", batch=self._batch.id, exc_info=error)
        custom_id = self._dialect.custom_id(line.data)
        told = self._dialect.refused(self._batch, line.number, custom_id, as_error(error))
        await self._journal.add(line.number, False, orjson.dumps(told))


def _merger_for(runtime: Runtime, batch: Record) -> EmbeddingMerger | None:
    """The merger of a batch's lines, if they are embeddings of one local model.

    Requests of a key with limits of requests are counted one by one, so they are not merged.
    """
    model = batch.body.get("model")
    if batch.body.get("endpoint") != "/v1/embeddings" or model is None or is_auto(model):
        return None
    try:
        model = runtime.standing(model)
        key = caller_of_owner(runtime, batch.owner).key
        rows = runtime.catalog.replicas(model)
    except (ModelNotFound, RoundhouseError):
        return None
    limited = key is not None and key.limits.rates
    return EmbeddingMerger() if all(row.local for row in rows) and not limited else None
