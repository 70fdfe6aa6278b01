"""Sends lines of a batch to their providers' batch APIs, and answers them from the results.

Lines whose requests share a row, a path and headers make one batch of the provider. The record knows of each
before it is made: a process that goes on looks for it by its name, so that no line is sent twice. A line that has
no result in the end is asked as any other.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Container
from contextlib import AsyncExitStack, ExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import structlog

from backends.deferred.api import BatchCall, Batches, BatchState
from catalog.errors import (
    BudgetExceeded,
    ModelNotFound,
    RoundhouseError,
    Unavailable,
    UpstreamError,
    UpstreamQuotaExceeded,
)
from catalog.types import Json
from routing.deferred.calls import Collector, DeferredCalls, Replayer, Taken
from routing.reading.intent import is_auto
from routing.state.records import Record
from server.batches.answering import Answering
from server.batches.asking import ACCOUNT_WAIT, Asker, caller_of_owner
from server.batches.groups import (
    AllBut,
    Group,
    InputLines,
    Spool,
    custom_id_of,
    hold_of,
    lines_of,
    note_missing,
    number_of,
    numbers_in,
    refusal_of,
    sync,
)
from server.batches.journal import Lines
from server.batches.lines import Line, opened
from server.batches.waits import Waits
from server.runtime import Runtime
from server.storage.slots import Slot

MOST_LINES = 50_000
"""Lines of one batch of a provider."""
FIRST_LOOK, LAST_LOOK = 5.0, 60.0
"""Seconds between two looks at a provider's batch, at first and in the end."""
TRIES = 5
"""Attempts at making a provider's batch; an account that is used up is waited for until the batch expires."""
SHARES = 8
"""Parts of what is left of a cap: a provider's batch takes one at most, so that lines beyond the cap are few."""
FEW_LINES = 16
"""Lines of a provider's batch up to which it may take all that is left of a cap."""
MOST_GROUPS = 64
"""Batches of providers for one batch, beyond which parts do not count."""
RECALL = 900.0
"""Seconds for which the results of a cancelled batch are waited for: OpenAI takes up to ten minutes."""


