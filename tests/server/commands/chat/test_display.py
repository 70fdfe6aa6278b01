"""An answer is rendered block by block while it comes."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from server.commands.chat.display import MarkdownDisplay, closed_blocks


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        ("one", ""),
        ("one\n\n", ""),
        ("one\n\ntwo", "one\n\n"),
        ("one\n\n    indented: may belong to a list", ""),
        ("```\na\n\nb", ""),
        ("```\na\n\nb\n```\n\nafter", "```\na\n\nb\n```\n\n"),
        ("````\n```\n\nx\n```\n\ny", ""),
        ("~~~\n```\n\nx\n~~~\n\ny", "~~~\n```\n\nx\n~~~\n\n"),
        ("- a\n\n- b\n\n- c", "- a\n\n- b\n\n"),
    ],
)
def test_a_block_is_closed_by_a_blank_line_and_a_line_without_indentation(text: str, closed: str) -> None:
    assert text[: closed_blocks(text)] == closed


def shown(*pieces: tuple[str, bool], height: int = 10) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=False, width=60, height=height)
    with MarkdownDisplay(console) as display:
        for piece, reasoning in pieces:
            display.show(piece, reasoning)
    return out.getvalue()


def test_every_block_is_shown_once_in_order_and_an_open_one_at_the_end() -> None:
    text = "# Title\n\nfirst\n\n```python\nx = 1\n\ny = 2\n```\n\n* a\n* b\n\nlast"
    told = shown(*((letter, False) for letter in text))
    places = [told.index(word) for word in ("Title", "first", "x = 1", "y = 2", "a", "last")]
    assert [told.count(word) for word in ("Title", "first", "x = 1", "last")] == [1, 1, 1, 1]
    assert places[0] < places[1] < places[2] < places[3] < places[5]


def test_an_answer_longer_than_the_terminal_is_shown_whole() -> None:
    told = shown(*((f"line {number}\n\n", False) for number in range(200)), height=5)
    assert [f"line {number}" for number in range(200)] == [
        line.strip() for line in told.split("\n") if line.strip()
    ]


def test_reasoning_is_not_left_on_the_screen_and_control_characters_are_left_out() -> None:
    told = shown(("hm, ", True), ("let me see", True), ("It is\x1b[2J \x07four.", False))
    assert "let me see" not in told
    assert "\x1b" not in told
    assert "It is[2J four." in told


def test_an_answer_that_is_interrupted_is_shown_as_far_as_it_came() -> None:
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt), MarkdownDisplay(Console(file=out, width=60)) as display:
        display.show("as far as", False)
        raise KeyboardInterrupt
    assert "as far as" in out.getvalue()
