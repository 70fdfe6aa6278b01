"""Python that is checked and never run: it must parse, with the names, the signature and the structure asked for.

Where a result is asked for, it is a literal, which :func:`ast.literal_eval` reads.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from random import Random
from typing import Any

from server.calibration.examinee import Examinee

_FENCED = re.compile(r"```(?:python|py)?\s*\n(.*?)(?:```|\Z)", re.DOTALL)
_LONGEST = 20_000
"""Characters of an answer that are parsed."""


def code_of(text: str) -> str:
    """The code of an answer: its first fenced block, else all of it."""
    found = _FENCED.search(text)
    return (found.group(1) if found else text)[:_LONGEST]


def parsed(text: str) -> ast.Module | None:
    """The tree of an answer's code; ``None`` if it does not parse."""
    try:
        return ast.parse(code_of(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def literal(text: str) -> Any:
    """The value of an answer that is one literal; ``None`` if it is none."""
    try:
        return ast.literal_eval(code_of(text).strip().strip("`"))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _has(*kinds: type[ast.AST]) -> Callable[[ast.FunctionDef], bool]:
    return lambda function: any(isinstance(node, kinds) for node in ast.walk(function))


def _calls(name: str) -> Callable[[ast.FunctionDef], bool]:
    return lambda function: any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
        for node in ast.walk(function)
    )


def _annotated(function: ast.FunctionDef) -> bool:
    return function.returns is not None and all(each.annotation is not None for each in function.args.args)


Check = Callable[[ast.FunctionDef], bool]
_FUNCTIONS: tuple[tuple[str, tuple[str, ...], str, Check], ...] = (
    ("clamp", ("value", "low", "high"), "returns value, but at least low and at most high", _has(ast.Return)),
    ("factorial", ("n",), "returns n! by calling itself", _calls("factorial")),
    ("count_vowels", ("text",), "counts the vowels of a text with a loop", _has(ast.For, ast.comprehension)),
    ("squares", ("numbers",), "returns the squares with a list comprehension", _has(ast.ListComp)),
    ("is_even", ("n",), "tells whether n is even; annotate the parameter and the result", _annotated),
    ("safe_div", ("a", "b"), "returns a / b, or None for a division by zero, with try and except", _has(ast.Try)),
    ("gcd", ("a", "b"), "returns the greatest common divisor with a while loop", _has(ast.While)),
    ("first_words", ("text", "count"), "returns the first words of a text, by slicing", _has(ast.Slice)),
)


def score_of_function(text: str, name: str, parameters: tuple[str, ...], check: Check) -> float:
    """A third each for code that parses and defines the function, its signature, and its structure."""
    tree = parsed(text)
    found = [] if tree is None else [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    function = next((node for node in found if node.name == name), None)
    if function is None:
        return 0.0
    signature = tuple(each.arg for each in function.args.args) == parameters
    returns = any(isinstance(node, ast.Return) and node.value is not None for node in ast.walk(function))
    return (1 + signature + (returns and check(function))) / 3


def expression(dice: Random) -> tuple[str, Any]:
    """An expression and its value, which is computed here by the same operations."""
    a, b, n = dice.randint(2, 5), dice.randint(2, 9), dice.randint(3, 5)
    word = dice.choice(("stone", "river", "cloud"))
    return dice.choice(
        (
            (f"[{a} * x for x in range({n})]", [a * x for x in range(n)]),
            (f"sum(range({n}, {n + b}))", sum(range(n, n + b))),
            (f"'{word}'[::-1].upper()", word[::-1].upper()),
            (f"sorted({{{b}, {a}, {a + b}}})[-1] // {a}", (a + b) // a),
            (f"{{'{word}': len('{word}') - {a}}}", {word: len(word) - a}),
        )
    )


async def coding(dice: Random, model: Examinee) -> float:
    """Write a function, or tell the value of an expression."""
    if dice.random() < 0.3:
        asked, value = expression(dice)
        prompt = f"What is the value of this Python expression? Answer with the literal alone.\n\n{asked}"
        told = literal(await model.text(prompt, tokens=60))
        return float(type(told) is type(value) and told == value)
    name, parameters, told, check = dice.choice(_FUNCTIONS)
    signature = f"{name}({', '.join(parameters)})"
    prompt = f"Write a Python function {signature} that {told}. Answer with the code alone."
    return score_of_function(await model.text(prompt, tokens=220), name, parameters, check)
