"""The work on videos: ask a model, store progress as it comes, and keep the file.

A video whose process died goes on where a server has accepted the work; one of a model of this machine is begun
again, as that costs nothing but time. Any other has failed: a provider may be at work on it, and must not be paid
twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import IO

import structlog

from backends.wire.video.events import ACCEPTED, COMPLETED, PROGRESS, VideoItem
from backends.wire.video.request import MAX_SOURCE, DiscardRequest, VideoRequest
from catalog.errors import NotFound, RoundhouseError, Unavailable, UndecodableMedia, UpstreamProtocolError
from catalog.types import Json
from routing.calling.answer import Answer
from routing.facts import Facts
from routing.reading.intent import is_auto
from routing.state.records import Record
from server.batches.asking import caller_of_owner, passes, rest_after
from server.callers import Caller, Origin
from server.jobs import discard_job, open_job, permitted, video_job
from server.runtime import Runtime
from server.storage.slots import Slot
from server.videos.objects import (
    IMAGE,
    INTERNAL,
    MP4,
    QUEUED,
    RUNNING,
    SOURCE,
    VIDEO,
    changed,
    delete_files,
    request_of,
)
from server.videos.stills import Stills

TELL = 1.0
"""Seconds between two changes of the progress in a video's record."""
DISCARD = 10.0
"""Seconds for which a server is asked to end its work."""
_LONGEST_REST = 60.0
_HEAD = 12
"""Bytes of an MP4 in which its kind stands (ISO/IEC 14496-12, section 4.3: ``ftyp``)."""

Headers = Mapping[str, str]


