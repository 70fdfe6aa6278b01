"""Pulls in the background: each is a record, so that it survives its client and the process.

The files are on one machine's disk, so the kind of the records names the store: with a state in Redis, the
gateways of another machine do not take this one's pulls. Events of a pull are states of its record, which any
process reads.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path

from filelock import AsyncFileLock

from catalog.errors import InvalidRequest, NotFound, RoundhouseError
from catalog.store.progress import PullEvent, Stage
from catalog.types import Json
from routing.state.records import Record, RecordQuery, new_id
from server.callers import Caller
from server.library import AT_ONCE, Library
from server.storage.runner import CANCELLING, Runner
from server.storage.slots import Slot
from server.storage.storage import Page, Storage

QUEUED, RUNNING = "queued", "in_progress"
DONE, CANCELLED, FAILED = "completed", "cancelled", "failed"
ENDED = (DONE, CANCELLED, FAILED)
UNFINISHED = (QUEUED, RUNNING, CANCELLING)
PACE = 0.25
"""Seconds between two looks of a follower, and between two changes of a record."""


class _Over(Exception):
    """The record was cancelled or deleted, or another process works on it."""


class Pulls:
    """Begins, lists, follows and cancels pulls into one store.

    The processes of this machine begin them one at a time, by a lock on a file of the folder ``locks``, so that
    two that are asked for the same pull share it.
    """

    def __init__(
        self, kind: str, storage: Storage, library: Library, runner: Callable[[], Runner | None], locks: Path
    ) -> None:
        self.kind = kind
        self._storage = storage
        self._library = library
        self._runner = runner
        self._beginning = asyncio.Lock()
        self._alone = AsyncFileLock(
            locks / "pulls.begin", run_in_executor=False
        )  # a cancelled wait leaves none held

    async def begin(
        self, caller: Caller, what: str, *, revision: str = "main", model_id: str | None = None
    ) -> Record:
        """The record of a pull of ``what``: that of the pull at work, or a new one.

        Raises as :meth:`Library.check`, and Unavailable.
        """
        await self._library.check(what, model_id)
        asked = {"model": what, "revision": revision, "name": model_id}
        async with self._beginning, self._one_process():
            for status in UNFINISHED[:2]:
                async for record in self._all(status):
                    if asked.items() <= record.body.items():
                        return record
            name = new_id("pull")
            body: Json = {
                "id": name,
                "object": "model.pull",
                **asked,
                "created_at": int(self._storage.now()),
                "ended_at": None,
                "stage": None,
                "file": None,
                "completed_bytes": 0,
                "total_bytes": None,
                "models": [],
                "error": None,
            }
            record = self._storage.new(self.kind, name, body, caller, status=QUEUED)
            await self._storage.keep(record)
        runner = self._runner()
        if runner is not None:
            await runner.begin(record)
        return record

    @asynccontextmanager
    async def _one_process(self) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            with suppress(OSError):  # a folder that cannot be written: the pull will fail, and tell why
                await stack.enter_async_context(self._alone)
            yield

    def now(self) -> float:
        """The wall time, in seconds."""
        return self._storage.now()

    async def page(self, page: Page) -> tuple[list[Record], bool]:
        """One page of the pulls into this store, of every caller, and whether there are more."""
        return await self._storage.page(RecordQuery(self.kind), page)

    async def found(self, name: str) -> Record:
        """A pull of any caller. Raises NotFound."""
        record = await self._storage.records.get(self.kind, name)
        if record is None:
            raise NotFound(f"There is no pull {name[:80]!r} (any more).", param="pull_id")
        return record

    async def cancel(self, name: str) -> Record:
        """Stop a pull; what was fetched stays for a later one.

        Raises NotFound, and InvalidRequest if it has ended.
        """

        def cancel(found: Record) -> Record:
            if found.status in ENDED:
                raise InvalidRequest(f"The pull has ended: it is {found.status}.", param="pull_id")
            return found if found.status == CANCELLING else found.changed(status=CANCELLING)

        owner = (await self.found(name)).owner
        record = await self._storage.change(self.kind, name, Caller(owner), cancel)
        runner = self._runner()
        if runner is not None:
            await runner.cancel(record)
        return await self.found(name)

    async def follow(self, name: str) -> AsyncGenerator[Record]:
        """The states of a pull's record, the present one first, until it has ended. Raises NotFound."""
        seen = -1
        while True:
            record = await self.found(name)
            if record.version != seen:
                seen = record.version
                yield record
            if record.status in ENDED:
                return
            await asyncio.sleep(PACE)

    async def latest(self, what: str) -> Record | None:
        """The last pull of ``what`` among the newest ones, or ``None``."""
        query = RecordQuery(self.kind, newest_first=True, limit=50)
        return next((each for each in await self._storage.records.find(query) if each.body["model"] == what), None)

    async def _all(self, status: str) -> AsyncGenerator[Record]:
        for record in await self._storage.records.find(RecordQuery(self.kind, status=status)):
            yield record


