"""The work on batches: check the input, answer its lines, make the files of results.

Results are in journals (:mod:`server.batches.journal`), so a batch whose process died goes on in another one, or
after a restart, with the lines that have none. The input is linked under the batch's own name, so that it may be
deleted meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
from codecs import BOM_UTF8
from collections.abc import Container, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import orjson
import structlog

from catalog.errors import RoundhouseError, Unavailable
from catalog.types import Json
from routing.state.records import Record
from server.batches.answering import Answering
from server.batches.dialects import Dialect, OpenAIDialect, Unfinished, tokens_of
from server.batches.groups import notice_of
from server.batches.journal import USUAL, Done, Lines, ResultJournal, Spare, Tokens, entries, read_done
from server.batches.lines import Check, read_lines
from server.batches.offloading import Offloading
from server.batches.pacing import Pacer
from server.batches.waits import Waits
from server.callers import Caller
from server.edge.errors import as_error
from server.runtime import Runtime
from server.storage.runner import CANCELLING
from server.storage.settings import StorageSettings
from server.storage.slots import Slot, unbounded

TELL = 1.0
"""Seconds between two changes of the counts in a batch's record."""
REST = 5.0
"""Seconds until a batch goes on whose results could not be written; twice as many with each further try."""
LONGEST_REST = 60.0
INPUT, RESULTS = "input", "results"
OFFLOADED = "offloaded"
"""The member of a batch's internal ones that tells of its providers' batches."""
INTERNAL = "internal"
"""The member of a batch's body that no caller is shown."""
_ENDS: dict[Unfinished, str] = {"cancelled": "cancelled", "expired": "expired", "failed": "failed"}


