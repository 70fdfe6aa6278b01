"""Task and complexity are recognised in the words of people, in many languages, at a bounded cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.wire.chat import ChatRequest
from catalog.types import Json
from routing.facts import Complexity, Facts, Task
from routing.reading import kind
from routing.reading.ngrams import BUCKETS, buckets_of
from routing.reading.recogniser import READ_COMPLEXITIES, READ_TASKS, WEIGHTS, weights
from routing.reading.requests import read_chat
from tests.routing.reading.labelled import Read, conversations, prompts, read_all, share


@pytest.fixture(scope="module")
def read() -> list[Read]:
    return read_all(prompts())


def facts(*messages: Json, **fields: Any) -> Facts:
    return read_chat(ChatRequest.model_validate({"model": "auto", "messages": list(messages), **fields}))


def user(content: str) -> Json:
    return {"role": "user", "content": content}


def system(content: str) -> Json:
    return {"role": "system", "content": content}


def test_the_labelled_prompts_are_many_and_of_every_kind() -> None:
    assert len(prompts()) >= 400
    assert len({each.language for each in prompts()}) >= 10
    assert {each.task for each in prompts()} == {task.value for task in READ_TASKS}
    assert {each.complexity for each in prompts()} == {level.value for level in READ_COMPLEXITIES}


def test_tasks_are_recognised(read: list[Read]) -> None:
    assert share(each.task_is_right for each in read) >= 0.88
    for language in {each.labelled.language for each in read}:
        assert share(each.task_is_right for each in read if each.labelled.language == language) >= 0.75, language
    for task in READ_TASKS:
        assert share(each.task_is_right for each in read if each.labelled.task == task.value) >= 0.7, task


def test_complexities_are_recognised(read: list[Read]) -> None:
    assert share(each.complexity_is_right for each in read) >= 0.82
    for level in READ_COMPLEXITIES:
        right = [each.complexity_is_right for each in read if each.labelled.complexity == level.value]
        assert share(right) >= 0.7, level
    for language in {each.labelled.language for each in read}:
        right = [each.complexity_is_right for each in read if each.labelled.language == language]
        assert share(right) >= 0.7, language


def test_the_last_turn_decides_and_the_rest_is_context() -> None:
    read = read_all(conversations())
    assert share(each.task_is_right for each in read) >= 0.8
    assert share(each.complexity_is_right for each in read) >= 0.8


def test_a_long_conversation_does_not_make_its_last_question_hard() -> None:
    before = [user("Hello"), {"role": "assistant", "content": "The causes of the war were many. " * 60}]
    assert facts(*before, user("What is the capital of Peru?")).complexity is Complexity.SIMPLE


@pytest.mark.parametrize(
    ("first", "then", "task"),
    [
        ("Translate into French: good morning", "and in Italian?", Task.TRANSLATE),
        ("Write a birthday poem for my aunt Rosa, four lines", "shorter please", Task.WRITE),
        (
            "Summarise this article: The council closed two schools and opened a library.",
            "even shorter",
            Task.SUMMARISE,
        ),
        ("Write a Python function that merges two dicts", "does it handle empty input?", Task.CODE),
        ("Write a Python function that merges two dicts", "What is the capital of Peru?", Task.CHAT),
    ],
)
def test_a_turn_that_goes_on_has_the_task_of_the_turn_before(first: str, then: str, task: Task) -> None:
    assert facts(user(first), {"role": "assistant", "content": "Yes."}, user(then)).task is task


@pytest.mark.parametrize(
    "role", ["You are a helpful assistant for a garden centre.", "You are a pirate. Be brief."]
)
def test_a_system_prompt_that_describes_a_role_sets_no_task(role: str) -> None:
    asked = user("Write a Python function that reverses a list")
    assert facts(system(role), asked).task is facts(asked).task is Task.CODE


@pytest.mark.parametrize("noun", ["琵琶湖", "納豆", "浅草寺", "紅葉", "長江", "제주도", "Bodensee", "القاهرة"])
def test_a_bare_noun_is_a_simple_chat(noun: str) -> None:
    found = facts(user(noun))
    assert (found.task, found.complexity) == (Task.CHAT, Complexity.SIMPLE)


def test_a_confidence_is_about_the_share_that_is_right(read: list[Read]) -> None:
    sure = [each for each in read if each.facts.confidence.task >= 0.8]
    unsure = [each for each in read if each.facts.confidence.task < 0.6]
    assert len(sure) > len(read) / 3
    assert share(each.task_is_right for each in sure) >= 0.93
    assert share(each.task_is_right for each in unsure) < 0.85


def test_what_is_not_recognised_is_a_chat_of_medium_complexity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind, "SURE", 1.1)
    found = facts(user("Translate this into French: good morning"))
    assert found.task is Task.CHAT
    assert found.complexity is Complexity.MEDIUM


@pytest.mark.parametrize(
    ("messages", "task"),
    [
        (
            [system("Translate every message of the user into French."), user("Good morning, how are you?")],
            Task.TRANSLATE,
        ),
        (
            [user("Translate into French: good morning"), user("Write a Python function that reverses a list")],
            Task.CODE,
        ),
        (
            [system("You are an agent. " * 400), user("Summarise the following article: the fox ran.")],
            Task.SUMMARISE,
        ),
    ],
)
def test_a_short_system_prompt_says_what_to_do_with_each_message(messages: list[Json], task: Task) -> None:
    assert facts(*messages).task is task


def test_a_named_model_is_not_chosen_so_its_prompt_is_not_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind, "logits_of", None)
    body = {"model": "m", "messages": [user("Translate into French: good morning")]}
    assert read_chat(ChatRequest.model_validate(body)).confidence.task == 0


def test_the_work_does_not_grow_with_the_text() -> None:
    text = "Fasse den folgenden Bericht zusammen und nenne die drei wichtigsten Punkte. "
    assert len(buckets_of(text * 10_000)) == len(buckets_of(text * 20_000)) < 6000


@pytest.mark.parametrize("text", ["", " ", "\n\n", "?", "\0\0", "🦊" * 3000, "a" * 5000, "日本語" * 2000])
def test_any_text_has_features(text: str) -> None:
    buckets = buckets_of(text)
    assert buckets.dtype == np.int64
    assert ((buckets >= 0) & (buckets < BUCKETS)).all()
    assert facts(user(text)).task in Task


def test_case_and_digits_make_no_difference() -> None:
    assert (buckets_of("Add 17 and 23") == buckets_of("add 99 AND 10")).all()


def test_the_rows_of_the_weights_lie_side_by_side() -> None:
    assert weights().hashed.flags.c_contiguous, "else taking a few of them copies all"


def test_the_weights_are_small() -> None:
    assert WEIGHTS.stat().st_size <= 2_000_000
