"""Files of callers on disk: the bytes of what a record describes.

The id of the record names the file, never the caller's name for it. A file is written under a temporary name and
gets its own when it is complete, so a file with an id is whole. Leftovers of interrupted uploads, and files whose
record expired, are swept.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import IO, Any

import structlog

from catalog.errors import (
    ConfigurationError,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    RateLimited,
    RoundhouseError,
    Unavailable,
)
from catalog.types import Json
from routing.state.records import Record, RecordQuery, every
from server.callers import Caller
from server.storage.storage import Storage

FILE, PART, PICTURE, VIDEOS = "file", "upload_part", "picture", "video"
VOICE, CONSENT = "voice", "voice_consent"
TEMPORARY = ".tmp"
SWEEP_EVERY = 600.0
LEFT_OVER = 3600.0
"""Seconds without a change after which a file without a record is a leftover."""
BLOCK = 1 << 20


class FilesFull(RateLimited):
    """The files of a key take all the room that one key may use."""

    code = "storage_full"


class Files:
    """Keeps files of callers in one folder, within the settings' bounds."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        self.storage = storage
        self.folder = folder

    def open(self) -> None:
        """Make the folder. Raises ConfigurationError if it cannot be written."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ConfigurationError(
                f"The folder of files {self.folder} cannot be written ({error.strerror}). "
                "Set storage.files to another."
            ) from error

    def path(self, name: str) -> Path:
        """The path of the file with this id, which is one of ours."""
        return self.folder / name

    @contextmanager
    def temporary(self) -> Iterator[IO[bytes]]:
        """A new file that only this user may read, deleted in the end.

        Raises Unavailable for a disk that fails, also while the file is written in the context.
        """
        with writing(), NamedTemporaryFile(dir=self.folder, suffix=TEMPORARY) as file:
            yield file

    def described(
        self, name: str, caller: Caller, *, size: int, filename: str, purpose: str, expires_at: float | None
    ) -> Record:
        """The record of a file of the caller, with OpenAI's file object as its body."""
        body: Json = {
            "id": name,
            "object": "file",
            "bytes": size,
            "created_at": int(self.storage.now()),
            "expires_at": None if expires_at is None else int(expires_at),
            "filename": filename,
            "purpose": purpose,
            "status": "processed",
            "status_details": None,
        }
        return self.storage.new(FILE, name, body, caller, expires_at=expires_at)

    async def keep(
        self, record: Record, content: IO[bytes], *, bounded: bool = True, instead_of: Sequence[Record] = ()
    ) -> None:
        """Store a file: the bytes of a :meth:`temporary` one under the record's id, and the record.

        Files that it is kept ``instead_of``, which its caller deletes next, take no room beside it. Raises
        PayloadTooLarge for a file above ``file_bytes``, and FilesFull where the owner's files would take more than
        ``file_bytes_per_key``; both only if ``bounded``. Raises Unavailable for a disk that fails.
        """
        settings = self.storage.settings
        if bounded and record.body["bytes"] > settings.file_bytes:
            raise too_large(settings.file_bytes)
        path = self.path(record.id)
        await self.publish(content, path)
        try:
            if bounded:
                await self.storage.keep(record)
            else:
                await self.storage.records.add([record])
            # Counted with the new file in it: of uploads at the same time none passes the bound unseen.
            leaving = sum(each.body["bytes"] for each in instead_of)
            if bounded and await self.used(record.owner) - leaving > settings.file_bytes_per_key:
                await self.storage.records.delete(record.kind, record.id)
                raise _full(settings.file_bytes_per_key)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    async def publish(self, content: IO[bytes], path: Path) -> None:
        """Give a temporary file its name. Raises Unavailable for a disk that fails."""
        with writing():
            await asyncio.to_thread(_publish, content, path)

    async def link(self, record: Record, path: Path) -> None:
        """Keep the bytes of a file under another name too, so that it may be deleted.

        Raises NotFound if they are gone.
        """
        try:
            with writing():
                await asyncio.to_thread(os.link, self.path(record.id), path)
        except FileNotFoundError:
            raise NotFound(f"The content of the file {record.id!r} is gone. Upload it again.") from None

    async def check_room(self, owner: str) -> None:
        """Raises FilesFull for an owner whose files take more than ``file_bytes_per_key``, as results may."""
        room = self.storage.settings.file_bytes_per_key
        if await self.used(owner) > room:
            raise _full(room)

    async def used(self, owner: str) -> int:
        """The bytes of all files of an owner, with parts of uploads, videos, and what message batches keep."""
        total = 0
        async for record in every(self.storage.records, RecordQuery("message_batch", owner=owner, limit=1000)):
            for what in ("input", "results"):
                with suppress(FileNotFoundError):
                    total += self.path(f"{record.id}.{what}").stat().st_size
        for kind in (FILE, PART, PICTURE, VIDEOS, VOICE, CONSENT):
            async for record in every(self.storage.records, RecordQuery(kind, owner=owner, limit=1000)):
                total += record.body["bytes"]
        return total

    async def delete(self, record: Record) -> bool:
        """Delete a file and its record; whether there was one."""
        deleted = await self.storage.records.delete(record.kind, record.id, record.owner)
        self.path(record.id).unlink(missing_ok=True)
        return deleted

    async def join(self, parts: Sequence[Record], into: IO[bytes]) -> tuple[int, str]:
        """Write the parts one after another; returns the bytes and their MD5 in hexadecimal digits.

        Raises InvalidRequest for a part that is gone.
        """
        try:
            with writing():
                return await asyncio.to_thread(_join, [self.path(part.id) for part in parts], into)
        except FileNotFoundError:
            raise InvalidRequest("A part of the upload is gone. Upload it again.", param="part_ids") from None

    # ---- sweeping

    async def sweep_always(self) -> None:
        """Delete leftovers now and every ``SWEEP_EVERY`` seconds."""
        while True:
            try:
                await self.sweep()
            except (RoundhouseError, OSError) as error:
                structlog.get_logger("server.files").warning("files.not_swept", error=str(error), will="try again")
            await asyncio.sleep(SWEEP_EVERY)

    async def sweep(self) -> int:
        """Delete old files without a record; returns their number."""
        old = await asyncio.to_thread(lambda: list(_unchanged(self.folder, self.storage.now() - LEFT_OVER)))
        deleted = 0
        for path in old:
            if not await self._is_known(path.name):
                path.unlink(missing_ok=True)
                deleted += 1
        return deleted

    async def _is_known(self, name: str) -> bool:
        """Whether a record needs the file of this name; one of a batch begins with its id and a dot."""
        owner, _, _ = name.partition(".")
        prefix = next((prefix for prefix in _KINDS if owner.startswith(prefix)), None)
        return prefix is not None and await self.storage.records.get(_KINDS[prefix], owner) is not None


