"""Parses JSON bodies strictly, and turns validation errors into one helpful error."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from json import JSONDecodeError, JSONDecoder
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from catalog.errors import InvalidRequest
from catalog.validation.nesting import fields_at
from catalog.validation.wording import MISSING, UNKNOWN, allowed, or_known, shown

M = TypeVar("M", bound=BaseModel)
MAX_PARAM = 200
MAX_CONTAINERS = 100_000
MAX_ITEMS = 2_000_000
MAX_NAMES = 200_000
SHORT = 64 * 1024
"""Bytes of a body that are parsed at once; a longer one is parsed in a thread, as it may take seconds."""
_LONG_NUMBER = b"0" * 19
_DIGITS_AS_ZERO = bytes.maketrans(b"123456789", b"0" * 9)
MAX_MESSAGE = 400
MAX_REPAIRS = 10_000
MAX_WHOLE = 2**53
"""The largest number up to which a float is exact."""


def parse(model: type[M], body: bytes) -> M:
    """Validate a JSON body. Raises InvalidRequest that names the parameter and never repeats what was sent.

    Beyond the model's rules, input that JSON parsers disagree about is refused: a name twice in one object, NaN,
    Infinity, numbers too large for a float, and integers of more than 64 bits. So is a body with too many values:
    each takes far more memory than its two bytes in the body, and the parsers hold Python's lock meanwhile.
    """
    if len(body) > SHORT and (
        body.count(b"[") + body.count(b"{") > MAX_CONTAINERS
        or body.count(b",") > MAX_ITEMS
        or body.count(b'":') > MAX_NAMES
    ):
        raise InvalidRequest("The body has too many values to be a request.")
    try:
        value = model.model_validate_json(body)
    except ValidationError as error:
        value = _second_reading(model, body, error)
    try:
        _strict_json(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body is not usable JSON: {_brief(str(error))}.") from None
    return value


def as_model(model: type[M], fields: Mapping[str, Any]) -> M:
    """Validate fields that were read before. Raises InvalidRequest as :func:`parse`."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        if isinstance(fields, dict) and with_whole_numbers(error, fields):
            return as_model(model, fields)
        raise from_validation(error, fields, model) from None


def _second_reading(model: type[M], body: bytes, error: ValidationError) -> M:
    """The value, if only whole numbers are written as 1.0. Raises InvalidRequest otherwise."""
    sent = _loads(body)
    if not with_whole_numbers(error, sent):
        raise from_validation(error, body, model) from None
    try:
        return model.model_validate_json(orjson.dumps(sent))
    except ValidationError as still:
        raise from_validation(still, body, model) from None


def with_whole_numbers(error: ValidationError, sent: Any) -> bool:
    """Turn 1.0 into 1 in ``sent`` where ``error`` wants an integer; return whether there was any.

    JSON has one type of numbers, and some languages write every number with a point (RFC 8259, section 6).
    """
    if not isinstance(sent, dict) or error.error_count() > MAX_REPAIRS:
        return False
    found = False
    for detail in error.errors(include_url=False, include_context=False):
        number = detail["input"]
        if detail["type"] not in _NOT_WHOLE or not isinstance(number, float) or not number.is_integer():
            continue
        *path, last = _path(detail, sent)
        holder: Any = sent
        for step in path:
            holder = holder[step]
        if abs(number) <= MAX_WHOLE and holder[last] == number:
            holder[last], found = int(number), True
    return found


_NOT_WHOLE = frozenset({"int_type", "int_from_float"})


