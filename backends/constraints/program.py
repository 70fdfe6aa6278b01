"""A process that compiles grammars and checks answers: one JSON object a line on standard input, one back.

It runs apart from the gateway, because both can take long and neither can be interrupted. It imports nothing of
Roundhouse, so that it starts in a third of a second. Operations:

- ``compile``: ``{"kind": "lark" | "gbnf" | "regex", "text"}`` → ``{"lark"}``, a grammar that compiles;
- ``fits``: ``{"schema", "text"}`` or ``{"lark", "text"}`` → ``{}``, the text is of that form;
- ``begins``: ``{"lark", "text"}`` → ``{}``, the text is the beginning of one of that form.

An answer with ``error`` says why not; with ``unsure`` it could not be decided, and with ``dead`` the grammar has
no whole text that begins as this one.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import sys
import warnings
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

MEMORY = 2 * 1024**3
_HEADER = "%llguidance {}\n"


class Refused(Exception):
    """A grammar that does not compile, or a text that does not fit."""


class DeadEnd(Refused):
    """A grammar that ends no text which begins in a certain way."""


@lru_cache(maxsize=1)
def _bytes() -> Any:
    from llguidance import LLTokenizer

    return LLTokenizer("byte")


def _matcher(lark: str) -> Any:
    from llguidance import LLMatcher

    matcher = LLMatcher(_bytes(), lark, log_level=0)
    if matcher.is_error():
        raise Refused(_reason(matcher.get_error()))
    return matcher


def _reason(error: str) -> str:
    """The first lines of llguidance's message, without the grammar that it quotes."""
    lines = [line for line in error.splitlines() if not re.match(r"\s+(\d+ \||\^)", line)]
    text = " ".join(" ".join(lines).split())
    return re.sub(r"^(at )?\d+\(\d+\): (failed to compile JSON schema: )?", "", text)[:300]


def compiled(kind: str, text: str) -> dict[str, Any]:
    """Translate to Lark and compile."""
    lark = text
    if kind == "gbnf" and not text.lstrip().startswith("%llguidance"):
        from llguidance.gbnf_to_lark import GbnfToLarkError, any_to_lark, is_lark_syntax

        try:
            lark = _HEADER + any_to_lark(text).removeprefix(_HEADER)
        except GbnfToLarkError as error:
            said = re.sub(r", '[^']*' \^ .*", "", str(error), flags=re.DOTALL)
            raise Refused(f"the grammar cannot be read: {said[:1].lower()}{said[1:200]}") from None
        except Exception:  # the converter raises what its parser happens to raise
            raise Refused("the grammar cannot be read") from None
        if not is_lark_syntax(text):
            _refuse_endless_rules(text)
    elif kind == "regex":
        from llguidance import LLMatcher

        bare = text.removeprefix("^")
        bare = bare[:-1] if re.search(r"(?<!\\)(\\\\)*\$$", bare) else bare
        lark = _HEADER + json.loads(LLMatcher.grammar_from_regex(bare))["grammars"][0]["lark_grammar"]
    _refuse_dead_end(_matcher(lark))
    return {"lark": lark}


def _refuse_endless_rules(gbnf: str) -> None:
    """Raises DeadEnd for a rule in use that no text completes, such as ``root ::= "a" root``."""
    from llguidance.gbnf_to_lark import AlternativeNode, GrammarParser, RepetitionNode, RuleRefNode

    rules = GrammarParser().parse(gbnf)
    ends: set[str] = set()

    def is_finite(node: Any) -> bool:
        if isinstance(node, RuleRefNode):
            return node.name in ends
        if isinstance(node, RepetitionNode) and node.min_times == 0:
            return True
        parts = map(is_finite, node.children())
        return any(parts) if isinstance(node, AlternativeNode) else all(parts)

    while found := {name for name, rule in rules.items() if name not in ends and is_finite(rule)}:
        ends |= found
    used, ahead = set[str](), ["root"]
    while ahead:
        name = ahead.pop()
        if name in used or name not in rules:
            continue
        used.add(name)
        ahead += _names_in(rules[name])
    endless = next((name for name in rules if name in used - ends), None)
    if endless is not None:
        raise DeadEnd(f"the rule '{endless[:80]}' matches no text, because each of its ways leads back to it")


def _names_in(node: Any) -> Iterator[str]:
    """The rules to which a part of a GBNF grammar refers."""
    if type(node).__name__ == "RuleRefNode":
        yield node.name
    for part in node.children():
        yield from _names_in(part)


def _refuse_dead_end(matcher: Any) -> None:
    """Raises DeadEnd for a grammar without any text, as far as its one possible beginning shows."""
    if matcher.is_accepting():
        return
    forced = bytes(matcher.compute_ff_bytes())
    if not matcher.consume_tokens(list(forced)) or matcher.is_error():
        raise DeadEnd("it has one beginning, and that never ends or is too complex")
    _refuse_stuck(matcher, forced)


def _refuse_stuck(matcher: Any, text: bytes) -> None:
    """Raises DeadEnd if nothing may follow ``text``, which the matcher took, and it is not whole."""
    if matcher.is_error() or matcher.is_accepting():
        return
    matcher.compute_bitmask()
    if matcher.is_stopped() and matcher.get_error().startswith("NoExtension"):
        where = f" that begins with {text[-60:].decode(errors='replace')!r}" if text else ""
        raise DeadEnd(f"it matches no text{where}")