class VideoWork:
    """Makes queued videos; see :class:`server.storage.runner.BackgroundWork`."""

    kind = VIDEO
    unfinished = (QUEUED, RUNNING)
    keeps_slot = True

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._openings: dict[str, asyncio.Future[Headers]] = {}
        self.stills = Stills()

    @property
    def at_once(self) -> int:
        return self._runtime.storage.settings.videos

    @asynccontextmanager
    async def watched(self, name: str) -> AsyncIterator[asyncio.Future[Headers]]:
        """The beginning of a video, while the block lasts: the headers of its answer, or the error of its call.

        A first call that fails in the meantime is not tried again, as its caller hears of it.
        """
        future = self._openings[name] = asyncio.get_running_loop().create_future()
        try:
            yield future
        finally:
            del self._openings[name]
            if future.done() and not future.cancelled():
                future.exception()  # read, so that it is not reported as lost

    async def run(self, record: Record, slot: Slot) -> None:
        """Make a video. Raises what opening and reading an answer raise.

        Raises Unavailable for one that a provider may have been asked for before, without an answer that is known.
        """
        tries = 0
        while True:
            making = _Making(self._runtime, record)
            try:
                await self._make(making, slot)
                return
            except RoundhouseError as error:
                tries += 1
                watched = self._openings.get(record.id)
                if watched is not None and not watched.done():
                    watched.set_exception(error)
                    raise
                billed = getattr(error, "may_bill", False)  # it may have been taken: it must not be paid twice
                if making.begun or billed or not passes(error, tries):
                    raise
                rest = min(_LONGEST_REST, rest_after(error, tries))
            await slot.sleep(rest)
            again = await self._runtime.storage.records.get(VIDEO, record.id)
            if again is None or again.status not in self.unfinished:
                return
            record = changed(again, None, {"begun": False})

    async def end(self, record: Record, error: BaseException | None) -> None:
        """Store that a video was cancelled or has failed. A server deletes what it has of a cancelled one."""
        if error is None:
            await self.discard(record)
            told: Json = {"code": "cancelled", "message": "The video was cancelled."}
        else:
            told = _told(error)
        video = {**record.body["video"], "status": "failed", "error": told}
        files = self._runtime.files
        ended = replace(record, body={**record.body, "video": video}, status="")
        if await self._runtime.storage.records.replace(ended) is not None:
            delete_files(files, record.id)

    async def discard(self, record: Record) -> None:
        """Ask the server that works on a video, or has made it, to delete what it has. A failure is logged."""
        internal = record.body[INTERNAL]
        if internal["accepted"] is None or internal.get("model") is None:
            return
        asked = DiscardRequest(model=internal["model"], accepted=internal["accepted"])
        try:
            origin = Origin(caller_of_owner(self._runtime, record.owner), token_hex(16))
            job = discard_job(asked, origin, provider_key=internal["key"])
            async with asyncio.timeout(DISCARD), self._runtime.dispatcher.open(job) as answer:
                async for _ in answer:
                    pass
        except (RoundhouseError, TimeoutError) as error:
            structlog.get_logger("server.videos").warning(
                "video.not_discarded", video=record.id, error=str(error) or "timeout"
            )

    # ---- making

    async def _make(self, making: _Making, slot: Slot) -> None:
        runtime, record = self._runtime, making.record
        files = runtime.files
        caller = caller_of_owner(runtime, record.owner)
        internal = record.body[INTERNAL]
        body = await self._request(record)
        origin = Origin(caller, token_hex(16), internal["headers"])
        job = video_job(body, origin, provider_key=internal["key"])
        if internal["begun"] and internal["accepted"] is None and not self._is_local(job.facts, caller):
            making.begun = True  # it is not tried again
            raise Unavailable("The server stopped while it asked for this video. Ask again.")
        if not await making.change(internal={"begun": True}):
            return
        async with open_job(runtime, job, caller) as answer, AsyncExitStack() as held:
            if not await making.begin(answer):
                return
            watched = self._openings.get(record.id)
            if watched is not None and not watched.done():
                watched.set_result(answer.headers())
            file = held.enter_context(files.temporary())
            await self._receive(making, answer, file, slot)
            path = Path(file.name)
            await asyncio.to_thread(file.flush)
            told = await self._checked(path, answer)
            await files.publish(file, files.path(f"{record.id}.{MP4}"))
        if not await making.finish(told):
            delete_files(files, record.id)

    async def _request(self, record: Record) -> VideoRequest:
        """The request of a record, by the model that is at work on it. Raises NotFound for files that are gone."""
        internal = record.body[INTERNAL]
        given: dict[str, bytes | None] = {IMAGE: None, SOURCE: None}
        if internal["accepted"] is None:
            if internal["image_type"] is not None:
                given[IMAGE] = await self._read(record, IMAGE)
            if internal["task"] != "create":
                given[SOURCE] = await self._read(record, SOURCE)
        body = request_of(record, image=given[IMAGE], source=given[SOURCE])
        made_by = internal.get("model")
        return body if made_by is None else body.model_copy(update={"model": made_by})

    async def _read(self, record: Record, ending: str) -> bytes:
        path = self._runtime.files.path(f"{record.id}.{ending}")
        try:
            data = await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:
            raise NotFound("What the video was to be made from is gone. Send it again.") from None
        assert len(data) <= MAX_SOURCE
        return data

    def _is_local(self, facts: Facts, caller: Caller) -> bool:
        """Whether no provider may have been asked: only models of this machine can answer.

        Raises ModelNotFound for a model that is there no more.
        """
        if not is_auto(facts.requested):
            return all(row.local for row in self._runtime.catalog.replicas(facts.requested))
        plan = self._runtime.dispatcher.explain(permitted(facts, caller, self._runtime.catalog))
        return bool(plan.candidates) and all(candidate.model.local for candidate in plan.candidates)

    async def _receive(self, making: _Making, answer: Answer[VideoItem], file: IO[bytes], slot: Slot) -> None:
        """Write the video into a file, and tell its progress. Work at a server that goes on by itself has no slot.

        Raises UpstreamProtocolError for a video that is too large, and what reading the answer raises.
        """
        most = self._runtime.storage.settings.file_bytes
        size = 0
        items = aiter(answer)
        try:
            async with AsyncExitStack() as rest:
                async for item in items:
                    if isinstance(item, bytes):
                        size += len(item)
                        if size > most:
                            raise UpstreamProtocolError(
                                f"The video has more than {most:,} bytes. Ask for a shorter one, or raise "
                                "storage.file_bytes."
                            )
                        await asyncio.to_thread(file.write, item)
                    elif item["type"] == ACCEPTED:
                        await making.accept(answer, str(item["id"]))
                        await rest.enter_async_context(slot.resting())
                    elif item["type"] == PROGRESS:
                        await making.progress(int(item["progress"]))
                    elif item["type"] == COMPLETED:
                        making.completed = item
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()
        making.size = size

    async def _checked(self, path: Path, answer: Answer[VideoItem]) -> Json:
        """Facts of the file: seconds and size. Raises UpstreamProtocolError for one that is no MP4."""
        head = await asyncio.to_thread(_head_of, path)
        wrong = UpstreamProtocolError(f"'{answer.model.id}' made a file that is no MP4.")
        if head[4:8] != b"ftyp":
            raise wrong
        try:
            return await self.stills.describe(path) or {}
        except UndecodableMedia:
            raise wrong from None