_KINDS = {
    "file-": FILE,
    "part_": PART,
    "img_": PICTURE,
    "batch_": "batch",
    "msgbatch_": "message_batch",
    "video_": VIDEOS,
    "voice_": VOICE,
    "cons_": CONSENT,
}
"""The kinds of records by the beginning of their ids."""


def _full(room: int) -> FilesFull:
    return FilesFull(
        f"The files of this key take all the {room:,} bytes that one key may use. Delete some, or raise "
        "storage.file_bytes_per_key."
    )


def too_large(limit: int) -> PayloadTooLarge:
    """The error for a file above the limit of one file, in bytes."""
    return PayloadTooLarge(f"The file has more than {limit:,} bytes. Send less, or raise storage.file_bytes.")


class writing:  # noqa: N801 - reads as a statement
    """Turns a failing disk into Unavailable."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise Unavailable(
                f"The disk cannot store files at the moment ({error.strerror}). Try again."
            ) from error


def _publish(content: IO[bytes], path: Path) -> None:
    content.flush()
    os.fsync(content.fileno())
    path.unlink(missing_ok=True)  # of an earlier try that ended before its record was stored
    os.link(content.name, path)


def _join(parts: Iterable[Path], into: IO[bytes]) -> tuple[int, str]:
    digest, size = hashlib.md5(usedforsecurity=False), 0
    for part in parts:
        with part.open("rb") as source:
            while block := source.read(BLOCK):
                digest.update(block)
                into.write(block)
                size += len(block)
    return size, digest.hexdigest()


def _unchanged(folder: Path, since: float) -> Iterable[Path]:
    for entry in os.scandir(folder):
        with suppress(OSError):
            if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_mtime < since:
                yield Path(entry.path)
