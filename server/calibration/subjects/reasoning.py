"""Word problems and short deductions with one right answer."""

from __future__ import annotations

import re
from random import Random

from server.calibration.examinee import Examinee

_LAST_LINE = 'Think step by step if you need to. Write the result on the last line, as "Answer: ...".'
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_ANSWER = re.compile(r"answer\s*(?:is|:)?\s*[*_]*\s*[:=]?\s*(.+)", re.IGNORECASE)
_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn")


def problem(dice: Random) -> tuple[str, int]:
    """A word problem in arithmetic and its result."""
    kind = dice.randrange(4)
    a, b, c = dice.randint(3, 9), dice.randint(4, 12), dice.randint(2, 9)
    if kind == 0:
        return f"A shop has {a} boxes with {b} apples each. It sells {c} apples. How many are left?", a * b - c
    if kind == 1:
        total = a * b
        return f"{total} books are put on {a} shelves, equally many on each. How many are on one shelf?", b
    if kind == 2:
        return (
            f"A train leaves with {10 * b} people. At the first stop {b} get off and {a} get on; at the second "
            f"{c} get on. How many are on the train then?",
            10 * b - b + a + c,
        )
    price, paid = a * c, a * c + dice.randint(1, 9)
    return f"One pen costs {a} coins. Mia buys {c} pens and pays with {paid} coins. What is her change?", (
        paid - price
    )


def deduction(dice: Random) -> tuple[str, str]:
    """A short deduction and the word that answers it."""
    first, second, third = dice.sample(_NAMES, 3)
    kind = dice.randrange(4)
    if kind == 0:
        return f"{first} is taller than {second}. {second} is taller than {third}. Who is the shortest?", third
    if kind == 1:
        return f"{second} came in after {first} and before {third}. Who came in first?", first
    if kind == 2:
        return (
            "All bloops are razzies. No razzies are lazzies. Can a bloop be a lazzie? Answer with yes or no.",
            "no",
        )
    start, step = dice.randint(2, 9), dice.randint(2, 6)
    shown = ", ".join(str(start + step * place) for place in range(4))
    return f"Which number comes next: {shown}, ...?", str(start + 4 * step)


def given(text: str) -> str:
    """The answer that a text gives: what follows its last "Answer:", else its last line."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    for line in reversed(lines):
        if found := _ANSWER.search(line):
            return found.group(1)
    return lines[-1] if lines else ""


def is_number(text: str, right: int) -> bool:
    """Whether the last number of a text is this one."""
    found = _NUMBER.findall(text)
    return bool(found) and float(found[-1].replace(",", "")) == right


def is_word(text: str, right: str) -> bool:
    """Whether a text names this answer, and no other of its kind."""
    if right.isdigit():
        return is_number(text, int(right))
    others = {"yes", "no"} if right in ("yes", "no") else {name.casefold() for name in _NAMES}
    told = set(re.findall(r"[a-z]+", text.casefold())) & others
    return told == {right.casefold()}


async def arithmetic(dice: Random, model: Examinee) -> float:
    """Solve a word problem."""
    prompt, right = problem(dice)
    return float(is_number(given(await model.text(f"{prompt} {_LAST_LINE}", tokens=160)), right))


async def logic(dice: Random, model: Examinee) -> float:
    """Draw a conclusion."""
    prompt, right = deduction(dice)
    return float(is_word(given(await model.text(f"{prompt} {_LAST_LINE}", tokens=160)), right))
