"""The wording of pydantic's validation errors: what is allowed and what came, in plain English."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic_core import ErrorDetails

LONGEST_SHOWN = 80
MOST_NAMED = 20
"""Known names of which all are told where none is near an unknown one."""
UNKNOWN, MISSING = "extra_forbidden", "missing"

_SAYS = {
    UNKNOWN: "there is no such field",
    MISSING: "this field is needed",
    "bool_type": "it must be true or false",
    "bool_parsing": "it must be true or false",
    "int_type": "it must be a whole number",
    "int_parsing": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "int_parsing_size": "it must be a smaller number",
    "float_type": "it must be a number",
    "float_parsing": "it must be a number",
    "decimal_type": "it must be a number",
    "decimal_parsing": "it must be a number",
    "finite_number": "it must be a finite number",
    "greater_than": "it must be more than {gt}",
    "greater_than_equal": "it must be at least {ge}",
    "less_than": "it must be less than {lt}",
    "less_than_equal": "it must be at most {le}",
    "multiple_of": "it must be a multiple of {multiple_of}",
    "string_type": "it must be text",
    "string_too_short": "it must have at least {min_length} characters",
    "string_too_long": "it must have at most {max_length} characters",
    "string_pattern_mismatch": "it must match the pattern {pattern}",
    "literal_error": "it must be {expected}",
    "enum": "it must be {expected}",
    "list_type": "it must be a list",
    "tuple_type": "it must be a list",
    "set_type": "it must be a list",
    "frozen_set_type": "it must be a list",
    "dict_type": "it must be an object",
    "model_type": "it must be an object",
    "model_attributes_type": "it must be an object",
    "too_short": "it must have at least {min_length} items",
    "too_long": "it must have at most {max_length} items",
    "path_type": "it must be a path",
    "none_required": "it must be left out",
}
_PYDANTICS = re.compile(r"^(Input|Value|String|Object|List|Dictionary|Tuple|Set|URL) (should|must) ")


def allowed(error: ErrorDetails) -> str:
    """The rule that a field breaks; for an error that is not in the table, pydantic's own message, adapted."""
    context: Mapping[str, Any] = error.get("ctx", {})
    context = {name: int(v) if isinstance(v, float) and v.is_integer() else v for name, v in context.items()}
    try:
        said = _SAYS[error["type"]].format_map(context)
    except KeyError:
        message = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ").rstrip(".")
        return _PYDANTICS.sub("it must ", message).replace("it must be a valid ", "it must be a ", 1)
    return said[:-1] if said.endswith((" 1 characters", " 1 items")) else said


def describe(error: ErrorDetails, *, value: bool) -> str:
    """The rule that a field breaks, and its value; ``value``: a text may be repeated, else only its kind."""
    said = allowed(error)
    if error["type"] in (UNKNOWN, MISSING) or "input" not in error:
        return said
    return f"{said} (it is {shown(error['input'], value=value)})"


def or_known(name: str, known: Collection[str]) -> str:
    """The words behind the refusal of an unknown name: the nearest known one, else all, if they are few."""
    near = difflib.get_close_matches(name[:LONGEST_SHOWN].casefold(), known, n=1)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; there are {', '.join(sorted(known))}" if 0 < len(known) <= MOST_NAMED else ""


def shown(came: Any, *, value: bool) -> str:
    """A value in JSON's words, cut short. A text, list or object is named by its kind unless ``value`` is set."""
    match came:
        case None:
            return "null"
        case bool():
            return str(came).lower()
        case int() | float():
            return repr(came)[:LONGEST_SHOWN]
    if value:
        return repr(came)[:LONGEST_SHOWN]
    match came:
        case str() | bytes():
            return "text" if came else "empty text"
        case Mapping():
            return "an object"
        case Iterable():
            return "a list"
    return f"of the type {type(came).__name__}"


def of_type(kind: Any) -> str:
    """The words for an item by its ``type``, which a caller may have left out."""
    return f"of type {str(kind)[:LONGEST_SHOWN]!r}" if kind is not None else "without a type"


def place(error: ErrorDetails) -> str:
    """The dotted name of the field, or an empty text for the whole."""
    return ".".join(str(part) for part in error["loc"])
