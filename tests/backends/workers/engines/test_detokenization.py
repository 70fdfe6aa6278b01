"""Incremental detokenization without a model: each token is a byte."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.workers.engines.common.detokenization import IncrementalDetokenizer, StopFilter, VisibleText


def decode(ids: list[int]) -> str:
    return bytes(ids).decode(errors="replace")


def written(prompt: str = "", stops: tuple[str, ...] = ()) -> VisibleText:
    return VisibleText(IncrementalDetokenizer(decode, list(prompt.encode())), StopFilter(stops))


@given(st.text(max_size=30), st.text(max_size=60))
def test_characters_are_never_split_and_none_is_lost(prompt: str, text: str) -> None:
    stream = IncrementalDetokenizer(decode, list(prompt.encode()))
    pieces = [stream.add(byte) for byte in text.encode()] + [stream.end()]
    assert "".join(pieces) == text
    if "�" not in text:
        assert not any("�" in piece for piece in pieces)


def test_a_character_that_was_cut_shows_as_a_replacement() -> None:
    stream = IncrementalDetokenizer(decode, [])
    assert [stream.add(byte) for byte in "é".encode()[:1]] == [""]
    assert stream.end() == "�"


@given(st.text("ab", max_size=40), st.lists(st.text("ab", min_size=1, max_size=4), max_size=4))
def test_the_text_ends_before_the_first_stop_however_it_comes(text: str, stops: list[str]) -> None:
    stop = StopFilter(stops)
    shown = ""
    for letter in text:
        shown += stop.feed(letter)
        if stop.found:
            break
    else:
        shown += stop.end()
    whole = min((text[: at + len(s)] for s in stops for at in [text.find(s)] if at >= 0), key=len, default=None)
    assert stop.found == (whole is not None)
    if whole is None:
        assert shown == text
    else:
        assert whole.startswith(shown)
        assert not any(s in shown for s in stops)


@pytest.mark.parametrize("stops", [(), ("END",), ("c", "END")])
def test_logprobs_are_of_exactly_the_tokens_that_are_shown(stops: tuple[str, ...]) -> None:
    one = written(stops=stops)
    shown, entries = "", []
    for byte in b"abEcd":
        text, logprobs = one.add(byte, {"token": chr(byte)})
        shown += text
        entries += logprobs
        if one.stop.found:
            break
    else:
        text, logprobs = one.end()
        shown += text
        entries += logprobs
    assert "".join(entry["token"] for entry in entries) == shown


def test_a_token_of_half_a_character_has_its_logprob_with_the_rest() -> None:
    one = written()
    said: list[tuple[str, list[Any]]] = [one.add(byte, {"byte": byte}) for byte in "é".encode()]
    assert [text for text, _ in said] == ["", "é"]
    assert sum(len(entries) for _, entries in said) == 2
