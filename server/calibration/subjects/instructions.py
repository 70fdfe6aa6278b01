"""Instructions whose keeping a program can verify.

The kinds of constraint are those of IFEval (Zhou et al. 2023, "Instruction-Following Evaluation for Large Language
Models", https://arxiv.org/abs/2311.07911); the texts and the checks are our own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from server.calibration.examinee import Examinee

_TOPICS = ("bread", "rain", "bicycles", "the moon", "tea", "trains", "whales", "gardens", "clocks", "bridges")
_ENDINGS = ("That is all.", "Have a good day.", "The end.")
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_SENTENCE = re.compile(r"[^.!?]*[^\W_][^.!?]*[.!?]")
_BULLET = re.compile(r"(?m)^\s*[-*•]\s+\S")
_FEWEST_WORDS = 3
"""Words that an answer needs to count: an empty one keeps every prohibition."""


class Instruction(NamedTuple):
    """One constraint of an answer: the words that ask for it, and its check."""

    asks: str
    holds: Callable[[str], bool]


def _lower(_: Random) -> Instruction:
    return Instruction("Use lower case letters alone.", lambda text: text == text.lower())


def _upper(_: Random) -> Instruction:
    return Instruction("Use CAPITAL LETTERS alone.", lambda text: text == text.upper())


def _no_commas(_: Random) -> Instruction:
    return Instruction("Do not use any comma.", lambda text: "," not in text)


def _ending(dice: Random) -> Instruction:
    ending = dice.choice(_ENDINGS)
    return Instruction(
        f'End with exactly these words: "{ending}"',
        lambda text: text.rstrip('"” \n').casefold().endswith(ending.casefold()),
    )


def _word(dice: Random) -> Instruction:
    word = dice.choice(("lantern", "velvet", "harbour", "copper", "thistle"))
    return Instruction(f'Use the word "{word}".', lambda text: word in (each.lower() for each in words_of(text)))


def _forbidden(dice: Random) -> Instruction:
    word = dice.choice(("the", "and", "is"))
    return Instruction(
        f'Do not use the word "{word}".', lambda text: word not in (each.lower() for each in words_of(text))
    )


def _at_most(dice: Random) -> Instruction:
    most = dice.choice((20, 25, 30))
    return Instruction(f"Use at most {most} words.", lambda text: len(words_of(text)) <= most)


def _quoted(_: Random) -> Instruction:
    return Instruction(
        "Put the whole answer in double quotation marks.",
        lambda text: len(text) > 2 and text[0] in '"“' and text[-1] in '"”',
    )


_FREE = (_lower, _upper, _no_commas, _ending, _word, _forbidden, _at_most, _quoted)
_APART = (frozenset({_lower, _upper}), frozenset({_ending, _quoted}), frozenset({_at_most, _quoted}))
"""Constraints that are not asked for together, because they contradict each other or say the same thing."""


def _sentences(dice: Random) -> Instruction:
    count = dice.choice((2, 3))
    return Instruction(f"Write exactly {count} sentences.", lambda text: len(_SENTENCE.findall(text)) == count)


def _bullets(dice: Random) -> Instruction:
    count = dice.choice((3, 4))
    return Instruction(
        f'Write a list of exactly {count} lines, each of which begins with "- ".',
        lambda text: len(_BULLET.findall(text)) == count,
    )


def task_of(dice: Random) -> tuple[str, list[Instruction]]:
    """A prompt and its constraints, one to three."""
    asked: list[Callable[[Random], Instruction]] = [dice.choice((_sentences, _bullets))]
    for make in dice.sample(_FREE, dice.choice((0, 1, 2))):
        if not any({make, other} == pair for other in asked for pair in _APART):
            asked.append(make)
    constraints = [make(dice) for make in asked]
    told = " ".join(constraint.asks for constraint in constraints)
    return f"Write about {dice.choice(_TOPICS)}. {told}", constraints


def words_of(text: str) -> list[str]:
    """The words of a text."""
    return _WORD.findall(text)


def score(text: str, constraints: list[Instruction]) -> float:
    """The share of the constraints that a text keeps; 0 for one of almost no words."""
    text = text.strip()
    if len(words_of(text)) < _FEWEST_WORDS:
        return 0.0
    return sum(constraint.holds(text) for constraint in constraints) / len(constraints)


async def instructions(dice: Random, model: Examinee) -> float:
    """Follow verifiable constraints."""
    prompt, constraints = task_of(dice)
    return score(await model.text(prompt, tokens=160), constraints)
