"""The models on this machine's disk: pulled and removed, by the command line and by a running server."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from threading import Thread
from typing import TYPE_CHECKING

from backends.workers.pool import WorkerPool
from catalog import starter
from catalog.catalog import Catalog
from catalog.errors import InvalidRequest, ModelNotFound, ModelUnavailable, PullError
from catalog.model import HubSource, Model, PackageSource
from catalog.names.addresses import is_explicit
from catalog.store.progress import Progress, PullEvent, Stage
from catalog.store.store import Store, parse_address

if TYPE_CHECKING:  # imported when a model is pulled by name: a start needs none of it
    from catalog.curated.choosing import Wanted
    from catalog.curated.collection import Named

RESERVED = "pulls"
"""A path below /v1/models that is no model's."""
AT_ONCE = 4
"""The most pulls that a server works on; further ones wait."""


def is_address(what: str, catalog: Catalog) -> bool:
    """Whether ``what`` is a repository of the hub in any form, and no model of the catalogue."""
    return is_explicit(what) or ("/" in what and not catalog.knows(what))


def named(what: str, catalog: Catalog) -> Named | None:
    """The model of the curated catalogue that ``what`` names, unless it is an address or a row of ``catalog``.

    A pasted address is the repository it says, also where the curated catalogue would choose another.
    """
    if is_explicit(what) or _pullable(what, catalog):
        return None
    from catalog.curated.collection import curated

    return curated().find(what)


def _pullable(what: str, catalog: Catalog) -> bool:
    """Whether a row of the catalogue is meant that has files to pull, or is here already."""
    return catalog.knows(what) and catalog.resolve(what).local


def check_name(store: Store, catalog: Catalog, what: str, model_id: str) -> None:
    """Raises InvalidRequest for an id that the model ``what`` cannot be given."""
    if model_id.lower().split("/")[0] == RESERVED:
        raise InvalidRequest(f"name: '{RESERVED}' is a path of the server's API; choose another.", param="name")
    found = named(what, catalog)
    if found is not None:
        repositories = tuple(found.entry.repositories())
    elif is_address(what, catalog):
        repositories = (parse_address(what).repository,)
    else:
        raise InvalidRequest(
            f"name: it is for the model of a repository, and {what!r} has names of its own. Leave it out.",
            param="name",
        )
    store.check_free(model_id, repositories, catalog.get)


def pull_into(
    store: Store,
    catalog: Catalog,
    what: str,
    progress: Progress,
    *,
    revision: str = "main",
    token: str | None = None,
    memory: int | None = None,
    model_id: str | None = None,
    wanted: Callable[[], Wanted] | None = None,
) -> tuple[str, ...]:
    """Pull ``starter``, a model by name or ``[hub:]OWNER/REPOSITORY[:PATTERN]``; return the models' ids.

    A name is one of ``catalog``, else of the curated catalogue, whose form for this machine keeps what ``wanted``
    tells. ``memory`` (bytes) bounds the quantisation of a repository, ``model_id`` names its model. Raises
    ModelNotFound, as :func:`check_name` and as :meth:`Store.pull` do.
    """
    if model_id is not None:
        check_name(store, catalog, what, model_id)
    if what == "starter":
        return tuple(starter.ensure(catalog, store, progress))
    found = named(what, catalog)
    if found is not None:
        from catalog.curated.choosing import Wanted
        from catalog.curated.pulling import pull_named
        from catalog.hardware import detect

        keeps = Wanted() if wanted is None else wanted()
        pulled = pull_named(
            store, found, detect(), progress,
            wanted=keeps, token=token, revision=revision, model_id=model_id, known=catalog.get,
        )  # fmt: skip
        return (pulled.id,)
    if is_address(what, catalog):
        from catalog.curated.pulling import described

        row = store.pull_hub(
            what, progress,
            revision=revision, token=token, memory=memory, model_id=model_id,
            described=described, known=catalog.get,
        )  # fmt: skip
        return (row.id,)
    model = resolved(what, catalog)
    store.pull(model, progress, token=token, memory=memory)
    return (model.id,)


def resolved(what: str, catalog: Catalog) -> Model:
    """The row of this name. Raises ModelNotFound with the nearest names, the curated catalogue's included."""
    try:
        return catalog.resolve(what)
    except ModelNotFound as error:
        from catalog.curated.collection import curated

        nearest = tuple(dict.fromkeys((*curated().nearest(what), *error.nearest)))[:4]
        raise ModelNotFound(what, nearest=nearest) from None


