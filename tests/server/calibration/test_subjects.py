"""Questions have one right answer that scores 1, and wrong, empty and hostile answers score less."""

from __future__ import annotations

import json
from random import Random

import pytest

from server.calibration.subjects import SUBJECTS
from server.calibration.subjects.coding import code_of, expression, literal, parsed, score_of_function
from server.calibration.subjects.instructions import Instruction, score, task_of
from server.calibration.subjects.reasoning import deduction, given, is_number, is_word, problem
from server.calibration.subjects.retrieval import reciprocal_rank, search
from server.calibration.subjects.speech import sentence, word_error_rate
from server.calibration.subjects.structured import (
    call,
    labelled,
    names_alone,
    object_in,
    order,
    schema_of,
    score_of_calls,
    share_of_fields,
)

SEEDS = range(60)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_generated_question_accepts_its_right_answer(seed: int) -> None:
    dice = Random(seed)
    _, number = problem(dice)
    assert is_number(given(f"First I add.\nAnswer: **{number}**."), number)
    assert not is_number(given(f"Answer: {number + 1}"), number)
    _, word = deduction(dice)
    assert is_word(given(f"Answer: {word}"), word)
    _, fields = order(dice)
    assert share_of_fields(object_in(f"```json\n{json.dumps(fields)}\n```"), fields) == 1.0
    assert schema_of(fields)["required"] == list(fields)
    _, labels, right = labelled(dice)
    assert names_alone(f"{right.title()}.", labels, right)
    assert not names_alone(" and ".join(labels), labels, right)
    asked, value = expression(dice)
    assert literal(f"```python\n{value!r}\n```") == value, asked
    said = sentence(dice)
    assert word_error_rate(said.upper(), said) == 0.0
    _, passages, place = search(dice)
    assert reciprocal_rank([float(at == place) for at in range(len(passages))], place) == 1.0


@pytest.mark.parametrize("seed", SEEDS)
def test_the_right_call_of_a_tool_scores_1_and_another_0(seed: int) -> None:
    _, name, arguments = call(Random(seed))
    if name is None:
        assert score_of_calls({"content": "You are welcome."}, None, {}) == 1.0
        return
    made = {"function": {"name": name, "arguments": json.dumps(arguments)}}
    assert score_of_calls({"tool_calls": [made]}, name, arguments) == 1.0
    assert score_of_calls({"tool_calls": [made, made]}, name, arguments) == 0.0
    assert score_of_calls({"tool_calls": [{"function": {"name": name, "arguments": "{"}}]}, name, arguments) == 0.5
    assert score_of_calls({"content": f"I would call {name}."}, name, arguments) == 0.0


@pytest.mark.parametrize("seed", SEEDS)
def test_an_empty_answer_keeps_no_constraint(seed: int) -> None:
    prompt, constraints = task_of(Random(seed))
    assert all(constraint.asks in prompt for constraint in constraints)
    assert score("", constraints) == score("...", constraints) == 0.0


def test_the_share_of_constraints_kept_is_the_score() -> None:
    kept, broken = Instruction("", lambda _: True), Instruction("", lambda _: False)
    assert score("Four words are here.", [kept, kept, broken, broken]) == 0.5


@pytest.mark.parametrize(
    "answer",
    ["", "Answer:", "Answer: about 12 or 13", "The result is unclear.", "Answer: 1e999", "Answer: -", "Answer: ٣"],
)
def test_an_answer_without_the_number_is_wrong(answer: str) -> None:
    assert not is_number(given(answer), 12)


def test_an_answer_that_names_several_people_is_wrong() -> None:
    assert not is_word("Ada or Ben", "Ada")
    assert is_word("It is Ada, the tallest.", "Ada")


_GCD = "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a\n"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (_GCD, 1.0),
        (f"Here it is:\n```python\n{_GCD}```\nIt works.", 1.0),
        ("def gcd(a, b):\n    return a if not b else gcd(b, a % b)\n", 2 / 3),
        ("def gcd(x, y):\n    while y:\n        x, y = y, x % y\n    return x\n", 2 / 3),
        ("def gcd(a, b):\n    while b:\n        pass\n", 2 / 3),
        ("def other(a, b):\n    return 1\n", 0.0),
        ("def gcd(a, b:\n", 0.0),
        ("", 0.0),
    ],
)
def test_code_scores_by_its_definition_signature_and_structure(code: str, expected: float) -> None:
    def loops(function: object) -> bool:
        return "While" in repr(__import__("ast").dump(function))

    assert score_of_function(code, "gcd", ("a", "b"), loops) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["(" * 50_000, "\x00", "1 +", "def f(:", "```python\n", "[" * 5000 + "]" * 5000])
def test_code_that_no_parser_takes_is_wrong_and_no_fault(text: str) -> None:
    assert parsed(text) is None or code_of(text).strip() == ""
    literal(text)


def test_code_is_never_run(tmp_path: object) -> None:
    harm = "def gcd(a, b):\n    return a\nraise SystemExit\n__import__('os').abort()\n"
    assert score_of_function(harm, "gcd", ("a", "b"), lambda _: True) == 1.0
    assert literal("__import__('os').getcwd()") is None


@pytest.mark.parametrize(
    ("heard", "rate"),
    [
        ("the baker counted 12 letters near the river", 0.0),
        ("The baker counted twelve letters near the", 1 / 8),
        ("A baker counted twelve good letters near the river", 2 / 8),
        ("", 1.0),
        ("so " * 50, 1.0),
    ],
)
def test_the_word_error_rate_counts_words_that_differ(heard: str, rate: float) -> None:
    assert word_error_rate(heard, "The baker counted twelve letters near the river.") == pytest.approx(rate)


def test_equal_scores_do_not_put_the_right_passage_first() -> None:
    assert reciprocal_rank([0.0] * 8, 3) == pytest.approx(1 / 8)
    assert reciprocal_rank([float("nan")] * 8, 3) == 0.0


def test_subjects_have_different_names_and_every_judged_one_is_of_chat_models() -> None:
    assert len({subject.id for subject in SUBJECTS}) == len(SUBJECTS)
    assert all("chat" in subject.needs for subject in SUBJECTS if subject.judged)
