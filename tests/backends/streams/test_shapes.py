"""The look at a chunk's choice that spares most chunks the whole check."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from backends.base import Upstream
from backends.openai.backend import StreamWatch
from backends.streams.shapes import is_text, regular_choice

TEXT: dict[str, Any] = {"index": 0, "delta": {"content": "a"}, "finish_reason": None}
OTHERS = [
    None,
    "text",
    {**TEXT, "index": None},
    {**TEXT, "index": True},
    {**TEXT, "index": "0"},
    {**TEXT, "finish_reason": "stop"},
    {**TEXT, "logprobs": {"content": []}},
    {**TEXT, "delta": None},
    {**TEXT, "delta": []},
    {**TEXT, "delta": {}},
    {**TEXT, "delta": {"content": None}},
    {**TEXT, "delta": {"content": [{"type": "text", "text": "a"}]}},
    {**TEXT, "delta": {"role": "assistant", "content": "a"}},
    {**TEXT, "delta": {"tool_calls": []}},
    {"index": 0, "delta": {"content": "a"}},
    {"index": 0, "finish_reason": None, "message": {"content": "a"}},
]


@pytest.mark.parametrize("choice", OTHERS, ids=repr)
def test_nothing_but_a_part_of_the_text_passes_in_one_look(choice: Any) -> None:
    assert not is_text(choice)


@pytest.mark.parametrize("choice", [TEXT, {**TEXT, "logprobs": None}, {**TEXT, "index": 3}], ids=repr)
def test_the_whole_check_changes_nothing_in_what_passes_in_one_look(choice: dict[str, Any]) -> None:
    assert is_text(choice)
    checked = deepcopy(choice)
    assert regular_choice(checked, chat=True) == choice["index"]
    assert checked == choice


def test_text_of_a_choice_that_has_not_begun_or_has_ended_is_checked_in_whole() -> None:
    watch = StreamWatch(Upstream("e", "openai", "http://e", "m"), chat=True)
    end = {**TEXT, "finish_reason": "stop", "delta": {}}
    chunks = [{"id": "c", "created": 1, "choices": [deepcopy(choice)]} for choice in (TEXT, TEXT, end, TEXT)]
    assert all(watch.see(chunk) for chunk in chunks)
    assert watch.end() is None, "the choice has begun and ended, and is not open again"