class BatchWork:
    """Works on the batches of one API; see :class:`server.storage.runner.BackgroundWork`."""

    unfinished: Sequence[str] = ("validating", "in_progress", "finalizing")

    def __init__(
        self, runtime: Runtime, settings: StorageSettings, dialect: Dialect, pacer: Pacer, *, longest_line: int
    ) -> None:
        self._pacer = pacer
        self._runtime = runtime
        self._files = runtime.files
        self._records = runtime.storage.records
        self._dialect = dialect
        self._concurrency = settings.batch_concurrency
        self._longest_line = longest_line
        self.kind = dialect.kind
        self.at_once = settings.batches

    async def run(self, record: Record, slot: Slot) -> None:
        """Bring a batch to its end, from wherever it is. It rests from its slot while no line is in flight."""
        batch: Record | None = record
        if record.status == "validating":
            batch = await self._check(record)
        if batch is not None and batch.status == "in_progress":
            batch = await self._answer(batch, slot)
        if batch is not None and batch.status == "finalizing":
            try:
                await self._finish(batch, batch.body[INTERNAL].get("ending"))
            except (OSError, Unavailable) as error:  # the answers are in the journals: a later try makes the files
                _warn(batch, error)
                await slot.sleep(REST)

    async def end(self, record: Record, error: BaseException | None) -> None:
        """Store what a batch has when it is cancelled, or cannot go on."""
        if error is not None:
            told = as_error(error) if isinstance(error, Exception) else RoundhouseError("The batch was stopped.")
            problem = {"code": told.code, "message": told.message, "line": None, "param": None}
            record = record.changed(errors={"object": "list", "data": [problem]})
        await self._recall(record)
        await self._finish(record, "cancelled" if error is None else "failed")

    # ---- checking

    async def _check(self, batch: Record) -> Record | None:
        """Check every line of OpenAI's input; Anthropic's was checked when it came."""
        dialect, storage = self._dialect, self._runtime.storage
        assert isinstance(dialect, OpenAIDialect)
        check = Check(
            dialect.type_of(batch.body["endpoint"]),
            self._runtime,
            most=storage.settings.batch_lines,
            limit=self._longest_line,
        )
        found = await check.run(self._path(batch, INPUT))
        now = int(storage.now())
        if found.errors:
            errors = {"object": "list", "data": found.errors}
            counts = {"total": 0, "completed": 0, "failed": 0}
            failed = await self._change(batch, "failed", errors=errors, failed_at=now, request_counts=counts)
            self._clear(batch)
            return failed
        counts = {"total": found.total, "completed": 0, "failed": 0}
        return await self._change(
            batch, "in_progress", in_progress_at=now, request_counts=counts, model=found.model
        )

    # ---- answering

    async def _answer(self, batch: Record, slot: Slot) -> Record | None:
        """Ask every line that has no result yet. ``None`` if the batch is being cancelled, or is gone."""
        run = batch.body[INTERNAL].get("runs", 0) + 1
        started = await self._change(batch, internal={**batch.body[INTERNAL], "runs": run}, notice=_notice(batch))
        if started is None:
            return None
        done = await asyncio.to_thread(read_done, self._journals(started))
        done.longest = max(done.longest, started.body[INTERNAL].get("longest", 0))
        progress = _Progress(self, started, done)
        journal = ResultJournal(self._path(started, f"{run}.journal"), done, progress.flushed)
        ending: str | None = None
        waits = self._waits(started)
        answering = self._answering(started, journal, slot, waits)
        offloading = self._offloading(started, answering, slot, waits)
        source = self._path(started, INPUT)
        left = started.body["expires_at"] - self._runtime.storage.now()
        try:
            async with asyncio.timeout(max(0.0, left)):
                await self._room(started, done, slot)
                away = await offloading.collect(read_lines(source, self._longest_line), done.lines)
                here = _Either(done.lines, away)
                await answering.answer(read_lines(source, self._longest_line), here)
                if away.count and journal.full is None:
                    await offloading.follow(done.lines)
                    if offloading.stopped:
                        return None
                    refusals = offloading.refusals()
                    await answering.refuse(read_lines(source, self._longest_line), refusals)
                    rest = _Either(refusals, offloading.unanswered())
                    await answering.answer(read_lines(source, self._longest_line), rest)
        except TimeoutError:
            ending = "expired"
            async with slot.resting():
                await offloading.recall(done.lines)
        except ExceptionGroup as errors:
            _, others = errors.split(OSError)
            if others is not None or journal.failed is None:
                raise
        finally:
            await journal.finish()
        if journal.full is not None and ending is None:
            _warn(batch, journal.full)
            with suppress(RoundhouseError, OSError):  # the next run is to keep room for results of this size
                internal = {**started.body[INTERNAL], "longest": done.longest}
                await self._change(started, internal=internal, request_counts=progress.counts())
            await slot.sleep(REST)
            return None
        if progress.stopped:
            return None
        now = int(self._runtime.storage.now())
        internal = {**started.body[INTERNAL], "ending": ending, OFFLOADED: offloading.told}
        counts = progress.counts()
        return await self._change(
            started, "finalizing", finalizing_at=now, request_counts=counts, internal=internal
        )

    async def _room(self, batch: Record, done: Done, slot: Slot) -> None:
        """Wait until the disk has room for a result, so that no answer is paid for that cannot be kept."""
        rest, spare = REST, Spare(self._files.folder)
        while True:
            try:
                return await asyncio.to_thread(spare.grow, max(USUAL, done.longest))
            except OSError as error:
                _warn(batch, error)
            finally:
                spare.free()
            await slot.sleep(rest)
            rest = min(LONGEST_REST, rest * 2)

    def _waits(self, batch: Record) -> Waits:
        async def save() -> None:
            current = await self._records.get(self.kind, batch.id)
            if current is not None:
                await self._change(batch, notice=_notice(current, waits))

        waits = Waits(batch.id, save)
        return waits

    def _answering(self, batch: Record, journal: ResultJournal, slot: Slot, waits: Waits) -> Answering:
        return Answering(self._runtime, self._dialect, batch, journal, self._concurrency, self._pacer, slot, waits)

    def _offloading(
        self, batch: Record, answering: Answering, slot: Slot, waits: Waits, *, ending: bool = False
    ) -> Offloading:
        """The part of a batch that goes to providers. ``ending``: its record is changed though it is cancelled."""

        async def save(told: list[Json]) -> bool:
            told_of = batch.changed(internal={**batch.body[INTERNAL], OFFLOADED: told})
            members = {INTERNAL: told_of.body[INTERNAL], "notice": _notice(told_of, waits)}
            return await self._change(batch, **members, ended=ending) is not None

        return Offloading(
            self._runtime,
            batch,
            answering,
            slot,
            told=batch.body[INTERNAL].get(OFFLOADED),
            path=partial(self._path, batch),
            save=save,
            waits=waits,
        )

    async def _recall(self, batch: Record) -> None:
        """Cancel what is at providers, and add the results that they have."""
        if not batch.body[INTERNAL].get(OFFLOADED):
            return
        done = await asyncio.to_thread(read_done, self._journals(batch))
        run = batch.body[INTERNAL].get("runs", 0) + 1
        journal = ResultJournal(self._path(batch, f"{run}.journal"), done, _nothing)
        try:
            slot = unbounded(batch.owner)
            waits = self._waits(batch)
            answering = self._answering(batch, journal, slot, waits)
            offloading = self._offloading(batch, answering, slot, waits, ending=True)
            await offloading.recall(done.lines)
        except ExceptionGroup as errors:
            failed, others = errors.split(OSError)
            if failed is None or others is not None or journal.failed is None:
                raise
            raise journal.failed from None  # tried again: the results were paid for
        finally:
            await journal.finish()

    # ---- finishing

    async def _finish(self, batch: Record, ending: Unfinished | None) -> None:
        """Make the files of results, and store the end."""
        with ExitStack() as stack:
            answers = stack.enter_context(self._files.temporary())
            errors = answers if self._dialect.one_file else stack.enter_context(self._files.temporary())
            settled = await asyncio.to_thread(self._settle, batch, ending, answers, errors)
            told: Json = {"request_counts": settled.counts(batch), "usage": settled.usage}
            told |= {"errors": batch.body.get("errors"), "notice": _notice(batch)}
            if self._dialect.one_file:
                await self._files.publish(answers, self._path(batch, RESULTS))
                told[INTERNAL] = {**batch.body[INTERNAL], "unfinished": settled.unfinished, "ending": ending}
            else:
                told["output_file_id"] = await self._keep(batch, answers, "output")
                told["error_file_id"] = await self._keep(batch, errors, "error")
        now = int(self._runtime.storage.now())
        status = _ENDS[ending] if ending else "completed"
        if await self._change(batch, status, **{f"{status}_at": now}, **told, ended=True) is not None:
            self._clear(batch)

    def _settle(self, batch: Record, ending: Unfinished | None, answers: IO[bytes], errors: IO[bytes]) -> _Settled:
        """Write the results of the journals, and those of lines without one."""
        settled = _Settled(Done(Lines()))
        for entry in entries(self._journals(batch), settled.done):
            (answers if entry.answered else errors).write(entry.result + b"\n")
            if entry.answered:
                settled.add(entry.tokens or tokens_of(orjson.loads(entry.result)))
        path = self._path(batch, INPUT)
        if ending is not None and settled.total(batch) and path.exists():
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip() and number not in settled.done.lines:
                        settled.unfinished += 1
                        name = self._dialect.custom_id(line.removeprefix(BOM_UTF8))
                        errors.write(orjson.dumps(self._dialect.unfinished(batch, number, name, ending)) + b"\n")
        return settled

    async def _keep(self, batch: Record, content: IO[bytes], what: str) -> str | None:
        """Keep results as a file of the caller, once however often asked; its id, ``None`` if it is empty."""
        size = content.tell()
        if not size:
            return None
        name = f"file-{hashlib.sha256(f'{batch.id} {what}'.encode()).hexdigest()[:32]}"
        storage = self._runtime.storage
        after = batch.body[INTERNAL].get("output_seconds")
        record = self._files.described(
            name,
            Caller(batch.owner),
            size=size,
            filename=f"{batch.id}_{what}.jsonl",
            purpose="batch_output",
            expires_at=storage.now() + (after or storage.settings.keep),
        )
        await self._files.keep(record, content, bounded=False)
        return name

    # ---- the record and the files of a batch

    async def _change(
        self, batch: Record, status: str | None = None, *, ended: bool = False, **members: Any
    ) -> Record | None:
        """Change a batch; ``None`` if it is being cancelled (unless this is its end) or is gone."""
        while True:
            current = await self._records.get(self.kind, batch.id)
            if current is None or (current.status == CANCELLING and not ended):
                return None
            changed = await self._records.replace(current.changed(status=status, **members))
            if changed is not None:
                return changed

    def _path(self, batch: Record, what: str) -> Path:
        return self._files.path(f"{batch.id}.{what}")

    def _journals(self, batch: Record) -> list[Path]:
        found = self._files.folder.glob(f"{batch.id}.*.journal")
        return sorted(found, key=lambda path: int(path.name.split(".")[1]))

    def _clear(self, batch: Record) -> None:
        sent = self._files.folder.glob(f"{batch.id}.*.sent")
        for path in (self._path(batch, INPUT), *self._journals(batch), *sent):
            path.unlink(missing_ok=True)


