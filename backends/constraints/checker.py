"""Asks the process of :mod:`backends.constraints.program`, within a time limit."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections import OrderedDict
from pathlib import Path
from typing import Any

import orjson

from backends.constraints import lark, program
from backends.constraints.request import Constraint
from catalog.errors import AnswerInvalid, UnsupportedParameter
from catalog.types import Json

LIMIT = 3.0
"""Seconds for one grammar or answer; usual ones take milliseconds. The start of the process is not counted."""

_START = 30.0
_INHERITED = ("PATH", "HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
"""Variables of the process: no secret is among them."""
_KNOWN = 256
_MAX_LINE = 64 * 1024 * 1024


class Checker:
    """Compiles grammars before a call, and checks answers before they leave.

    One process works for all requests, in turn; it starts with the first constraint, and one that exceeds the
    limit is killed. Close it with :meth:`aclose`.
    """

    def __init__(self, limit: float = LIMIT) -> None:
        self._limit = limit
        self._process: Process | None = None
        self._turn = asyncio.Lock()
        self._known: OrderedDict[tuple[str, str], Json] = OrderedDict()

    async def aclose(self) -> None:
        """End the process."""
        await self._end()

    async def compiled(self, constraint: Constraint) -> str:
        """The Lark grammar of a constraint. Raises UnsupportedParameter if it cannot be enforced."""
        match constraint.kind:
            case "json":
                return await self.compile_rules(f"start: {lark.json_value(constraint.value)}", constraint.param)
            case "choice":
                return await self.compile_rules(f"start: {lark.choice(constraint.value)}", constraint.param)
            case "regex":
                return await self._compile("regex", constraint.value, constraint.param)
            case "grammar":
                return await self._compile("gbnf", constraint.value, constraint.param)

    async def compile_rules(self, rules: str, param: str) -> str:
        """The grammar of these Lark rules. Raises UnsupportedParameter if it cannot be enforced."""
        return await self._compile("lark", lark.grammar(rules), param)

    async def _compile(self, kind: str, text: str, param: str) -> str:
        key = (kind, text)
        found = self._known.get(key)
        if found is None:
            found = await self._ask({"do": "compile", "kind": kind, "text": text})
            self._known[key] = found
            if len(self._known) > _KNOWN:
                self._known.popitem(last=False)
        if "error" in found:
            raise UnsupportedParameter(
                f"The form that {param} asks for cannot be enforced on a local model: {found['error']}",
                param=param,
            )
        grammar: str = found["lark"]
        return grammar

    async def check_json(self, text: str, schema: Json, *, sure: bool = True) -> None:
        """Raises AnswerInvalid for a text that is not JSON of this schema.

        ``sure``: also for one that cannot be checked, as the schema is malformed or the check takes too long.
        """
        found = await self._ask({"do": "fits", "schema": schema, "text": text})
        if sure or not found.get("unsure"):
            _raise_unfit(found)

    async def check_cut(self, text: str, constraint: Constraint) -> None:
        """Raises AnswerInvalid for a text that has not the constraint's form, and that none begins with either.

        One of the request's stop sequences may have ended it before its form was complete.
        """
        try:
            await self.check(text, constraint)
        except AnswerInvalid:
            try:
                grammar = await self.compiled(constraint)
            except UnsupportedParameter:  # a form that the engine enforces by itself
                return
            if "error" not in await self._ask({"do": "fits", "lark": grammar, "text": text}):
                raise
            await self.check_beginning(text, constraint)

    async def check(self, text: str, constraint: Constraint) -> None:
        """Raises AnswerInvalid for a text that does not meet the constraint, which :meth:`compiled` took.

        UnsupportedParameter, if the grammar ends no text that begins as this one.
        """
        if constraint.kind == "json":
            await self.check_json(text, constraint.value)
        else:
            asked = {"do": "fits", "lark": await self.compiled(constraint), "text": text}
            _raise_unfit(await self._ask(asked), constraint.param)

    async def check_beginning(self, text: str, constraint: Constraint) -> None:
        """Raises AnswerInvalid for a text that begins no answer of the constraint, which :meth:`compiled` took.

        An engine whose grammar fails in mid-answer goes on without it.
        """
        whole = text.rstrip("\ufffd")  # a character that the cut went through
        found = await self._ask({"do": "begins", "lark": await self.compiled(constraint), "text": whole})
        if not found.get("unsure"):
            _raise_unfit(found, constraint.param)

    async def check_text(self, text: str, grammar: str) -> None:
        """Raises AnswerInvalid for a text that the Lark grammar does not produce."""
        _raise_unfit(await self._ask({"do": "fits", "lark": grammar, "text": text}))

    async def _ask(self, question: dict[str, Any]) -> Json:
        line = orjson.dumps(question) + b"\n"
        async with self._turn:
            process = await self._started()
            finished = False
            try:
                async with asyncio.timeout(self._limit):
                    found = await _exchange(process, line)
                finished = True
            except TimeoutError:
                return {"error": f"it takes longer than {self._limit:g} s", "unsure": True}
            finally:
                if not finished:
                    await self._end()
        return found if found is not None else {"error": "it is too complex", "unsure": True}

    async def _started(self) -> Process:
        if self._process is None or self._process.returncode is not None:
            # Isolated (-I): neither the environment nor the working folder chooses what is imported.
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                str(Path(program.__file__)),
                stdin=PIPE,
                stdout=PIPE,
                limit=_MAX_LINE,
                env={name: os.environ[name] for name in _INHERITED if name in os.environ},
            )
            warm = {"do": "compile", "kind": "lark", "text": lark.grammar('start: "a"')}
            try:
                async with asyncio.timeout(_START):
                    await _exchange(self._process, orjson.dumps(warm) + b"\n")
            except BaseException:
                await self._end()
                raise
        return self._process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def _exchange(process: Process, line: bytes) -> Json | None:
    """The answer to one line; None if the process ended instead."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(line)
        await process.stdin.drain()
        answer = await process.stdout.readline()
    except (ConnectionError, ValueError):
        return None
    if not answer.endswith(b"\n"):
        return None
    found: Json = orjson.loads(answer)
    return found


def _raise_unfit(found: Json, param: str | None = None) -> None:
    if found.get("dead") and param is not None:
        raise UnsupportedParameter(f"No answer has the form that {param} asks for: {found['error']}.", param=param)
    if "error" in found:
        raise AnswerInvalid(
            f"The model's answer does not have the form that the request asks for: {found['error']}."
        )
