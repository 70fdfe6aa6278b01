"""A process that compiles grammars and checks answers: one JSON object a line on standard input, one back.

It runs apart from the gateway, because both can take long and neither can be interrupted. It imports nothing of
Roundhouse, so that it starts in a third of a second. Operations:

- ``compile``: ``{"kind": "lark" | "gbnf" | "regex", "text"}`` → ``{"lark"}``, a grammar that compiles;
- ``fits``: ``{"schema", "text"}`` or ``{"lark", "text"}`` → ``{}``, the text is of that form;
- ``begins``: ``{"lark", "text"}`` → ``{}``, the text is the beginning of one of that form.

An answer with ``error`` says why not; with ``unsure`` it could not be decided.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import sys
from functools import lru_cache
from typing import Any

MEMORY = 2 * 1024**3
_HEADER = "%llguidance {}\n"


class Refused(Exception):
    """A grammar that does not compile, or a text that does not fit."""


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
        from llguidance.gbnf_to_lark import any_to_lark

        try:
            lark = _HEADER + any_to_lark(text).removeprefix(_HEADER)
        except Exception as error:  # the converter raises what its parser happens to raise
            raise Refused(f"the grammar cannot be read: {error!r:.200}") from None
    elif kind == "regex":
        from llguidance import LLMatcher

        bare = text.removeprefix("^")
        bare = bare[:-1] if re.search(r"(?<!\\)(\\\\)*\$$", bare) else bare
        lark = _HEADER + json.loads(LLMatcher.grammar_from_regex(bare))["grammars"][0]["lark_grammar"]
    _matcher(lark)
    return {"lark": lark}


def fits_schema(schema: Any, text: str) -> None:
    """Raises Refused for a text that is not JSON of this schema."""
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
    kind = validator_for(schema, default=usual)
    check: Any = kind(schema, registry=Registry(), format_checker=kind.FORMAT_CHECKER)
    wrong = best_match(check.iter_errors(value))
    if wrong is not None:
        raise Refused(f"at {wrong.json_path}, the schema's '{wrong.validator}' is not kept")


def _has_old_tuples(node: Any) -> bool:
    """Whether ``items`` is a list anywhere, as before draft 2020-12."""
    if isinstance(node, dict):
        return isinstance(node.get("items"), list) or any(map(_has_old_tuples, node.values()))
    return isinstance(node, list) and any(map(_has_old_tuples, node))


def fits_grammar(lark: str, text: str, *, whole: bool) -> None:
    """Raises Refused for a text that the grammar does not produce, as a ``whole`` or as a beginning."""
    matcher = _matcher(lark)
    tokens = list(text.encode())
    if not matcher.consume_tokens(tokens) or (whole and not matcher.is_accepting()):
        raise Refused("the grammar does not produce it")


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    try:
        if asked["do"] == "compile":
            return compiled(asked["kind"], asked["text"])
        if "lark" in asked:
            fits_grammar(asked["lark"], asked["text"], whole=asked["do"] == "fits")
        else:
            fits_schema(asked["schema"], asked["text"])
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
