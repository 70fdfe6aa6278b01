"""Questions have one right answer that scores 1, and wrong, empty and hostile answers score less."""

from __future__ import annotations

import ast
import json
from random import Random

import pytest

from server.calibration.subjects import SUBJECTS
from server.calibration.subjects.coding import (
    _FAULTY,
    _PROGRAMS,
    code_of,
    expression,
    faulty,
    literal,
    names_line,
    parsed,
    score_of_program,
)
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


_SUM = "def digit_sum(n: int) -> int:\n    return n if n < 10 else n % 10 + digit_sum(n // 10)\n"
_STACK = (
    "class Stack:\n    def __init__(self) -> None:\n        self.items = []\n"
    "    def push(self, item: int) -> None:\n        self.items.append(item)\n"
    "    def pop(self) -> int:\n        if not self.items:\n            raise IndexError\n"
    "        return self.items.pop()\n    def __len__(self) -> int:\n        return len(self.items)\n"
)
_PROGRAM = {signature.partition("(")[0]: (signature, checks) for signature, _, checks in _PROGRAMS}


@pytest.mark.parametrize(
    ("name", "code", "expected"),
    [
        ("digit_sum", _SUM, 1.0),
        ("digit_sum", f"Here it is:\n```python\n{_SUM}```\nIt works.", 1.0),
        ("digit_sum", "def digit_sum(n):\n    return sum(int(c) for c in str(n))\n", 0.25),
        ("digit_sum", _SUM.replace("n: int", "m: int"), 0.0),
        ("digit_sum", "def other(n):\n    return 1\n", 0.0),
        ("digit_sum", "def digit_sum(n:\n", 0.0),
        ("digit_sum", "digit_sum = 3", 0.0),
        ("digit_sum", "", 0.0),
        ("Stack", _STACK, 1.0),
        ("Stack", _STACK.replace("raise IndexError", "return 0"), 0.25),
        ("evens", "def evens(limit):\n    for n in range(0, limit, 2):\n        yield n\n", 1.0),
        ("evens", "def evens(limit):\n    return [n for n in range(0, limit, 2)]\n", 0.25),
        (
            "fetch_all",
            "import asyncio\nasync def fetch_all(urls):\n"
            "    return await asyncio.gather(*(fetch(url) for url in urls))\n",
            1.0,
        ),
    ],
)
def test_code_scores_by_its_definition_signature_and_structure(name: str, code: str, expected: float) -> None:
    assert score_of_program(code, *_PROGRAM[name]) == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_the_number_of_the_faulty_line_alone_is_right(seed: int) -> None:
    prompt, right = faulty(Random(seed))
    assert f"\n{right}: " in prompt
    assert names_line(f"Line {right}.", right)
    assert not names_line(f"{right} or {right + 1}", right)
    assert not names_line("", right)


@pytest.mark.parametrize("position", range(5))
def test_the_faulty_line_is_the_one_that_its_correction_replaces(position: int) -> None:
    _, lines, wrong, mended = _FAULTY[position]
    assert lines[wrong - 1] != mended
    ast.parse("\n".join([*lines[: wrong - 1], mended, *lines[wrong:]]))


@pytest.mark.parametrize("text", ["(" * 50_000, "\x00", "1 +", "def f(:", "```python\n", "[" * 5000 + "]" * 5000])
def test_code_that_no_parser_takes_is_wrong_and_no_fault(text: str) -> None:
    assert parsed(text) is None or code_of(text).strip() == ""
    literal(text)


def test_code_is_never_run() -> None:
    harm = "def gcd(a, b):\n    return a\nraise SystemExit\n__import__('os').abort()\n"
    assert score_of_program(harm, "gcd(a, b)", ()) == 1.0
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