def fits_schema(schema: Any, text: str) -> None:
    """Raises Refused for a text that is not JSON of this schema."""
    from jsonschema import validators  # type: ignore[import-untyped]
    from jsonschema.exceptions import best_match  # type: ignore[import-untyped]
    from jsonschema.validators import (  # type: ignore[import-untyped]
        Draft7Validator,
        Draft202012Validator,
        validator_for,
    )
    from referencing import Registry

    try:
        value = json.loads(text)
    except RecursionError:
        raise Refused("it is nested too deeply") from None
    except ValueError as error:
        raise Refused(f"it is not JSON: {error}") from None
    usual = Draft7Validator if _has_old_tuples(schema) else Draft202012Validator
    kind = validators.extend(validator_for(schema, default=usual), _AS_ENFORCED)
    check: Any = kind(schema, registry=Registry(), format_checker=kind.FORMAT_CHECKER)
    wrong = best_match(check.iter_errors(value))
    if wrong is not None:
        raise Refused(f"at {wrong.json_path}, the schema's '{wrong.validator}' is not kept")


def _found(pattern: str, text: str) -> bool:
    """Whether a pattern matches somewhere in a text, as Python or else as llguidance reads it.

    The dialects differ (``\\p{Lu}``, ``[[:alpha:]]``, the characters of ``\\D``), and llguidance's is enforced.
    Raises ValueError if neither reads it.
    """
    read = False
    with contextlib.suppress(re.error, Warning), warnings.catch_warnings():
        warnings.simplefilter("error")  # of constructs that other dialects read differently
        if re.search(pattern, text):
            return True
        read = True
    try:
        matcher = _matcher(f"{_HEADER}start: %json {json.dumps({'type': 'string', 'pattern': pattern})}")
    except Refused as unread:
        if read:
            return False
        raise ValueError(f"the pattern {pattern!r:.80} cannot be read") from unread
    return bool(matcher.consume_tokens(list(json.dumps(text, ensure_ascii=False).encode()))) and bool(
        matcher.is_accepting()
    )


def _pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[Any]:
    if isinstance(value, str) and not _found(pattern, value):
        yield _wrong(f"{value!r:.60} does not match")


def _pattern_properties(check: Any, by_pattern: dict[str, Any], value: Any, _: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for pattern, schema in by_pattern.items():
            for name, item in value.items():
                if _found(pattern, name):
                    yield from check.descend(item, schema, path=name, schema_path=pattern)


def _additional_properties(check: Any, rest: Any, value: Any, schema: dict[str, Any]) -> Iterator[Any]:
    if not isinstance(value, dict):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name in value:
        if name in known or any(_found(pattern, name) for pattern in patterns):
            continue
        if rest is False:
            yield _wrong(f"{name!r:.60} is not allowed")
        else:
            yield from check.descend(value[name], rest, path=name)


def _multiple_of(_: Any, unit: Any, value: Any, __: Any) -> Iterator[Any]:
    """In decimals, as llguidance counts: 0.3 is a multiple of 0.1, and not so as binary numbers."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            is_multiple = Fraction(repr(value)) % Fraction(repr(unit)) == 0
        except ValueError:  # infinite
            is_multiple = False
        if not is_multiple:
            yield _wrong(f"{value!r:.60} is not a multiple")


def _wrong(message: str) -> Any:
    from jsonschema.exceptions import ValidationError

    return ValidationError(message)


_AS_ENFORCED = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "multipleOf": _multiple_of,
}
"""Keywords that jsonschema reads otherwise than llguidance, or than its own standard."""


def _has_old_tuples(node: Any) -> bool:
    """Whether ``items`` is a list anywhere, as before draft 2020-12."""
    if isinstance(node, dict):
        return isinstance(node.get("items"), list) or any(map(_has_old_tuples, node.values()))
    return isinstance(node, list) and any(map(_has_old_tuples, node))


def fits_grammar(lark: str, text: str, *, whole: bool) -> None:
    """Raises Refused for a text that the grammar does not produce, as a ``whole`` or as a beginning of one.

    It is a DeadEnd if the grammar itself has nothing that follows the part which it produced.
    """
    matcher = _matcher(lark)
    given = text.encode()
    taken = matcher.try_consume_tokens(list(given))
    if taken < len(given) or (whole and not matcher.is_accepting()):
        _refuse_stuck(matcher, given[:taken])
        raise Refused("the grammar does not produce it")


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    try:
        if asked["do"] == "compile":
            return compiled(asked["kind"], asked["text"])
        if "lark" in asked:
            fits_grammar(asked["lark"], asked["text"], whole=asked["do"] == "fits")
        else:
            fits_schema(asked["schema"], asked["text"])
    except DeadEnd as refused:
        return {"error": str(refused), "dead": True}
    except Refused as refused:
        return {"error": str(refused)}
    except (RecursionError, MemoryError):
        return {"error": "it is too complex", "unsure": True}
    except Exception as error:  # the boundary: a caller's schema may be anything
        return {"error": f"it cannot be checked: {error!r:.200}", "unsure": True}
    return {}


def main() -> None:
    with contextlib.suppress(OSError, ValueError):  # a lower limit is in force already
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(json.dumps(answer(json.loads(line))).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