def _notice(batch: Record, waits: Waits | None = None) -> str | None:
    """The notice of a batch: the lines that providers did not answer, and what it waits for now."""
    notices = (notice_of(batch.body[INTERNAL].get(OFFLOADED) or ()), None if waits is None else waits.notice())
    return " ".join(filter(None, notices)) or None


class _Either(Container[int]):
    """The numbers of two sets, as they are when they are asked."""

    def __init__(self, *sets: Container[int]) -> None:
        self._sets = sets

    def __contains__(self, number: object) -> bool:
        return any(number in each for each in self._sets)


def _warn(batch: Record, error: Exception) -> None:
    structlog.get_logger("server.batches").warning(
        "batch.not_written", batch=batch.id, error=str(error), will="try again"
    )


async def _nothing() -> None:
    return None


class _Progress:
    """Tells the counts in the batch's record, not more often than every ``TELL`` seconds."""

    def __init__(self, work: BatchWork, batch: Record, done: Done) -> None:
        self._work = work
        self._batch = batch
        self._done = done
        self._told_at = 0.0
        self.stopped = False

    def counts(self) -> Json:
        done, failed = self._done.lines.count, self._done.failed
        total = self._batch.body["request_counts"]["total"]
        return {"total": total, "completed": done - failed, "failed": failed}

    async def flushed(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._told_at < TELL:
            return
        self._told_at = now
        try:
            changed = await self._work._change(self._batch, request_counts=self.counts())
        except (RoundhouseError, OSError):
            return  # the counts are told with the next group
        self.stopped = self.stopped or changed is None


class _Settled:
    """The results of a batch in all."""

    def __init__(self, done: Done) -> None:
        self.done = done
        self.unfinished = 0
        self._tokens: Tokens = (0, 0, 0, 0)

    def counts(self, batch: Record) -> Json:
        done, failed = self.done.lines.count, self.done.failed
        return {"total": self.total(batch), "completed": done - failed, "failed": failed}

    @staticmethod
    def total(batch: Record) -> int:
        """The requests of the batch; 0 if it was not checked."""
        total: int = batch.body["request_counts"]["total"]
        return total

    def add(self, tokens: Tokens) -> None:
        read, written, cached, reasoning = map(sum, zip(self._tokens, tokens, strict=True))
        self._tokens = read, written, cached, reasoning

    @property
    def usage(self) -> Json:
        """The tokens of all answers, as OpenAI's batches tell them."""
        read, written, cached, reasoning = self._tokens
        return {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": read + written,
        }