class Library:
    """Pulls and removes models while the server runs.

    ``look`` puts what is on disk now in force in this process; ``announce`` tells the others to look, too.
    ``wanted`` tells what a model that is pulled by name must keep here; it is called in the pull's thread.
    """

    def __init__(
        self,
        store: Store,
        catalog: Callable[[], Catalog],
        pool: WorkerPool,
        *,
        look: Callable[[], Awaitable[None]],
        announce: Callable[[], Awaitable[None]],
        wanted: Callable[[], Wanted] | None = None,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._pool = pool
        self.look = look
        self._announce = announce
        self._wanted = wanted
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def check(self, what: str, model_id: str | None = None) -> None:
        """Raises ModelNotFound for an unknown model, and InvalidRequest for what is no address, or no free id."""
        catalog = self._catalog()
        self._check_known(what, catalog)
        if model_id is not None:
            await asyncio.to_thread(check_name, self._store, catalog, what, model_id)

    @staticmethod
    def _check_known(what: str, catalog: Catalog) -> None:
        if named(what, catalog) is not None:
            return
        if is_address(what, catalog):
            try:
                parse_address(what)
            except PullError as error:
                raise InvalidRequest(error.message, param="model") from None
        elif what != "starter":
            resolved(what, catalog)

    @asynccontextmanager
    async def pull(
        self, what: str, *, revision: str = "main", model_id: str | None = None
    ) -> AsyncIterator[AsyncIterator[PullEvent]]:
        """Pull ``what`` while the block runs; leaving it earlier stops the pull, and a later one resumes it.

        The iterator has the events, and ends once the model can be used. It raises as :func:`pull_into`.
        """
        memory = max((device.budget for device in self._pool.snapshot().devices), default=None)
        async with self._turns:
            pulling = _Pulling(
                lambda progress: pull_into(
                    self._store,
                    self._catalog(),
                    what,
                    progress,
                    revision=revision,
                    memory=memory,
                    model_id=model_id,
                    wanted=self._wanted,
                )
            )
            try:
                yield self._until_usable(pulling)
            finally:
                pulling.stop()

    async def _until_usable(self, pulling: _Pulling) -> AsyncIterator[PullEvent]:
        async for event in pulling.events():
            yield event
        await self._publish()

    async def _publish(self) -> None:
        await self.look()
        await self._announce()

    async def has(self, row: Model) -> bool:
        """Whether the store has files of a model, which :meth:`remove` deletes."""
        return any(stored.id == row.id for stored in await asyncio.to_thread(self._store.list))

    async def remove(self, row: Model) -> int:
        """Delete a model's files, except those that another model uses, and unload it; return the bytes freed.

        Raises InvalidRequest for a model whose files the store does not own, ModelUnavailable for one without any.
        """
        if not isinstance(row.source, PackageSource | HubSource) or not await self.has(row):
            raise not_removable(row)
        freed = await asyncio.to_thread(self._store.remove, row.id)
        await self._publish()
        await self._pool.unload(row.id)
        return freed


def not_removable(row: Model) -> InvalidRequest | ModelUnavailable:
    """The error of deleting a model of which the store has no files: another holds them, or none are here."""
    match row.source.kind:
        case "package" | "hub":
            return ModelUnavailable(f"The model '{row.id}' has no files on this machine.")
        case "upstream":
            where = "is served by another server"
        case "library":
            where = "is part of an installed package"
        case _:
            where = "is a file of your own, named in your settings or found in a folder"
    return InvalidRequest(
        f"The model '{row.id}' {where}; only models that were pulled can be deleted.", param="model"
    )


class _Stopped(Exception):
    """Ends a pull whose client has left."""


class _Pulling:
    """A pull in a thread of its own: it may take hours, and the loop's own threads are few.

    The thread is a daemon, so that it does not hold up the end of the process; its files are resumed later.
    """

    def __init__(self, work: Callable[[Progress], object]) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._events: deque[PullEvent] = deque()
        self._news = asyncio.Event()
        self._ended = False
        self._error: BaseException | None = None
        self._stopped = False
        Thread(target=self._run, name="pull", daemon=True).start()

    async def events(self) -> AsyncIterator[PullEvent]:
        """The events, of which a slow reader gets the latest of each file. Raises what the pull raised."""
        while True:
            while self._events:
                yield self._events.popleft()
            if self._ended:
                break
            self._news.clear()
            await self._news.wait()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the pull at its next event."""
        self._stopped = True

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._work(self._tell)
        except BaseException as raised:  # the boundary: a thread's errors belong to the request that began it
            error = raised
        self._call(lambda: self._end(error))

    def _tell(self, event: PullEvent) -> None:
        if self._stopped:
            raise _Stopped
        self._call(lambda: self._add(event))

    def _call(self, function: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop has ended, and the server with it
            self._stopped = True

    def _add(self, event: PullEvent) -> None:
        last = self._events[-1] if self._events else None
        counting = event.stage in (Stage.DOWNLOADING, Stage.VERIFYING)
        if last is not None and counting and (last.stage, last.file) == (event.stage, event.file):
            self._events.pop()
        self._events.append(event)
        self._news.set()

    def _end(self, error: BaseException | None) -> None:
        self._error = error
        self._ended = True
        self._news.set()
