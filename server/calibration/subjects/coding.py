"""Python that is checked and never run: it must parse, with the names, the signature and the structure asked for.

Where a result is asked for, it is a literal, which :func:`ast.literal_eval` reads.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
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


Check = Callable[[ast.AST], bool]


def _has(*kinds: type[ast.AST]) -> Check:
    return lambda tree: any(isinstance(node, kinds) for node in ast.walk(tree))


def _lacks(*kinds: type[ast.AST]) -> Check:
    return lambda tree: not any(isinstance(node, kinds) for node in ast.walk(tree))


def _names(*names: str) -> Check:
    """Whether the code uses each of these names, as a variable or an attribute."""

    def uses(tree: ast.AST) -> bool:
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        return used.issuperset(names)

    return uses


def _defines(*names: str) -> Check:
    """Whether the code defines functions or methods of these names."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return lambda tree: {node.name for node in ast.walk(tree) if isinstance(node, kinds)}.issuperset(names)


def _annotated(tree: ast.AST) -> bool:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return bool(functions) and all(
        function.returns is not None
        and all(each.annotation is not None for each in function.args.args if each.arg != "self")
        for function in functions
    )


def _documented(tree: ast.AST) -> bool:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return bool(functions) and all(ast.get_docstring(function) for function in functions)


_LOOPS = (ast.For, ast.While, ast.comprehension)
_PROGRAMS: tuple[tuple[str, str, tuple[Check, ...]], ...] = (
    (
        "digit_sum(n)",
        "returns the sum of the digits of n by calling itself, without any loop; annotate the parameter and the "
        "result",
        (_names("digit_sum"), _lacks(*_LOOPS), _annotated),
    ),
    (
        "merge(left, right)",
        "merges two sorted lists with one while loop, without sorted(), and has a docstring",
        (_has(ast.While), lambda tree: not _names("sorted")(tree), _documented),
    ),
    (
        "evens(limit)",
        "is a generator of the even numbers below limit, with yield and without a list",
        (_has(ast.Yield), _lacks(ast.List, ast.ListComp, ast.Return)),
    ),
    (
        "logged(func)",
        "is a decorator: an inner function prints func.__name__ and returns what func returns for *args and "
        "**kwargs; use functools.wraps",
        (_names("wraps", "__name__"), _has(ast.Starred), lambda tree: _count(tree, ast.FunctionDef) == 2),
    ),
    (
        "fetch_all(urls)",
        "is async, starts fetch(url) for every url and awaits all of them with asyncio.gather",
        (_has(ast.AsyncFunctionDef), _has(ast.Await), _names("asyncio", "gather", "fetch")),
    ),
    (
        "parse_port(text)",
        "returns int(text) if it is from 1 to 65535, else raises ValueError; a text that is no number gives None, "
        "with try and except",
        (_has(ast.Try), _has(ast.Raise), _names("ValueError", "int"), _has(ast.Compare)),
    ),
    (
        "Stack()",
        "is a class with annotated methods push, pop and __len__; pop of an empty one raises IndexError",
        (
            _has(ast.ClassDef),
            _defines("push", "pop", "__len__"),
            _has(ast.Raise),
            _names("IndexError"),
            _annotated,
        ),
    ),
    (
        "group_by(items, key)",
        "returns a dict from key(item) to the list of its items, with dict.setdefault or defaultdict, and has "
        "default None for key",
        (
            lambda tree: _names("setdefault")(tree) or _names("defaultdict")(tree),
            lambda tree: any(function.args.defaults for function in _functions(tree)),
        ),
    ),
)


def _functions(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def _count(tree: ast.AST, kind: type[ast.AST]) -> int:
    return sum(isinstance(node, kind) for node in ast.walk(tree))


def score_of_program(text: str, signature: str, checks: Sequence[Check]) -> float:
    """1 for code that parses, defines what the signature says and passes every check; a quarter without these.

    The definition stands at the top level, and its parameters have the names asked for.
    """
    tree = parsed(text)
    name, _, rest = signature.partition("(")
    parameters = [each.strip() for each in rest.rstrip(")").split(",") if each.strip()]
    defined = [] if tree is None else [node for node in tree.body if getattr(node, "name", None) == name]
    if tree is None or len(defined) != 1:
        return 0.0
    found = defined[0]
    if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef):
        if [each.arg for each in found.args.args] != parameters:
            return 0.0
    elif not isinstance(found, ast.ClassDef):
        return 0.0
    return 1.0 if all(check(tree) for check in checks) else 0.25