class _Making:
    """One try at a video, and its record as this process stored it last."""

    def __init__(self, runtime: Runtime, record: Record) -> None:
        self._runtime = runtime
        self._told_at = float("-inf")
        self.record = record
        self.begun = record.body[INTERNAL]["accepted"] is not None
        self.completed: Json = {}
        self.size = 0

    async def change(
        self, status: str | None = None, internal: Json | None = None, video: Json | None = None
    ) -> bool:
        """Change the record, and members of the video; False if it was cancelled or deleted meanwhile."""
        stored = await self._runtime.storage.records.replace(changed(self.record, status, internal, video))
        if stored is None:
            return False
        self.record = stored
        return True

    async def begin(self, answer: Answer[VideoItem]) -> bool:
        """Store which model is at work. False as :meth:`change`."""
        self.begun = True
        headers = answer.headers()
        notes: Json = {"trace": answer.trace, "reason": headers["x-roundhouse-reason"]}
        if dropped := headers.get("x-roundhouse-dropped"):
            notes["dropped"] = [name.strip() for name in dropped.split(",")]
        told = {"model": answer.model.id, "status": RUNNING, "x-roundhouse": notes}
        return await self.change(RUNNING, {"model": answer.model.id}, told)

    async def accept(self, answer: Answer[VideoItem], name: str) -> None:
        """Store the name of the work at its server, which goes on if this process ends."""
        await self.change(internal={"accepted": name, "key": answer.provider_key})

    async def progress(self, percent: int) -> None:
        """Store the progress, now and then; it never goes back, and the end alone is 100."""
        now = asyncio.get_running_loop().time()
        shown = min(percent, 99)
        if shown > self.record.body["video"]["progress"] and now - self._told_at >= TELL:
            self._told_at = now
            await self.change(video={"progress": shown})

    async def finish(self, told: Json) -> bool:
        """Store the end of a video that was made. False as :meth:`change`."""
        storage = self._runtime.storage
        video = self.record.body["video"]
        notes: Json = {**video.get("x-roundhouse", {})}
        notes |= {name: self.completed[name] for name in ("seed", "fps") if self.completed.get(name) is not None}
        seconds = told.get("seconds") or self.completed.get("seconds")
        members: Json = {
            "status": "completed",
            "progress": 100,
            "completed_at": int(storage.now()),
            "expires_at": None if self.record.expires_at is None else int(self.record.expires_at),
            "x-roundhouse": notes,
        }
        if seconds:
            members["seconds"] = f"{round(float(seconds), 2):g}"
        if told.get("width"):
            members["size"] = f"{told['width']}x{told['height']}"
        elif self.completed.get("size"):
            members["size"] = self.completed["size"]
        done = changed(self.record, "", {"headers": {}}, members)
        stored = await storage.records.replace(done.changed(bytes=self.size))
        for ending in (IMAGE, SOURCE):
            with suppress(OSError):
                self._runtime.files.path(f"{self.record.id}.{ending}").unlink(missing_ok=True)
        return stored is not None


def _head_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _told(error: BaseException) -> Json:
    """The error of a video that failed, as OpenAI tells it."""
    if isinstance(error, RoundhouseError):
        return {"code": error.code, "message": error.message, "type": error.type, "param": error.param}
    return {"code": "server_error", "message": "Something went wrong in the server."}
