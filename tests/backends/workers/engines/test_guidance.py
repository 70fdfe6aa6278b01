"""Engines that sample in our own loop hold answers to a grammar, to their least length and to their last token."""

from __future__ import annotations

import numpy as np
import pytest
from llguidance import LLTokenizer

from backends.workers.engines.common.guidance import GrammarMask, matcher_factory
from backends.workers.engines.llama_cpp_python.model import _later
from catalog.errors import UnsupportedParameter

BYTES = LLTokenizer("byte")
END = 300
"""A token that ends an answer, which llguidance does not know of."""


def masked(grammar: str, text: str) -> list[set[int]]:
    """The tokens allowed before each byte of a text, and after it."""
    mask = GrammarMask(matcher_factory(BYTES, f"%llguidance {{}}\nstart: {grammar}")(), frozenset({END}))
    chosen = [ord("x"), *text.encode()]  # the prompt's last token comes first
    return [set(np.flatnonzero(mask.allowed(token, 400)).tolist()) for token in chosen]


def test_only_tokens_of_the_grammar_are_allowed_and_the_end_only_where_it_may_end() -> None:
    first, second, last = masked('"ab"', "ab")
    assert (first, second) == ({ord("a")}, {ord("b")})
    assert END in last
    assert not last & set(range(256))


def test_an_answer_may_end_early_where_its_grammar_allows() -> None:
    first, second = masked('"a" | "ab"', "a")
    assert END not in first
    assert {END, ord("b")} <= second


def test_two_answers_of_one_grammar_do_not_share_their_state() -> None:
    fresh = matcher_factory(BYTES, '%llguidance {}\nstart: "ab"')
    one, other = (GrammarMask(fresh(), frozenset()) for _ in range(2))
    one.allowed(0, 256)
    one.allowed(ord("a"), 256)
    assert np.flatnonzero(other.allowed(0, 256)).tolist() == [ord("a")]


def test_a_token_outside_the_grammar_is_an_error_and_never_frees_the_answer() -> None:
    mask = GrammarMask(matcher_factory(BYTES, '%llguidance {}\nstart: "ab"')(), frozenset({END}))
    mask.allowed(0, 400)
    with pytest.raises(RuntimeError, match="the grammar failed"):
        mask.allowed(ord("z"), 400)


def test_a_grammar_that_does_not_compile_is_refused() -> None:
    with pytest.raises(UnsupportedParameter):
        matcher_factory(BYTES, "%llguidance {}\nstart: nowhere")


def test_an_answer_does_not_end_before_its_least_number_of_tokens() -> None:
    wait = _later(frozenset({1, 3}), 2)
    scores = np.zeros(4, dtype=np.float32)
    given = [wait(None, scores) for _ in range(3)]
    assert [np.isneginf(each).tolist() for each in given] == [[False, True, False, True]] * 2 + [[False] * 4]
    assert not np.isneginf(scores).any()