class PullWork:
    """Works on pulls; see :class:`server.storage.runner.BackgroundWork`."""

    unfinished = (QUEUED, RUNNING)
    at_once = AT_ONCE
    keeps_slot = False

    def __init__(self, kind: str, storage: Storage, library: Library) -> None:
        self.kind = kind
        self._storage = storage
        self._library = library

    async def run(self, record: Record, slot: Slot) -> None:
        """Pull, and store the progress. It never only waits, so it keeps its slot."""
        del slot
        telling = _Telling(self._storage, record)
        body = record.body
        try:
            await telling.tell(status=RUNNING, completed_bytes=0, total_bytes=None, models=[])
            async with self._library.pull(
                body["model"], revision=body["revision"], model_id=body["name"]
            ) as events:
                await telling.follow(events)
            await telling.tell(status=DONE, stage=None, file=None, ended_at=int(self._storage.now()))
        except _Over:
            return

    async def end(self, record: Record, error: BaseException | None) -> None:
        """Store that a pull was cancelled or has failed."""
        told = None
        if error is not None:
            known = (
                error if isinstance(error, RoundhouseError) else RoundhouseError("The pull failed in the server.")
            )
            told = {"code": known.code, "message": known.message}
        status, now = CANCELLED if error is None else FAILED, int(self._storage.now())
        ended = record.changed(status=status, error=told, ended_at=now, stage=None, file=None)
        await self._storage.records.replace(ended)


class _Telling:
    """Writes the progress of a pull into its record, at most every ``PACE`` seconds."""

    def __init__(self, storage: Storage, record: Record) -> None:
        self._storage = storage
        self._record = record
        self._news: Json = {}
        self._files: dict[str, int] = {}
        self._models: list[str] = []
        self._total: int | None = None

    async def follow(self, events: AsyncIterator[PullEvent]) -> None:
        """Write the events until their end. Raises what they raise, and _Over."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        coming: asyncio.Future[PullEvent | None] | None = None
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(events, None))
                await asyncio.wait({coming}, timeout=max(0.0, due - loop.time()) if self._news else None)
                if coming.done():
                    event, coming = coming.result(), None
                    if event is None:
                        break
                    self._note(event)
                if self._news and loop.time() >= due:
                    await self.tell()
                    due = loop.time() + PACE
        finally:
            if coming is not None:
                coming.cancel()

    async def tell(self, *, status: str | None = None, **members: object) -> None:
        """Store what is new, and ``members``. Raises _Over if the record is no longer this process's to change."""
        news, self._news = {**self._news, **members}, {}
        stored = await self._storage.records.replace(self._record.changed(status=status, **news))
        if stored is None:
            raise _Over
        self._record = stored

    def _note(self, event: PullEvent) -> None:
        self._news |= {"stage": event.stage.value, "file": event.file}
        if event.file is not None:
            if event.stage in (Stage.CACHED, Stage.DOWNLOADING):
                self._files[event.file] = event.done
                self._news["completed_bytes"] = sum(self._files.values())
        elif event.stage in (Stage.CACHED, Stage.DONE):
            self._models = self._news["models"] = list(dict.fromkeys((*self._models, event.model)))
        elif event.total is not None:
            self._total = self._news["total_bytes"] = (self._total or 0) + event.total


def shown(record: Record) -> Json:
    """A pull as administrators see it."""
    return {**record.body, "status": record.status}


def store_kind(root: Path) -> str:
    """The kind of the records of pulls into the store at ``root``: it has a random name of its own, in a file.

    The name follows the disk, whereas a host's changes with each container. A store that cannot be written, into
    which nothing can be pulled, has the name of its path.
    """
    file = root / "name"
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            with tempfile.NamedTemporaryFile("w", dir=root) as new:
                new.write(secrets.token_hex(8))
                new.flush()
                with suppress(FileExistsError):
                    os.link(new.name, file)
        name = file.read_text().strip()[:16]
    except OSError:
        name = sha256(str(root).encode()).hexdigest()[:16]
    return f"model_pull.{name}"
