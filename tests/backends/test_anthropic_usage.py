"""Counts of tokens in Anthropic's events, which servers of its wire fill in differently."""

from __future__ import annotations

from tests.backends.test_anthropic import NEW, SHORT, read
from tests.fakes.anthropic import encode, stream_of


def test_a_prompt_of_0_tokens_at_the_end_is_that_of_the_beginning() -> None:
    events = list(stream_of({"model": NEW, "messages": []}, SHORT, "tool_use"))
    usual = read([encode(event) for event in events])["usage"]
    last = next(event for event in events if event["type"] == "message_delta")
    last["usage"] |= {"input_tokens": 0, "cache_read_input_tokens": 0}
    assert usual["prompt_tokens"] > 0
    assert read([encode(event) for event in events])["usage"] == usual
