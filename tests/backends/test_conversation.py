"""Conversations reach a local model's chat template in a form that every template renders."""

from __future__ import annotations

import pytest

from backends.local.conversation import alternating, has_neighbours, renderable
from catalog.errors import InvalidRequest
from catalog.types import Json

USER: Json = {"role": "user", "content": "Hi"}
PICTURE: Json = {"type": "image_url", "image_url": {}}
CALLED: Json = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}


def system(content: object, role: str = "system") -> Json:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("messages", "rendered"),
    [
        ([USER], [USER]),
        ([system("A"), USER], [system("A"), USER]),
        ([USER, system("A")], [system("A"), USER]),
        ([system("A"), USER, system("B")], [system("A\n\nB"), USER]),
        ([system("A", "developer"), USER], [system("A"), USER]),
        ([system("A", "developer"), system("B", "developer"), USER], [system("A\n\nB"), USER]),
        ([system([{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]), system(None), USER, system("C")],
         [system("A\nB\n\nC"), USER]),
        ([system("A"), USER, system([{"type": "image_url", "image_url": {}}])],
         [system([{"type": "text", "text": "A"}, {"type": "image_url", "image_url": {}}]), USER]),
    ],
)  # fmt: skip
def test_system_and_developer_messages_are_one_at_the_beginning(
    messages: list[Json], rendered: list[Json]
) -> None:
    assert renderable(messages) == rendered


@pytest.mark.parametrize("content", ["", None, [], [{"type": "text", "text": ""}]])
def test_an_empty_answer_at_the_end_is_left_out(content: object) -> None:
    empty = {"role": "assistant", "content": content}
    assert renderable([USER, empty, empty]) == [USER]
    assert renderable([USER, empty, USER]) == [USER, empty, USER]
    with pytest.raises(InvalidRequest, match="nothing to answer"):
        renderable([empty])


@pytest.mark.parametrize(
    "answer", [{"role": "assistant", "content": "One"}, {"role": "assistant", "content": " "}, CALLED]
)
def test_an_answer_at_the_end_that_holds_something_is_a_prefill(answer: Json) -> None:
    assert renderable([USER, answer]) == [USER, answer]


@pytest.mark.parametrize(
    ("messages", "merged"),
    [
        ([system("A"), USER, USER], [system("A"), {"role": "user", "content": "Hi\n\nHi"}]),
        (
            [USER, {"role": "assistant", "content": "A"}, {"role": "assistant", "content": "B"}, USER],
            [USER, {"role": "assistant", "content": "A\n\nB"}, USER],
        ),
        (
            [USER, {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {}}],
                }
            ],
        ),
        ([USER, CALLED, {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}, USER], None),
        ([USER, CALLED, CALLED], None),
    ],
)
def test_neighbours_of_one_role_are_one_turn_for_a_template_that_insists(
    messages: list[Json], merged: list[Json] | None
) -> None:
    assert has_neighbours(messages) is (merged is not None)
    assert alternating(messages) == (messages if merged is None else merged)