def from_validation(
    error: ValidationError, body: bytes | Mapping[str, Any], model: type[BaseModel] | None = None
) -> InvalidRequest:
    """The most helpful of several validation errors: the deepest, with the alternatives of a union.

    ``model`` is what the body was read as, whose fields are named where one is unknown.
    """
    # Without the input: that of a missing field is the whole object around it, copied for each error.
    details = error.errors(include_url=False, include_input=False)
    first = details[0]
    if first["type"] == "json_invalid":
        return InvalidRequest(f"The body is not valid JSON: {_brief(first['msg'])}.")
    sent = _loads(body) if isinstance(body, bytes) else body
    if not isinstance(sent, Mapping):
        return InvalidRequest("The body must be a JSON object.")
    paths = [(_path(detail, sent), detail) for detail in details]
    top = paths[0][0][:1]
    same_field = [(path, detail) for path, detail in paths if path[:1] == top]
    deepest = max(len(path) for path, _ in same_field)
    chosen = next(path for path, _ in same_field if len(path) == deepest)
    there = [detail for path, detail in same_field if path == chosen]
    reasons = list(dict.fromkeys(allowed(detail)[:MAX_MESSAGE] for detail in there))
    param = _spell(chosen)
    reason = _either(reasons[:4])
    if _is_of_name(there[0]):
        return InvalidRequest(f"'{param}': this name is not valid; {reason}.", param=param)
    if there[0]["type"] == UNKNOWN and model is not None and chosen:
        reason += or_known(str(chosen[-1]), fields_at(model, chosen[:-1]))
    if there[0]["type"] not in (MISSING, UNKNOWN) and chosen:
        reason += f" ({_came(_at(sent, chosen), there[0]['type'])})"
    end = "" if reason.endswith("?") else "."
    return InvalidRequest(
        f"'{param}': {reason}{end}"[:MAX_MESSAGE] if param else f"{reason}{end}", param=param or None
    )


def _came(value: Any, broken: str) -> str:
    """The words for a value that breaks a rule: its number of items, or a number, which a query has as text."""
    if broken in _OF_LENGTH and isinstance(value, list | tuple | dict):
        return f"it has {len(value)}"
    if broken in _COMPARED and isinstance(value, str) and _PLAIN_NUMBER.fullmatch(value):
        return f"it is {value}"
    return f"it is {shown(value, value=False)}"


_OF_LENGTH = frozenset({"too_long", "too_short"})
_COMPARED = frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal"})
_PLAIN_NUMBER = re.compile(r"[+-]?\d{1,20}(?:\.\d{1,20})?", re.ASCII)
_MUST_BE = "it must be "


def _either(reasons: Sequence[str]) -> str:
    """One sentence of the rules of a field's alternatives."""
    if all(reason.startswith(_MUST_BE) for reason in reasons):
        return _MUST_BE + " or ".join(reason.removeprefix(_MUST_BE) for reason in reasons)
    return " or: ".join(reasons)


def _is_of_name(detail: ErrorDetails) -> bool:
    """Whether an error is of the name of a field, not of its value."""
    return detail["loc"][-1:] == ("[key]",)


def _strict_json(body: bytes) -> None:
    # A hook for every integer is slow, and only a long run of digits can be too large.
    long_number = _LONG_NUMBER in body.translate(_DIGITS_AS_ZERO)
    (_OF_LONG_NUMBERS if long_number else _STRICT).decode(body.decode("utf-8"))


def _of_64_bits(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise ValueError("an integer is too large")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same name twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


_STRICT = JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)
_OF_LONG_NUMBERS = JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_of_64_bits
)


def _loads(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            return JSONDecoder().decode(body.decode("utf-8", "replace"))
        except (JSONDecodeError, RecursionError, ValueError):
            return None


def _path(detail: ErrorDetails, sent: Any) -> tuple[str | int, ...]:
    """The error's place in the sent value: pydantic's location without the labels of union branches."""
    path: list[str | int] = []
    here = sent
    missing = detail["type"] == "missing"
    for position, part in enumerate(detail["loc"]):
        last = position == len(detail["loc"]) - 1
        if isinstance(part, str) and isinstance(here, Mapping) and (part in here or (missing and last)):
            path.append(part)
            here = here.get(part)
        elif (
            isinstance(part, int) and isinstance(here, Sequence) and not isinstance(here, str) and part < len(here)
        ):
            path.append(part)
            here = here[part]
    return tuple(path)


def _at(sent: Any, path: Sequence[str | int]) -> Any:
    """The value at a path that exists."""
    for part in path:
        sent = sent[part]
    return sent


def _spell(path: Sequence[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part[:64]}" if text else part[:64])
    return text[:MAX_PARAM]


def _brief(message: str) -> str:
    return message.removeprefix("Value error, ").rstrip(".")[:MAX_MESSAGE]
