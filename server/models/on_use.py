"""Pulls a model of the catalogue when a request names it and its files are not here: ``models.pull_on_use``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from catalog.catalog import Catalog
from catalog.errors import CapabilityMismatch, ModelNotFound, ModelUnavailable
from catalog.model import ENDPOINTS, Capability, HubSource, Model, PackageSource
from catalog.store.settings import ModelSettings
from routing.calling.answer import Answer
from routing.facts import Facts
from routing.plan import Block
from routing.reading.intent import is_auto
from routing.state.records import Record
from server.callers import Caller
from server.library import Library
from server.models.pulls import DONE, ENDED, FAILED, Pulls

if TYPE_CHECKING:  # imported with the curated catalogue, where a name has no row
    from catalog.curated.entries import Entry

T = TypeVar("T")
REST = 30.0
"""Seconds after a failed pull for which requests are refused, instead of trying again."""
TELL: ContextVar[Callable[[str], None] | None] = ContextVar("tell", default=None)
"""Takes a line on the progress of a request that has no answer yet; a stream sends it as a comment."""


class PullOnUse:
    """Puts a pull before a job whose model is known and not here."""

    def __init__(
        self,
        pulls: Pulls,
        library: Library,
        settings: ModelSettings,
        *,
        catalog: Callable[[], Catalog],
        unavailable: Callable[[Model], Block | None],
    ) -> None:
        self._pulls = pulls
        self._library = library
        self._catalog = catalog
        self._unavailable = unavailable
        self.enabled = settings.pull_on_use

    def configure(self, settings: ModelSettings) -> None:
        """Turn it on or off for new requests."""
        self.enabled = settings.pull_on_use

    def lacking(self, facts: Facts) -> str | None:
        """The name to pull of the model that a request names, if only its files are missing or it has no row.

        ``None`` if another replica is here, or it cannot do the request, which the router says.
        """
        if is_auto(facts.requested):
            return None
        try:
            rows = self._catalog().replicas(facts.requested)
        except ModelNotFound:
            return facts.requested  # perhaps one of the curated catalogue, which fetch() looks up in a thread
        blocks = [self._unavailable(row) for row in rows]
        if None in blocks:
            return None
        pulled = [row for row, block in zip(rows, blocks, strict=True) if block and block.code == "not_pulled"]
        able = [row for row in pulled if facts.tokens_only or _needs(facts) <= row.capabilities]
        return next((row.id for row in able if isinstance(row.source, HubSource | PackageSource)), None)

    def first(
        self, name: str, caller: Caller, facts: Facts, opening: AbstractAsyncContextManager[Answer[T]]
    ) -> AbstractAsyncContextManager[Answer[T]]:
        """The opening, once the model is here."""
        return _PulledFirst(self, name, caller, facts, opening)

    async def fetch(self, name: str, caller: Caller, facts: Facts | None = None) -> None:
        """Pull a model, or wait for the pull of another request; it goes on if this one ends.

        A name that no catalogue has is left to the router. Raises CapabilityMismatch for a model that cannot do
        the request of ``facts``, ModelUnavailable if the pull fails, or has just failed.
        """
        if not self._catalog().knows(name):
            entry = await asyncio.to_thread(known_to_pull, name)
            if entry is None:
                return
            if facts is not None and not (facts.tokens_only or _able(entry, facts)):
                raise CapabilityMismatch(
                    f"The model '{name}' cannot do this request: it is for "
                    f"{', '.join(sorted(entry.capabilities & ENDPOINTS))}, and not for {facts.capability}. "
                    "It was not pulled.",
                    param="model",
                )
        last = await self._pulls.latest(name)
        if last is not None and last.status == FAILED and last.body["ended_at"] > self._pulls.now() - REST:
            raise _failed(name, last)
        begun = await self._pulls.begin(caller, name)
        tell = TELL.get()
        record = begun
        async for record in self._pulls.follow(begun.id):
            if tell is not None:
                tell(progress_line(record))
        if record.status != DONE:
            raise _failed(name, record)
        await self._library.look()  # the end of the pull may not have been announced to this process yet


def _needs(facts: Facts) -> frozenset[Capability]:
    return frozenset({facts.capability, *facts.intent.require})


def _able(entry: Entry, facts: Facts) -> bool:
    """Whether a model may be able: the files of one that chats tell what else it does with text."""
    text = Capability.CHAT in entry.capabilities and facts.capability in _OF_TEXT
    return text or facts.capability in entry.capabilities


_OF_TEXT = frozenset(
    {Capability.CHAT, Capability.COMPLETION, Capability.CLASSIFY, Capability.MODERATE, Capability.SUMMARISE}
)


def known_to_pull(name: str) -> Entry | None:
    """The model of the curated catalogue whose pulled row will answer to ``name``, or ``None``."""
    from catalog.curated.collection import curated
    from catalog.curated.pulling import answers_to

    found = curated().find(name)
    return found.entry if found is not None and answers_to(found, name) else None


class _PulledFirst(AbstractAsyncContextManager[Answer[T]]):
    """Pulls a model, then opens a job."""

    def __init__(
        self,
        on_use: PullOnUse,
        name: str,
        caller: Caller,
        facts: Facts,
        opening: AbstractAsyncContextManager[Answer[T]],
    ) -> None:
        self._facts = facts
        self._on_use = on_use
        self._name = name
        self._caller = caller
        self._opening = opening

    async def __aenter__(self) -> Answer[T]:
        await self._on_use.fetch(self._name, self._caller, self._facts)
        return await self._opening.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._opening.__aexit__(kind, error, traceback)


def progress_line(record: Record) -> str:
    """The state of a pull in a line, such as ``pulling qwen3-8b: 1,204 of 4,683 MB``."""
    done, total = record.body["completed_bytes"], record.body["total_bytes"]
    if record.status in ENDED or not total:
        return f"pulling {record.body['model']}: {record.body['stage'] or record.status}"
    return f"pulling {record.body['model']}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB"


def _failed(name: str, record: Record) -> ModelUnavailable:
    error = record.body["error"]
    reason = f"pulling it was {record.status}" if error is None else str(error["message"]).rstrip(".")
    return ModelUnavailable(
        f"The model '{name}' is not on this machine: {reason}. Pull it with: roundhouse pull {name}",
        param="model",
    )
