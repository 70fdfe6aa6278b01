"""Only an answer that is sure to end within the time for a first byte is asked for without a stream."""

from __future__ import annotations

from typing import Any

import pytest

from backends.base import Timeouts, Upstream
from backends.plain import asks_plainly
from backends.wire.chat import ChatRequest
from backends.wire.completions import CompletionRequest
from backends.wire.embeddings import EmbeddingRequest


def upstream(protocol: str = "openai", first_byte: float = 120.0) -> Upstream:
    return Upstream("e", protocol, "http://there/v1", "m", timeouts=Timeouts(first_byte=first_byte))


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


@pytest.mark.parametrize(
    ("fields", "plainly"),
    [
        ({"max_tokens": 240}, True),
        ({"max_completion_tokens": 240}, True),
        ({"max_tokens": 241}, False),
        ({"max_tokens": 100, "n": 3}, False),
        ({"max_tokens": 240, "stream": True}, False),
        ({}, False),
    ],
)
def test_a_bound_on_the_answer_makes_it_plain(fields: dict[str, Any], plainly: bool) -> None:
    assert asks_plainly(chat(**fields), upstream()) is plainly


def test_a_shorter_time_for_the_first_byte_lets_fewer_tokens_through() -> None:
    assert asks_plainly(chat(max_tokens=20), upstream(first_byte=10))
    assert not asks_plainly(chat(max_tokens=21), upstream(first_byte=10))


@pytest.mark.parametrize(
    ("protocol", "plainly"), [("openai", True), ("azure", True), ("ollama", False), ("worker", False)]
)
def test_a_worker_is_always_asked_for_a_stream(protocol: str, plainly: bool) -> None:
    assert asks_plainly(chat(max_tokens=5), upstream(protocol)) is plainly


def test_text_completions_too_and_nothing_else() -> None:
    text = CompletionRequest.model_validate({"model": "m", "prompt": "a", "max_tokens": 5})
    assert asks_plainly(text, upstream())
    assert not asks_plainly(EmbeddingRequest.model_validate({"model": "m", "input": "a"}), upstream())
