"""``truncation: "auto"``: whole turns are left out, the oldest first, and the caller is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from backends.wire.chat import ChatRequest, Message
from catalog.errors import ContextLengthExceeded
from routing.calling.job import Job
from server.callers import ANONYMOUS, Origin
from server.history import truncation as module
from server.history.truncation import Truncating, newest
from server.jobs import chat_job
from server.runtime import Runtime


def messages(*roles: str) -> list[Message]:
    return [Message(role=cast("Any", role), content="x" * 100) for role in roles]


TURNS = messages("system", "user", "assistant", "tool", "assistant", "user", "assistant", "user")


@pytest.mark.parametrize(("share", "left"), [(0.99, 4), (0.5, 4), (0.3, 2), (0.01, 2)])
def test_whole_turns_are_left_out_and_the_instructions_and_the_newest_turn_stay(share: float, left: int) -> None:
    kept = newest(TURNS, share)
    assert kept == [TURNS[0], *TURNS[len(TURNS) - left + 1 :]]


def test_one_turn_is_not_cut() -> None:
    alone = messages("system", "user", "assistant", "tool")
    assert newest(alone, 0.1) == alone


async def test_a_conversation_is_shortened_until_a_model_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Job[Any]] = []

    def open_job(_: Any, job: Job[Any], __: Any) -> Any:
        @asynccontextmanager
        async def opening() -> AsyncIterator[str]:
            tried.append(job)
            assert isinstance(job.request, ChatRequest)
            if len(job.request.messages) > 3:
                raise ContextLengthExceeded(model="m", limit=None, requested=None)
            yield "answer"

        return opening()

    monkeypatch.setattr(module, "open_job", open_job)
    origin = Origin(ANONYMOUS, "0" * 32)
    chat = ChatRequest(model="m", messages=messages(*["user", "assistant"] * 5, "user"))
    async with Truncating(cast("Runtime", None), chat_job(chat, origin), ANONYMOUS, origin=origin) as answer:
        assert answer == cast("Any", "answer")
    assert [each for each in tried[-1].left_out if each.startswith("input")] == ["input (oldest 8 messages)"]
    too_long = chat_job(ChatRequest(model="m", messages=messages("user", *["assistant"] * 4)), origin)
    with pytest.raises(ContextLengthExceeded):
        await Truncating(cast("Runtime", None), too_long, ANONYMOUS, origin=origin).__aenter__()
