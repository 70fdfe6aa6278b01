"""Work that goes on after its request: background responses, batches.

Work is a record with an unfinished status. One process at a time holds it and runs it; when that process dies, its
hold ends after ``HOLD`` seconds and another one, or the same after a restart, runs the record again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import structlog

from catalog.errors import RoundhouseError
from routing.clock import Clock
from routing.state.protocol import process_name
from routing.state.records import Record, RecordQuery, Records
from server.storage.slots import Slot, Slots, leaves_room

HOLD = 15.0
"""Seconds for which a process holds work without renewal."""
LOOK = 1.0
"""Seconds between two looks for cancelled and abandoned work."""
REST = 5.0
"""Seconds until work goes on whose end could not be stored."""
CANCEL_WAIT = 2.0
"""Seconds for which a cancellation waits for the end of the work; the end may take longer."""
MOST_HELD = 64
"""Pieces of work of one key that one process holds, most of which only wait."""
CANCELLING = "cancelling"
"""The status that asks the process at work to stop."""


class BackgroundWork(Protocol):
    """The work that records of one kind stand for.

    ``unfinished`` are the statuses of records to work on; ``at_once`` bounds those that one process works on,
    beside those that rest. A piece that ``keeps_slot`` does not rest before its end: one key's pieces then
    leave slots free for other keys.
    """

    @property
    def kind(self) -> str: ...

    @property
    def unfinished(self) -> Sequence[str]: ...

    @property
    def at_once(self) -> int: ...

    @property
    def keeps_slot(self) -> bool: ...

    async def run(self, record: Record, slot: Slot) -> None:
        """Do the work and store its end. Called again with the record as it is stored if a process died.

        It has the ``slot``, and may rest from it while it only waits.
        """
        ...

    async def end(self, record: Record, error: BaseException | None) -> None:
        """Store the end of work that was cancelled (``error`` is ``None``) or raised an error."""
        ...


class Runner:
    """Runs :class:`BackgroundWork` between ``start`` and ``stop``."""

    def __init__(
        self, records: Records, clock: Clock, works: Sequence[BackgroundWork], *, holder: str | None = None
    ) -> None:
        self._records = records
        self._clock = clock
        self._works = {work.kind: work for work in works}
        self._holder = holder or process_name()
        self._slots = {kind: Slots(partial(_bound, work), clock.monotonic) for kind, work in self._works.items()}
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._slot_of: dict[tuple[str, str], Slot] = {}
        self._cancelled: set[tuple[str, str]] = set()
        self._ending: set[tuple[str, str]] = set()
        self._renewed_at = clock.monotonic()
        self._looking: asyncio.Task[None] | None = None
        self._seen = asyncio.Event()
        self._blind = False
        self._unstored: set[tuple[str, str]] = set()
        self._log = structlog.get_logger("server.work")

    def start(self) -> None:
        """Begin to look for work, also for that of processes that died."""
        self._looking = asyncio.create_task(self._look_always(), name="work")

    async def stop(self) -> None:
        """Interrupt all work; it goes on in another process, or after a restart."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait((self._looking,))
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def wake(self) -> None:
        """Look for work at once: a record was added."""
        self._seen.set()

    async def begin(self, record: Record) -> None:
        """Run a record that was just added in this process, if it has room; else it is found later."""
        work = self._works[record.kind]
        if self._has_room(work, record.owner):
            await self._take(work, record)

    async def cancel(self, record: Record) -> None:
        """Stop work whose record is ``CANCELLING``: here at once, in another process with its next look."""
        name = (record.kind, record.id)
        if name in self._ending:
            return
        if (task := self._running.get(name)) is not None:
            self._cancelled.add(name)
            task.cancel()
            await asyncio.wait((task,), timeout=CANCEL_WAIT)
        else:
            self.wake()

    def work(self, kind: str) -> BackgroundWork:
        """The work on records of a kind."""
        return self._works[kind]

    def is_running(self, kind: str, name: str) -> bool:
        """Whether this process works on a record."""
        return (kind, name) in self._running

    # ---- looking

    async def _look_always(self) -> None:
        while True:
            try:
                await self._look()
            except (RoundhouseError, OSError) as error:
                if not self._blind:
                    self._blind = True
                    self._log.warning("work.not_found", error=str(error), will="try again")
            else:
                if self._blind:
                    self._blind = False
                    self._log.info("work.found_again")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._seen.wait()
            self._seen.clear()

    async def _look(self) -> None:
        if self._clock.monotonic() - self._renewed_at >= HOLD / 3:
            self._renewed_at = self._clock.monotonic()
            for kind, name in tuple(self._running):
                if not await self._records.hold(kind, name, self._holder, self._clock.wall() + HOLD):
                    self._running[kind, name].cancel()  # another process took it over, or it was deleted
        for work in self._works.values():
            for record in await self._records.find(RecordQuery(work.kind, status=CANCELLING)):
                if (record.kind, record.id) in self._running:
                    await self.cancel(record)
                else:
                    await self._take(work, record)
            for status in work.unfinished:
                await self._take_those(work, status)

    async def _take_those(self, work: BackgroundWork, status: str) -> None:
        """Take the records of a status for which there is room, page by page."""
        query = RecordQuery(work.kind, status=status)
        while work.at_once > 0:
            page = await self._records.find(query)
            for record in page:
                if (record.kind, record.id) not in self._running and self._has_room(work, record.owner):
                    await self._take(work, record)
            if len(page) < query.limit:
                return
            query = replace(query, after=page[-1].sequence)

    def _has_room(self, work: BackgroundWork, owner: str) -> bool:
        """Whether a record of this owner is taken: into a free slot, or as the one that waits for a fair share."""
        slots = [slot for (kind, _), slot in self._slot_of.items() if kind == work.kind]
        mine = [slot for slot in slots if slot.owner == owner]
        if work.at_once <= 0 or len(mine) >= MOST_HELD:
            return False
        if all(slot.idle for slot in mine):
            return True
        busy = sum(not slot.idle for slot in slots)
        if not work.keeps_slot:
            return busy < work.at_once
        return leaves_room(owner, sum(not slot.idle for slot in mine), busy, work.at_once)

    async def _take(self, work: BackgroundWork, record: Record) -> bool:
        """Hold a record and run it, if nobody else holds it."""
        name = (record.kind, record.id)
        if not await self._records.hold(*name, self._holder, self._clock.wall() + HOLD) or name in self._running:
            return False
        self._slot_of[name] = Slot(self._slots[work.kind], record.owner)
        self._running[name] = asyncio.create_task(self._run(work, record), name=f"work {record.id}")
        return True

    # ---- running

    async def _run(self, work: BackgroundWork, record: Record) -> None:
        name = (record.kind, record.id)
        try:
            current = await self._records.get(*name)  # what was found may have been done since
            if current is None or current.status not in (*work.unfinished, CANCELLING):
                return
            if current.status == CANCELLING:
                self._ending.add(name)
                self._slot_of[name].leave_out()
                await work.end(current, None)
                return
            slot = self._slot_of[name]
            try:
                async with slot.working():
                    await work.run(current, slot)
            except asyncio.CancelledError:
                if name not in self._cancelled:
                    raise
                await self._end(work, name, None)
            except Exception as error:  # the boundary: work that cannot be done is not tried again and again
                if not isinstance(error, RoundhouseError):
                    self._log.error(
                        "work.failed", kind=name[0], work=name[1], error=type(error).__name__, exc_info=True
                    )
                await self._end(work, name, error)
        except (RoundhouseError, OSError) as error:
            if name not in self._unstored:
                self._unstored.add(name)
                self._log.warning(
                    "work.not_stored", kind=name[0], work=name[1], error=str(error), will="try again"
                )
            await asyncio.sleep(REST)
        else:
            self._unstored.discard(name)
        finally:
            self._cancelled.discard(name)
            self._ending.discard(name)
            del self._running[name], self._slot_of[name]
            with contextlib.suppress(RoundhouseError, OSError):
                await self._records.hold(*name, self._holder, 0.0)
            self.wake()

    async def _end(self, work: BackgroundWork, name: tuple[str, str], error: BaseException | None) -> None:
        self._ending.add(name)
        self._slot_of[name].leave_out()
        current = await self._records.get(*name)
        if current is not None:
            await work.end(current, error)


def _bound(work: BackgroundWork) -> int:
    return work.at_once
