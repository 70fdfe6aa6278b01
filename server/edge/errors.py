"""Turns every kind of failure into OpenAI's error object, or Anthropic's on its paths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from json import JSONDecodeError, JSONDecoder
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.responses import Response

from catalog.errors import InvalidRequest, MethodNotAllowed, NotFound, PayloadTooLarge, RoundhouseError
from catalog.types import Json

M = TypeVar("M", bound=BaseModel)
NOTHING_HERE = "There is nothing at this path. GET /openapi.json lists what there is."
MAX_PARAM = 200
MAX_MESSAGE = 400
MAX_CONTAINERS = 1_000_000
MAX_ITEMS = 8_000_000
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_LONG_NUMBER = b"0" * 19
_DIGITS_AS_ZERO = bytes.maketrans(b"123456789", b"0" * 9)


def parse(model: type[M], body: bytes) -> M:
    """Validate a JSON body. Raises InvalidRequest that names the parameter and never repeats what was sent.

    Beyond the model's rules, input that JSON parsers disagree about is refused: a name twice in one object, NaN,
    Infinity, numbers too large for a float, and integers of more than 64 bits. So is a body with too many values:
    each takes far more memory than its two bytes in the body.
    """
    if body.count(b"[") + body.count(b"{") > MAX_CONTAINERS or body.count(b",") > MAX_ITEMS:
        raise InvalidRequest("The body has too many values to be a request.")
    try:
        value = model.model_validate_json(body)
    except ValidationError as error:
        raise from_validation(error, body) from None
    try:
        _strict_json(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body is not usable JSON: {_brief(str(error))}.") from None
    return value


def from_validation(error: ValidationError, body: bytes | Mapping[str, Any]) -> InvalidRequest:
    """The most helpful of several validation errors: the deepest, with the alternatives of a union."""
    details = error.errors(include_url=False, include_input=False, include_context=False)
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
    reasons = list(dict.fromkeys(_brief(detail["msg"]) for path, detail in same_field if path == chosen))
    param = _spell(chosen)
    reason = " or: ".join(reasons[:4])
    return InvalidRequest(f"'{param}': {reason}."[:MAX_MESSAGE] if param else f"{reason}.", param=param or None)


def as_error(error: BaseException) -> RoundhouseError:
    """The typed error for any exception; a foreign one reveals nothing of its content."""
    if isinstance(error, RoundhouseError):
        return error
    if isinstance(error, HTTPException):
        return _from_http(error)
    return RoundhouseError("The server failed on this request. Its log has the reason under the request id.")


def error_response(error: RoundhouseError, *, anthropic_id: str | None = None) -> Response:
    """The HTTP answer for an error; with the request's id in Anthropic's shape, for its own endpoints."""
    body = error.to_body()
    if anthropic_id:
        body = anthropic_error(error, request_id=anthropic_id)
    return Response(
        orjson.dumps(body),
        status_code=error.status,
        headers=error.headers(),
        media_type="application/json",
    )


def anthropic_error(error: RoundhouseError, *, request_id: str | None = None) -> Json:
    """Anthropic's error object, in an answer with the error's status and in an ``error`` event."""
    kind = _ANTHROPIC_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    if isinstance(error, InvalidRequest) and error.status == 400:
        kind = "invalid_request_error"
    elif isinstance(error, NotFound):
        kind = "not_found_error"
    body: Json = {"type": "error", "error": {"type": kind, "message": error.message}}
    return {**body, "request_id": request_id} if request_id else body


def _from_http(error: HTTPException) -> RoundhouseError:
    if error.status_code == 404:
        return NotFound(NOTHING_HERE)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow")
        return MethodNotAllowed(
            "This path does not take this method" + (f"; it takes {allowed}." if allowed else ".")
        )
    if error.status_code == 413:
        return PayloadTooLarge("The body is too large.")
    if 400 <= error.status_code < 500:
        return InvalidRequest(_brief(str(error.detail or HTTPStatus(error.status_code).phrase)))
    return RoundhouseError(HTTPStatus(error.status_code).phrase)


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


def _spell(path: Sequence[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part[:64]}" if text else part[:64])
    return text[:MAX_PARAM]


def _brief(message: str) -> str:
    return message.removeprefix("Value error, ").rstrip(".")[:MAX_MESSAGE]