_FAULTY: tuple[tuple[str, tuple[str, ...], int, str], ...] = (
    (
        "returns the mean of a list that is not empty",
        (
            "def mean(numbers):",
            "    total = 0",
            "    for n in numbers:",
            "        total += n",
            "    return total / 2",
        ),
        5,
        "    return total / len(numbers)",
    ),
    (
        "returns the largest number of a list that is not empty",
        (
            "def largest(numbers):",
            "    best = 0",
            "    for n in numbers:",
            "        if n > best:",
            "            best = n",
            "    return best",
        ),
        2,
        "    best = numbers[0]",
    ),
    (
        "counts how often each word occurs",
        (
            "def count(words):",
            "    counts = {}",
            "    for word in words:",
            "        counts[word] = counts.get(word, 1) + 1",
            "    return counts",
        ),
        4,
        "        counts[word] = counts.get(word, 0) + 1",
    ),
    (
        "returns whether a text reads the same backwards",
        (
            "def palindrome(text):",
            "    left, right = 0, len(text)",
            "    while left < right:",
            "        if text[left] != text[right]:",
            "            return False",
            "        left, right = left + 1, right - 1",
            "    return True",
        ),
        2,
        "    left, right = 0, len(text) - 1",
    ),
    (
        "returns the position of a number in a sorted list, or -1",
        (
            "def find(numbers, wanted):",
            "    low, high = 0, len(numbers) - 1",
            "    while low <= high:",
            "        middle = (low + high) // 2",
            "        if numbers[middle] == wanted:",
            "            return middle",
            "        if numbers[middle] < wanted:",
            "            low = middle",
            "        else:",
            "            high = middle - 1",
            "    return -1",
        ),
        8,
        "            low = middle + 1",
    ),
)
_LINE = re.compile(r"\d+")


def faulty(dice: Random) -> tuple[str, int]:
    """A program with one faulty line, numbered, and that line's number; blank lines before it move the numbers."""
    purpose, lines, wrong, _ = dice.choice(_FAULTY)
    shift = dice.randint(0, 3)
    shown = ["# helpers"] * shift + list(lines)
    numbered = "\n".join(f"{number}: {line}" for number, line in enumerate(shown, 1))
    prompt = f"This Python function {purpose}, but one line is wrong. Which? Answer with its number alone."
    return f"{prompt}\n\n{numbered}", wrong + shift


def names_line(text: str, right: int) -> bool:
    """Whether a text names this line, and no other."""
    return {int(found[:9]) for found in _LINE.findall(text)} == {right}


def expression(dice: Random) -> tuple[str, Any]:
    """An expression and its value, which is computed here by the same operations."""
    a, b, n = dice.randint(2, 5), dice.randint(2, 9), dice.randint(4, 6)
    word = dice.choice(("stone", "river", "cloud"))
    return dice.choice(
        (
            (f"[{a} * x for x in range({n}) if x % 2]", [a * x for x in range(n) if x % 2]),
            (f"sum(range({n}, {n + b}, 2))", sum(range(n, n + b, 2))),
            (f"'{word}'[::-2].upper()", word[::-2].upper()),
            (f"[*range({b})][-{a}:][0] * {n}" if b >= a else f"{b} ** 2 % {n}",
             [*range(b)][-a:][0] * n if b >= a else b**2 % n),
            (f"{{c: i for i, c in enumerate('{word}')}}['{word[a % 5]}'] - {b}",
             {c: i for i, c in enumerate(word)}[word[a % 5]] - b),
        )
    )  # fmt: skip


async def coding(dice: Random, model: Examinee) -> float:
    """Write a program, find a fault, or tell the value of an expression."""
    kind = dice.randrange(3)
    if kind == 0:
        signature, told, checks = dice.choice(_PROGRAMS)
        prompt = f"Write {signature} in Python. It {told}. Answer with the code alone."
        return score_of_program(await model.text(prompt, tokens=260), signature, checks)
    if kind == 1:
        prompt, right = faulty(dice)
        return float(names_line(await model.text(prompt, tokens=40), right))
    asked, value = expression(dice)
    prompt = f"What is the value of this Python expression? Answer with the literal alone.\n\n{asked}"
    answer = literal(await model.text(prompt, tokens=60))
    return float(type(answer) is type(value) and answer == value)
