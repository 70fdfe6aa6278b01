"""What the caller said about the choice: ``routing: {...}`` in the body, ``x-roundhouse-*`` headers, the name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from catalog.errors import InvalidRequest
from catalog.model import Capability
from routing.facts import Intent, Mode, Task, Workload

HEADER_PREFIX = "x-roundhouse-"
_LISTS = frozenset({"require", "exclude", "tags"})
_ANSWERED = frozenset({"model", "trace", "reason", "attempts", "dropped", "estimate"})
"""Headers of our own answers. A client or proxy that carries them into its next request says nothing by it."""


class IntentBody(BaseModel):
    """``routing`` in a request's body. Each field is a header too, with dashes: ``x-roundhouse-max-cost``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    mode: Mode | None = None
    task: Task | None = None
    require: frozenset[Capability] = Field(default=frozenset(), max_length=32)
    workload: Workload = Workload.INTERACTIVE
    local_only: bool = False
    prefer_local: bool = False
    prefer_fast: bool = False
    prefer_quality: bool = False
    high_stakes: bool = False
    exclude: frozenset[str] = Field(default=frozenset(), max_length=256)
    tags: frozenset[str] = Field(default=frozenset(), max_length=32)
    max_cost: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="dollars, for this request"
    )
    escalate: bool = False
    strict: bool = False


_FIELDS = frozenset(IntentBody.model_fields)
_DEFAULT = {mode: Intent(mode=mode) for mode in Mode}


def read_intent(requested: str, body: Any, headers: Mapping[str, str]) -> Intent:
    """Join what the name, the body and the headers say; the body wins over a header, both over the name.

    Raises InvalidRequest for an unknown mode, field or value. ``x-roundhouse-`` headers that name no field
    are refused too: a misspelt wish must not be silently without effect.
    """
    mode = _named_mode(requested)
    said = {name: headers[header] for header in headers if (name := _field_of(header)) is not None}
    if body is None and not said:
        return _DEFAULT[mode]
    if body is not None and not isinstance(body, dict):
        raise InvalidRequest('\'routing\' must be an object, as in {"mode": "fast"}.', param="routing")
    values: dict[str, Any] = {name: _from_header(name, value) for name, value in said.items()} | (body or {})
    try:
        read = IntentBody.model_validate(values)
    except ValidationError as error:
        raise _refused(error, body or {}) from None
    fields = {name: getattr(read, name) for name in _FIELDS}
    return Intent(**{**fields, "mode": read.mode or mode})


def _named_mode(requested: str) -> Mode:
    name = requested.casefold()
    if not name.startswith("auto:"):
        return Mode.AUTO
    try:
        return Mode(name.removeprefix("auto:"))
    except ValueError:
        known = ", ".join(f"'auto:{mode.value}'" for mode in Mode if mode is not Mode.AUTO)
        raise InvalidRequest(
            f"'{requested[:50]}' is no way to choose. Use 'auto', {known}.", param="model"
        ) from None


def _field_of(header: str) -> str | None:
    if len(header) <= len(HEADER_PREFIX) or not header.lower().startswith(HEADER_PREFIX):
        return None
    name = header[len(HEADER_PREFIX) :].lower().replace("-", "_")
    return None if name in _ANSWERED else name


def _from_header(name: str, value: str) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if name in _LISTS else value.strip()


def _refused(error: ValidationError, body: Mapping[str, Any]) -> InvalidRequest:
    first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "routing"
    where = f"routing.{name}" if name in body else HEADER_PREFIX + name.replace("_", "-")
    if first["type"] == "extra_forbidden":
        return InvalidRequest(
            f"'{where[:80]}' is unknown. Known fields: {', '.join(sorted(_FIELDS))}.", param=where[:80]
        )
    return InvalidRequest(f"'{where[:80]}': {first['msg']}.", param=where[:80])
