"""Texts that voices read are bounded: words, and sounds of a text."""

from __future__ import annotations

import pytest

from backends.workers.engines.speech.reading import check_length, readable
from catalog.errors import InvalidRequest


def test_numbers_that_are_read_as_one_stay() -> None:
    assert readable("In 1999 it was 1,234,567,890,123.50 or 9.99") == "In 1999 it was 1,234,567,890,123.50 or 9.99"
    assert readable("x" + "12345678901234567" + "y") == "x1 2 3 4 5 6 7 8 9 0, 1 2 3 4 5 6 7y"


def test_a_word_of_many_parts_is_broken_and_an_ordinary_one_is_not() -> None:
    prose = "See https://www.example.com/path/to-page, or don't: it's $1,234.50 (state-of-the-art)."
    assert readable(prose) == prose
    assert readable("a" * 4096) == "a" * 4096
    assert readable("%" * 40) == " ".join(("%" * 16, "%" * 16, "%" * 8))
    assert readable("ab/" * 12) == "ab/" * 8 + " " + "ab/" * 4


def test_a_text_may_have_phonemes_in_proportion_to_its_length() -> None:
    check_length("9" * 300, ["x" * 1_500])
    check_length("a" * 4096, ["x" * 5_000] * 2)
    with pytest.raises(InvalidRequest, match="4096 characters are 20000 phonemes, and at most 10192") as refused:
        check_length("9" * 4096, ["x" * 10_000] * 2)
    assert refused.value.param == "input"
