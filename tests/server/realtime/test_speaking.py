"""Text out: pieces that can be spoken alone, and what of them was heard."""

from __future__ import annotations

import pytest

from server.answers.pieces import TextPieces, speakable
from server.realtime.speaking.playback import Spoken


def cut(text: str, size: int = 3) -> list[str]:
    pieces = TextPieces()
    found = [piece for at in range(0, len(text), size) for piece in pieces.add(text[at : at + size])]
    rest = pieces.rest()
    return [*found, rest] if rest else found


@pytest.mark.parametrize(
    "text",
    [
        "Well, that is easy. It is Paris, of course. Anything else?",
        "Dr. Who met Mrs. Brown at 3.5 km, e.g. near J. Smith's. Then they left.",
        "First line\nsecond line\n\nthird",
        "こんにちは。元気ですか。はい",
        "no end at all",
        "word " * 200,
        "x" * 1500,
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_pieces_are_the_text_in_whatever_portions_it_comes(text: str, size: int) -> None:
    assert "".join(cut(text, size)) == text


def test_a_first_piece_may_be_a_clause_and_later_ones_are_sentences() -> None:
    assert cut("Well, that is easy to say, my friend. It is Paris, of course, as ever. Yes.") == [
        "Well, that is easy to say, ",
        "my friend. ",
        "It is Paris, of course, as ever. ",
        "Yes.",
    ]


def test_abbreviations_and_numbers_end_no_sentence() -> None:
    assert cut("See Dr. Who about it. Pay 3.50 or 1. nothing. Done") == [
        "See Dr. Who about it. ",
        "Pay 3.50 or 1. nothing. ",
        "Done",
    ]


def test_a_sentence_without_an_end_is_cut_before_it_is_too_long() -> None:
    assert max(map(len, cut("and then we went on, " * 60))) <= 440
    assert max(map(len, cut("word " * 300))) <= 440


def test_marks_are_not_spoken() -> None:
    assert speakable("**Bold** and `code`, [a link](https://x.example)") == "Bold and code, a link"
    assert speakable("# Title\n") == "Title"
    assert speakable("- one") == "one"
    assert speakable(" ... ") == ""


def test_what_was_heard_ends_with_a_word() -> None:
    spoken = Spoken()
    spoken.begin("One two. ")
    spoken.sent(1000, now=10.0)
    spoken.end()
    spoken.begin("Three four five. ")
    spoken.sent(3000, now=10.2)
    spoken.end()
    assert spoken.milliseconds == 4000
    assert spoken.ends_at == pytest.approx(14.0)
    assert spoken.text_until(4000) == spoken.text == "One two. Three four five. "
    assert spoken.text_until(2200) == "One two. Three "
    assert spoken.text_until(0) == ""
    assert [round(spoken.heard_at(now)) for now in (10.0, 11.5, 14.0, 99.0)] == [0, 1500, 4000, 4000]


def test_a_pause_of_the_model_is_no_sound() -> None:
    spoken = Spoken()
    spoken.begin("One. ")
    spoken.sent(1000, now=10.0)
    spoken.end()
    spoken.begin("Two. ")
    spoken.sent(1000, now=20.0)
    assert spoken.ends_at == 21.0
    assert spoken.heard_at(20.5) == pytest.approx(1500)


def test_a_text_whose_sound_was_not_sent_was_not_heard() -> None:
    spoken = Spoken()
    spoken.begin("One two three four five six seven eight. ")
    assert spoken.text_until(0) == ""
    spoken.sent(1000, now=10.0)
    assert "One two " in spoken.text_until(1000)
    assert "six" not in spoken.text_until(1000)
    spoken.sent(1000, now=11.0)
    spoken.end()
    assert spoken.text_until(2000) == spoken.text
    spoken.begin("Nine. ")
    assert spoken.text_until(2000) == "One two three four five six seven eight. "


def test_the_length_of_unfinished_sound_goes_by_the_pace_of_the_finished() -> None:
    spoken = Spoken()
    spoken.begin("word " * 10)
    spoken.sent(10_000, now=0.0)
    spoken.end()
    spoken.begin("next " * 10)
    spoken.sent(5000, now=10.0)
    assert spoken.text_until(15_000).count("next") == 5


def test_a_piece_that_has_no_sound_is_heard_with_the_piece_before_it() -> None:
    spoken = Spoken()
    spoken.begin("One. ")
    spoken.sent(1000, now=0.0)
    spoken.end()
    spoken.begin("... ")
    spoken.end()
    assert spoken.text_until(1000) == "One. ... "
    assert spoken.text_until(900) == "One. "
    assert Spoken().text_until(0) == ""
