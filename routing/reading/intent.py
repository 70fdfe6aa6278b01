"""Reads the caller's intent from the model name, ``x-roundhouse-*`` headers and ``routing: {...}`` in the body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from catalog.errors import InvalidRequest
from catalog.model import Capability
from catalog.validation.wording import UNKNOWN, describe
from routing.facts import AUTO_LATEST, Intent, Mode, Task, Workload

HEADER_PREFIX = "x-roundhouse-"
_LIST_FIELDS = frozenset({"require", "exclude", "tags"})
_RESPONSE_HEADERS = frozenset(
    {
        "model",
        "trace",
        "reason",
        "attempts",
        "dropped",
        "bound",
        "effort",
        "notice",
        "estimate",
        "stand_in",
    }
)
"""Headers of our responses; ignored in requests, because clients and proxies may echo them."""


class IntentBody(BaseModel):
    """``routing`` in a request's body. Each field can be a header too, with dashes: ``x-roundhouse-max-cost``."""

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
    exclude: frozenset[str] = Field(
        default=frozenset(),
        max_length=256,
        description="models by id, name or alias (with all replicas), or all of an endpoint or provider",
    )
    tags: frozenset[str] = Field(default=frozenset(), max_length=32)
    max_cost: float | None = Field(
        default=None, ge=0, le=1e9, allow_inf_nan=False, description="dollars, for this request"
    )
    escalate: bool = False
    strict: bool = False
    timings: bool = Field(
        default=False, description="the usage has the context window and the times of the answer"
    )


_FIELDS = frozenset(IntentBody.model_fields)
_MISPLACED = _FIELDS - {"strict", "timings"}
"""Fields that bind nothing outside ``routing``; ``strict`` and ``timings`` are fields of a body, too."""
_OF_OTHERS: dict[str, type[Mode | Task]] = {"mode": Mode, "task": Task}
"""Fields that some servers have under the same name, with other values."""
_DEFAULT = {mode: Intent(mode=mode) for mode in Mode}


def is_auto(requested: str) -> bool:
    """Whether the router chooses: ``auto`` or ``auto:<mode>``, in any case."""
    name = requested.casefold()
    return name == "auto" or name.startswith("auto:")


def read_intent(requested: str, body: Any, headers: Mapping[str, str]) -> Intent:
    """Merge the name's mode, the headers and the body; the body overrides a header, both override the name.

    Raises InvalidRequest for an unknown mode, field or value, also for an ``x-roundhouse-`` header that names no
    field: a misspelt field must not be ignored silently.
    """
    mode = mode_of(requested)
    from_headers = {name: headers[header] for header in headers if (name := _field_of(header)) is not None}
    if body is None and not from_headers:
        return _DEFAULT[mode]
    if body is not None and not isinstance(body, dict):
        raise InvalidRequest('\'routing\' must be an object, as in {"mode": "fast"}.', param="routing")
    parsed_headers = {name: _parse_header(name, value) for name, value in from_headers.items()}
    try:
        parsed = IntentBody.model_validate(parsed_headers | (body or {}))
    except ValidationError as error:
        raise _invalid(error, body or {}) from None
    fields = {name: getattr(parsed, name) for name in _FIELDS}
    return Intent(**{**fields, "mode": parsed.mode or mode})


def check_misplaced(fields: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for a field of ``routing`` among a body's own, where it would be lost."""
    name = next((name for name in fields if name in _MISPLACED and _is_ours(name, fields[name])), None)
    if name is not None:
        raise InvalidRequest(
            f"'{name}' belongs in 'routing': send {{\"routing\": {{\"{name}\": ...}}}}, or the header "
            f"{HEADER_PREFIX}{name.replace('_', '-')}.",
            param=name,
        )


def _is_ours(name: str, value: Any) -> bool:
    kind = _OF_OTHERS.get(name)
    return value is not None if kind is None else value in list(kind)


def mode_of(requested: str) -> Mode:
    """The mode that a name asks for; ``auto`` for a model's name. Raises InvalidRequest for an unknown mode."""
    name = requested.casefold()
    if not name.startswith("auto:") or name == AUTO_LATEST:
        return Mode.AUTO
    try:
        return Mode(name.removeprefix("auto:"))
    except ValueError:
        known = ", ".join(f"'auto:{mode.value}'" for mode in Mode if mode is not Mode.AUTO)
        raise InvalidRequest(
            f"'{requested[:50]}' is not a routing mode; the modes are 'auto', {known}.", param="model"
        ) from None


def _field_of(header: str) -> str | None:
    if len(header) <= len(HEADER_PREFIX) or not header.lower().startswith(HEADER_PREFIX):
        return None
    name = header[len(HEADER_PREFIX) :].lower().replace("-", "_")
    return None if name in _RESPONSE_HEADERS else name


def _parse_header(name: str, value: str) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if name in _LIST_FIELDS else value.strip()


def _invalid(error: ValidationError, body: Mapping[str, Any]) -> InvalidRequest:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "routing"
    where = f"routing.{name}" if name in body else HEADER_PREFIX + name.replace("_", "-")
    if first["type"] == UNKNOWN:
        return InvalidRequest(
            f"'{where[:80]}' is unknown. Known fields: {', '.join(sorted(_FIELDS))}.", param=where[:80]
        )
    return InvalidRequest(f"'{where[:80]}': {describe(first, value=False)}.", param=where[:80])