class Offloading:
    """The part of one batch that is sent to providers, in one run.

    ``path`` makes the path of a file of the batch. ``save`` stores the list of :attr:`Group.told` in its record;
    it returns False if the batch is being cancelled.
    """

    def __init__(
        self,
        runtime: Runtime,
        batch: Record,
        answering: Answering,
        slot: Slot,
        *,
        told: list[Json] | None,
        path: Callable[[str], Path],
        save: Callable[[list[Json]], Awaitable[bool]],
        waits: Waits,
    ) -> None:
        self._runtime = runtime
        self._batch = batch
        self._answering = answering
        self._slot = slot
        self._told = told
        self._path = path
        self._save = save
        self._waits = waits
        self._fallback = runtime.storage.settings.batch_fallback
        self.stopped = False
        self._groups: list[Group] = []
        self._left = Lines()
        self._replayed = Lines()
        self._money = asyncio.Condition()
        self._paying: set[str] = set()
        left = runtime.spend.left(batch.owner)
        self._cap = None if left is None else left.dollars
        self._log = structlog.get_logger("server.batches").bind(batch=batch.id)

    # ---- which lines

    async def collect(self, blocks: AsyncGenerator[list[Line]], done: Lines) -> Lines:
        """Find the lines for providers, once for a batch; their numbers, without those of lines that are done."""
        deferred = self._runtime.deferred
        if self._told is None and (deferred is None or not self._may(deferred)):
            return self._left
        if self._told is None:
            assert deferred is not None
            try:
                await self._gather(deferred, blocks, done)
            except OSError as error:
                self._groups.clear()
                self._log.warning("batch.not_offloaded", error=error.strerror, will="ask its lines one by one")
            self._told = [group.told for group in self._groups]
            await self._store()
        else:
            await self._load()
        for group in self._groups:
            for number in group.numbers:
                if number not in done:
                    self._left.add(number)
        return self._left

    @property
    def told(self) -> list[Json] | None:
        """The record's part about the providers' batches; ``None`` if no line was for one."""
        return self._told

    def unanswered(self) -> Container[int]:
        """The lines that a last pass leaves out: all but those of providers that have no result."""
        return AllBut(self._left, self._replayed)

    def refusals(self) -> dict[int, RoundhouseError]:
        """The lines without a result that are not asked one by one, by number, each with its error."""
        found: dict[int, RoundhouseError] = {}
        for group in self._groups:
            error = refusal_of(group.told)
            if error is not None:
                missing = (n for n in group.numbers if n in self._left and n not in self._replayed)
                found.update(dict.fromkeys(missing, error))
        return found

    def _may(self, deferred: DeferredCalls) -> bool:
        """Whether lines of this batch may go to a provider. The limits of a key count calls one by one."""
        model, catalog = self._batch.body.get("model"), self._runtime.catalog
        if not any(server.batches for server in catalog.servers):
            return False
        try:
            key = caller_of_owner(self._runtime, self._batch.owner).key
            model = model and self._runtime.standing(model)
            rows = () if model is None or is_auto(model) else catalog.replicas(model)
        except (RoundhouseError, ModelNotFound):
            return False
        if key is not None and key.limits.rates:
            return False
        return not rows or any(not row.local and deferred.endpoint(row.endpoint_name).batches for row in rows)

    async def _gather(self, deferred: DeferredCalls, blocks: AsyncGenerator[list[Line]], done: Lines) -> None:
        asker = Asker(replace(self._runtime, dispatcher=Collector(deferred)), self._batch.owner)
        spools: dict[Any, Spool] = {}
        with ExitStack() as files:
            async with aclosing(blocks):
                async for block in blocks:
                    for line in block:
                        if line.number in done:
                            continue
                        taken = await self._taken(line, asker)
                        await asyncio.sleep(0)  # other work goes on meanwhile
                        if taken is not None:
                            self._spool(spools, files, line.number, taken)
            for spool in spools.values():
                await asyncio.to_thread(sync, spool.file)

    async def _taken(self, line: Line, asker: Asker) -> Taken | None:
        try:
            request = await self._answering.read(line)
            await asker.ask_once(request.door, request.body)
        except Taken as taken:
            return taken
        except Exception:  # the boundary of a line: asked as any other, it shows its error
            return None
        return None

    def _spool(self, spools: dict[Any, Spool], files: ExitStack, number: int, taken: Taken) -> None:
        key = (taken.model.id, taken.path, taken.body.get("model"), orjson.dumps(dict(taken.sent_headers)))
        row = b"%d %s\n" % (number, orjson.dumps(taken.body))
        spool = spools.get(key)
        if spool is not None:
            full = spool.size + len(row) > self._most_bytes(taken) or self._is_share(spool.group, taken)
            spool = None if full or len(spool.group.numbers) >= MOST_LINES else spool
        if spool is None:
            place = len(self._groups) + 1
            told = {
                "name": f"{self._batch.id}-{place}",
                "model": taken.model.id,
                "path": taken.path,
                "headers": dict(taken.sent_headers),
                "key": taken.key,
                "lines": 0,
                "amount": 0.0,
            }
            path = self._path(f"{place}.sent")
            spool = spools[key] = Spool(Group(told, path), files.enter_context(path.open("wb")))
            self._groups.append(spool.group)
        spool.file.write(row)
        spool.size += len(row)
        spool.group.numbers.append(number)
        spool.group.told["lines"] += 1
        if taken.amount is None:
            spool.group.told["amount"] = None
        elif spool.group.told["amount"] is not None:
            spool.group.told["amount"] += taken.amount

    def _is_share(self, group: Group, taken: Taken) -> bool:
        """Whether another line takes a group beyond its share of a cap; few lines may take all that is left."""
        amount = group.told["amount"]
        if self._cap is None or amount is None or taken.amount is None or len(self._groups) >= MOST_GROUPS:
            return False
        share = self._cap if len(group.numbers) < FEW_LINES else self._cap / SHARES
        return bool(amount + taken.amount > share)

    def _most_bytes(self, taken: Taken) -> int:
        assert self._runtime.deferred is not None
        return self._runtime.deferred.batches(taken.model.endpoint_name).most_bytes

    async def _load(self) -> None:
        """Read which lines an earlier run has found. Raises OSError."""
        for place, told in enumerate(self._told or (), start=1):
            group = Group(told, self._path(f"{place}.sent"))
            group.numbers = await asyncio.to_thread(numbers_in, group.path)
            self._groups.append(group)

    # ---- following

    async def follow(self, done: Lines) -> None:
        """Make the providers' batches, wait for their ends and answer their lines.

        Called by a part of the batch that is ``working``, which rests meanwhile.
        """
        for group in self._groups:
            await self._forget(group)
        async with self._slot.resting(), asyncio.TaskGroup() as following:
            for group in self._groups:
                unfinished = any(number not in done for number in group.numbers)
                if unfinished and group.told.get("failure") is None:
                    following.create_task(self._follow(group, done))

    async def _follow(self, group: Group, done: Lines) -> None:
        try:
            async with AsyncExitStack() as held:
                replayer = await self._replayer(group)
                if replayer is None or not await self._reserve(held, group):
                    return
                if not await self._begin(group, replayer):
                    return
                state = await self._ended(group, replayer)
                if state is not None:
                    await self._replay(group, replayer, state, done)
                    await self._count_missing(group, done)
        finally:
            async with self._money:
                self._paying.discard(group.name)
                self._money.notify_all()

    async def _count_missing(self, group: Group, done: Lines) -> None:
        """Note the lines of a batch that ended for which the provider has no result."""
        missing = sum(number not in done and number not in self._replayed for number in group.numbers)
        if missing:
            note_missing(group.told, missing, fallback=self._fallback)
            await self._store()

    async def _replayer(self, group: Group) -> Replayer | None:
        deferred, row = self._runtime.deferred, self._runtime.catalog.get(group.told["model"])
        try:
            if deferred is None or row is None:
                raise ModelNotFound(group.told["model"])
            return Replayer(deferred, row, group.told["key"])
        except RoundhouseError as error:
            await self._failed(group, error.message, error.code)
            return None

    async def _reserve(self, held: AsyncExitStack, group: Group) -> bool:
        """Reserve what the lines may cost. One that was made before is followed without, if need be.

        Where a cap has no room, the ends of this batch's other groups are waited for: they cost less than they
        reserved. Then the lines are refused, since asked one by one they cost more. The money stays reserved if
        the process dies, until another one goes on; it is not booked as spent.
        """
        told = group.told
        row = self._runtime.catalog.get(told["model"])
        assert row is not None
        async with self._money:
            while True:
                told["reserved_at"] = self._runtime.spend.now()
                await self._store()
                reservation = self._runtime.spend.reserve(
                    key=self._batch.owner,
                    model=row.id,
                    endpoint=row.endpoint_name,
                    amount=told["amount"],
                    calls=told["lines"],
                )
                reservation.name = hold_of(group)
                try:
                    await held.enter_async_context(reservation)
                except RoundhouseError as error:
                    if "begun" in told:
                        return True
                    if isinstance(error, BudgetExceeded) and self._paying:
                        await self._money.wait()
                        continue
                    await self._failed(group, error.message, error.code, beyond=isinstance(error, BudgetExceeded))
                    return False
                self._paying.add(group.name)
                return True

    async def _forget(self, group: Group) -> None:
        """Release what a process that died has reserved."""
        if (at := group.told.get("reserved_at")) is not None:
            await self._runtime.spend.forget(hold_of(group), at, key=self._batch.owner)

    async def _begin(self, group: Group, replayer: Replayer) -> bool:
        """Make the provider's batch, unless it is there. The record says so before and after."""
        told = group.told
        tries, wait = 0, FIRST_LOOK
        last: RoundhouseError | None = None
        while "id" not in told:
            try:
                if "begun" in told and not await self._find(group, replayer):
                    await self._rest(wait)
                    continue
                if "id" in told:
                    break
                if tries >= TRIES and last is not None and not isinstance(last, UpstreamQuotaExceeded):
                    await self._failed(group, last.message, last.code)
                    return False
                told["begun"] = told.get("begun") or self._runtime.storage.now()
                await self._store()
                if self.stopped:
                    return False
                call = BatchCall(told["path"], told["headers"])
                tries += 1
                async with self._slot.working():
                    lines = await asyncio.to_thread(lines_of, group)
                    told["id"] = await self._api(group).begin(replayer.upstream, group.name, call, lines)
            except RoundhouseError as error:
                last = error
                if not (isinstance(error, Unavailable | UpstreamError) and error.retryable):
                    await self._failed(group, error.message, error.code)
                    return False
                await self._waits.begin(group.name, error, "batch.not_begun")
                await self._rest(ACCOUNT_WAIT if isinstance(error, UpstreamQuotaExceeded) else wait)
                wait = min(LAST_LOOK, wait * 2)
        await self._waits.end(group.name)
        await self._store()
        self._log.info("batch.offloaded", name=group.name, model=told["model"], lines=told["lines"], id=told["id"])
        return True

    async def _find(self, group: Group, replayer: Replayer) -> bool:
        """Look for a batch that may have been made; whether that is certain."""
        told = group.told
        found = await self._api(group).find(replayer.upstream, group.name, told["begun"], told["lines"])
        if found.id is not None:
            told["id"] = found.id
        return found.certain or found.id is not None

    async def _ended(self, group: Group, replayer: Replayer) -> BatchState | None:
        """The state of the provider's batch once it has ended; ``None`` if it failed."""
        wait = FIRST_LOOK
        while True:
            try:
                state = await self._api(group).look(replayer.upstream, group.told["id"])
            except RoundhouseError as error:
                if getattr(error, "upstream_status", None) == 404:
                    await self._failed(group, error.message, error.code)
                    return None
                await self._waits.begin(group.name, error, "batch.not_seen")
            else:
                await self._waits.end(group.name)
                if state.ended:
                    await self._tidy(group, replayer, state)
                if state.failure is not None:
                    await self._failed(group, state.failure, "batch_failed")
                    return None
                if state.ended:
                    return state
            await self._rest(wait)
            wait = min(LAST_LOOK, wait * 1.5)

    async def _replay(self, group: Group, replayer: Replayer, state: BatchState, done: Lines) -> None:
        """Answer the lines that have a result. Calls of keys that are gone by now are paid for, too."""
        asker = Asker(replace(self._runtime, dispatcher=replayer, keys=None), self._batch.owner)
        wait = FIRST_LOOK
        names = [custom_id_of(group, number) for number in group.numbers]
        async with opened(lambda: InputLines(self._path("input"), group.numbers)) as lines:
            while True:
                try:
                    async with self._slot.working():
                        async for result in self._api(group).results(replayer.upstream, state, names):
                            number = number_of(group, result.custom_id)
                            if result.answer is None or number is None or number not in lines:
                                continue
                            if number in done or number in self._replayed:
                                continue
                            replayer.next(result.answer, result.custom_id)
                            if await self._answering.replay(lines.read(number), asker):
                                self._replayed.add(number)
                    await self._waits.end(group.name)
                    return
                except RoundhouseError as error:
                    await self._waits.begin(group.name, error, "batch.not_read")
                await self._rest(wait)
                wait = min(LAST_LOOK, wait * 2)

    # ---- cancelling

    async def recall(self, done: Lines) -> None:
        """Cancel the providers' batches, and answer the lines that have a result by their ends.

        After ``RECALL`` seconds the results that are still missing are given up.
        """
        if not self._groups:
            await self._load()
        async with asyncio.TaskGroup() as recalling:
            for group in self._groups:
                if "begun" in group.told and group.told.get("failure") is None:
                    recalling.create_task(self._recall(group, done))

    async def _recall(self, group: Group, done: Lines) -> None:
        await self._forget(group)
        replayer = await self._replayer(group)
        if replayer is None:
            return
        try:
            async with asyncio.timeout(RECALL):
                while "id" not in group.told:
                    if await self._find(group, replayer):
                        break
                    await self._rest(FIRST_LOOK)
                if "id" not in group.told:
                    return
                state = await self._api(group).look(replayer.upstream, group.told["id"])
                if not state.ended:
                    await self._api(group).cancel(replayer.upstream, group.told["id"])
                    ended = await self._ended(group, replayer)
                    if ended is None:
                        return
                    state = ended
                else:
                    await self._tidy(group, replayer, state)
                await self._replay(group, replayer, state, done)
        except (RoundhouseError, TimeoutError) as error:
            code = error.code if isinstance(error, RoundhouseError) else "timeout"
            self._log.warning("batch.not_recalled", name=group.name, error=code)

    # ---- shared

    def _api(self, group: Group) -> Batches:
        deferred, row = self._runtime.deferred, self._runtime.catalog.get(group.told["model"])
        if deferred is None or row is None:
            raise ModelNotFound(group.told["model"])
        return deferred.batches(row.endpoint_name)

    async def _failed(self, group: Group, why: str, code: str, *, beyond: bool = False) -> None:
        """Note that the provider does not answer these lines, which are then asked one by one, or refused.

        ``beyond`` a cap they are refused. The log has the code alone: words of a provider may repeat the request.
        """
        group.told["failure"] = why
        note_missing(group.told, group.told["lines"], fallback=self._fallback, beyond=beyond)
        await self._waits.end(group.name)
        will = "refuse its lines" if "refused" in group.told else "ask its lines one by one"
        self._log.warning("batch.not_offloaded", name=group.name, error=code, will=will)
        await self._store()

    async def _tidy(self, group: Group, replayer: Replayer, state: BatchState) -> None:
        """Have the provider delete the input of a batch that has ended."""
        try:
            await self._api(group).tidy(replayer.upstream, state)
        except RoundhouseError as error:
            if getattr(error, "upstream_status", None) != 404:
                self._log.warning("batch.not_deleted", name=group.name, error=error.code)

    async def _store(self) -> None:
        if not await self._save(self._told or []):
            self.stopped = True

    @staticmethod
    async def _rest(seconds: float) -> None:
        await asyncio.sleep(seconds * random.uniform(1.0, 1.25))  # noqa: S311 - spreads the looks
