"""The lines of a batch's input: read a block at a time, and checked."""

from __future__ import annotations

import asyncio
from codecs import BOM_UTF8
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import StringConstraints, create_model

from backends.wire.common import WireModel
from catalog.errors import InvalidRequest, ModelNotFound, RoundhouseError
from catalog.types import Json
from routing.reading.intent import is_auto
from server.answers.whole import Question
from server.callers import Origin
from server.edge.json_body import SHORT, parse
from server.runtime import Runtime

BLOCK = 1 << 20
MOST_ERRORS = 100
"""Errors of lines that are told; the check ends there."""
CustomId = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class Closable(Protocol):
    """A thing that is closed after use."""

    def close(self) -> object: ...


Opened = TypeVar("Opened", bound=Closable)


@dataclass(frozen=True, slots=True)
class Door:
    """An endpoint that a line may ask: the type of its body, and the question that a body is."""

    reads: type[WireModel]
    ask: Callable[[Any, Origin, Runtime], Awaitable[Question[Any]]]


Doors = Mapping[str, Door]


def line_type(path: str, door: Door) -> type[WireModel]:
    """The type of a line that asks this endpoint, with or without ``/v1``. Further members are ignored."""
    short = path.removeprefix("/v1")
    members: dict[str, Any] = {
        "custom_id": (CustomId, ...),
        "method": (Literal["POST"], ...),
        "url": (Literal[path, short], ...),
        "body": (door.reads, ...),
    }
    return create_model("LineRequest", __base__=WireModel, **members)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the input and its number, from 1."""

    number: int
    data: bytes


async def read_lines(path: Path, limit: int) -> AsyncGenerator[list[Line]]:
    """The lines of a file that are not blank, about a megabyte of them at a time.

    A line of more than ``limit`` bytes is cut off there, and nothing is read beyond it. A byte order mark at the
    beginning is left out. Raises OSError.
    """
    async with opened(lambda: path.open("rb")) as file:
        number = 0
        while True:
            rows = await asyncio.to_thread(_block, file, limit)
            if not rows:
                return
            if number == 0:
                rows[0] = rows[0].removeprefix(BOM_UTF8)
            yield [Line(number + n, row) for n, row in enumerate(rows, start=1) if row.strip()]
            number += len(rows)
            if len(rows[-1]) > limit:
                return


@asynccontextmanager
async def opened(opener: Callable[[], Opened]) -> AsyncIterator[Opened]:
    """A file that a thread opens, closed at the end, also if the caller is cancelled before it is open.

    Raises as ``opener`` does.
    """
    made: list[Opened] = []
    lock, over = Lock(), False

    def open_in_thread() -> Opened:
        file = opener()
        with lock:
            if over:
                file.close()
            made.append(file)
        return file

    try:
        yield await asyncio.to_thread(open_in_thread)
    finally:
        with lock:
            over = True
        for file in made:
            file.close()


def _block(file: Any, limit: int) -> list[bytes]:
    rows: list[bytes] = []
    size = 0
    while size < BLOCK and (row := file.readline(limit + 1)):
        rows.append(row)
        size += len(row)
        if len(row) > limit:
            break
    return rows


@dataclass(slots=True)
class Checked:
    """The result of a check: how many requests there are, the model if it is one, and the errors found."""

    total: int = 0
    models: set[str] | None = None
    errors: list[Json] | None = None

    def refuse(self, code: str, message: str, *, line: int | None = None, param: str | None = None) -> None:
        self.errors = self.errors or []
        self.errors.append({"code": code, "message": message, "line": line, "param": param})

    @property
    def full(self) -> bool:
        return len(self.errors or ()) >= MOST_ERRORS

    @property
    def model(self) -> str | None:
        """The model that every line names."""
        return next(iter(self.models)) if self.models and len(self.models) == 1 else None


class Check:
    """Checks every line of an input against the type of the endpoint's lines."""

    def __init__(self, kind: type[WireModel], runtime: Runtime, *, most: int, limit: int) -> None:
        """``most`` bounds the lines, ``limit`` the bytes of one."""
        self._kind = kind
        self._runtime = runtime
        self._most = most
        self._limit = limit
        self._ids: set[int] = set()
        self._found = Checked(models=set())

    async def run(self, path: Path) -> Checked:
        """Check a file. Raises OSError."""
        found = self._found
        async with aclosing(read_lines(path, self._limit)) as blocks:
            async for block in blocks:
                for start in range(0, len(block), 32):
                    lines = block[start : start + 32]
                    if sum(len(line.data) for line in lines) > SHORT:
                        await asyncio.to_thread(self._check, lines)
                    else:  # a switch of threads takes longer
                        self._check(lines)
                        await asyncio.sleep(0)
                    if found.full or found.total > self._most:
                        break
                if found.full or found.total > self._most:
                    break
        if found.total > self._most:
            found.refuse(
                "too_many_requests",
                f"The file has more than {self._most:,} lines. Split it, or raise storage.batch_lines.",
            )
        elif not found.total and not found.errors:
            found.refuse("empty_batch", "The file has no requests.")
        return found

    def _check(self, lines: list[Line]) -> None:
        for line in lines:
            self._found.total += 1
            if self._found.full or self._found.total > self._most:
                return
            try:
                self._check_one(line)
            except RoundhouseError as error:
                code, param = _code(error)
                self._found.refuse(code, error.message, line=line.number, param=param)

    def _check_one(self, line: Line) -> None:
        if len(line.data) > self._limit:
            raise InvalidRequest(f"A line has at most {self._limit:,} bytes. Is the file JSON, one object a line?")
        request: Any = parse(self._kind, line.data)
        known, name = len(self._ids), hash(request.custom_id)
        self._ids.add(name)
        if len(self._ids) == known:
            error = InvalidRequest("An earlier line has the same 'custom_id'.", param="custom_id")
            error.code = "duplicate_custom_id"
            raise error
        body = request.body
        if getattr(body, "stream", False):
            raise InvalidRequest("A line of a batch is not streamed: leave 'stream' out.", param="body.stream")
        if getattr(body, "background", False):
            raise InvalidRequest("A batch is in the background: leave 'background' out.", param="body.background")
        model = getattr(body, "model", None)
        if isinstance(model, str):
            if self._found.models is not None and len(self._found.models) < 2:
                self._found.models.add(model)
            standing = self._runtime.standing(model)
            if not is_auto(standing):
                self._runtime.catalog.replicas(standing)


_CODES = {"custom_id": "invalid_custom_id", "method": "invalid_method", "url": "invalid_url"}


def _code(error: RoundhouseError) -> tuple[str, str | None]:
    """The code of an error of a line, and its parameter."""
    if isinstance(error, ModelNotFound):
        return error.code, "body.model"
    if error.code != InvalidRequest.code:
        return error.code, error.param
    if error.param is None:
        return "invalid_json_line", None
    if error.param in ("custom_id", "method", "url", "body") and "needed" in error.message:
        return "missing_required_parameter", error.param
    return _CODES.get(error.param, error.code), error.param
