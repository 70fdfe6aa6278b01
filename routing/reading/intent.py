"""Reads the caller's intent from the model name, ``x-roundhouse-*`` headers and ``routing: {...}`` in the body.

A limit holds wherever it is given, because a client may send one with every request and another with a single one:
the stricter of two values counts. Of preferences, the body's go before a header's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
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
        "usage_lag",
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
_LIMITS = ("local_only", "high_stakes", "strict", "require", "exclude", "tags")
"""Limits of which those of all sources hold together; of two ``max_cost``, the lower."""
_MISPLACED = _FIELDS - {"strict", "timings"}
"""Fields that bind nothing outside ``routing``; ``strict`` and ``timings`` are fields of a body, too."""
_OF_OTHERS: dict[str, type[Mode | Task]] = {"mode": Mode, "task": Task}
"""Fields that some servers have under the same name, with other values."""
_OPEN = (Mode.AUTO, Mode.LOCAL)
"""Modes that go together with any other."""
_DEFAULT = {mode: Intent(mode=mode) for mode in Mode}


def is_auto(requested: str) -> bool:
    """Whether the router chooses: ``auto`` or ``auto:<mode>``, in any case."""
    name = requested.casefold()
    return name == "auto" or name.startswith("auto:")


def read_intent(requested: str, body: Any, headers: Mapping[str, str]) -> Intent:
    """The intent of a request: the limits of all sources, and the preferences of the body before the headers'.

    ``body`` is an object, or the JSON of one, as forms have it. ``local`` in any source keeps the request local,
    also where another names a second mode. Raises InvalidRequest for any other mode that contradicts the name's,
    for an unknown mode, field or value, and for an ``x-roundhouse-`` header that names no field: a misspelt field
    must not be ignored silently.
    """
    mode = mode_of(requested)
    from_headers = {name: headers[header] for header in headers if (name := _field_of(header)) is not None}
    if body is None and not from_headers:
        return _DEFAULT[mode]
    if isinstance(body, str):
        body = _from_text(body)
    if body is not None and not isinstance(body, dict):
        raise InvalidRequest('\'routing\' must be an object, as in {"mode": "fast"}.', param="routing")
    sources = [_parsed(body, "routing.")] if body else []
    if from_headers:
        sources.append(_parsed({name: _parse_header(name, text) for name, text in from_headers.items()}))
    if not sources:
        return _DEFAULT[mode]
    fields = _merged(sources)
    chosen = _chosen(requested, mode, fields["mode"])
    if mode is Mode.LOCAL or any(source.mode is Mode.LOCAL for source in sources):
        fields["local_only"] = True
        chosen = Mode.LOCAL if chosen is Mode.AUTO else chosen
    return Intent(**{**fields, "mode": chosen})


def _from_text(text: str) -> Any:
    """The object that a form's field holds as JSON. Raises InvalidRequest."""
    try:
        read = orjson.loads(text)
    except orjson.JSONDecodeError:
        read = None
    if not isinstance(read, dict):
        raise InvalidRequest(
            '\'routing\' must be an object, as in {"mode": "fast"}: in a form as JSON. A header for each of its '
            f"fields does the same, as {HEADER_PREFIX}mode: fast.",
            param="routing",
        )
    return read


def intent_of(request: BaseModel, headers: Mapping[str, str]) -> Intent:
    """The intent of a request with a body: ``routing``, and ``strict`` and ``timings`` beside it.

    ``strict`` at the top of a body means ``routing.strict``: it never loosens what another source asks for.
    Raises InvalidRequest as :func:`read_intent`, and for a field of ``routing`` that stands beside it.
    """
    extra: dict[str, Any] = request.model_extra or {}
    if extra:
        check_misplaced(extra)
    intent = read_intent(getattr(request, "model", "auto"), extra.get("routing"), headers)
    strict = extra["strict"] if "strict" in extra else request.__dict__.get("strict")
    if strict is not None and _flag("strict", strict) and not intent.strict:
        intent = replace(intent, strict=True)
    if "timings" in extra:
        intent = replace(intent, timings=_flag("timings", extra["timings"]))
    return intent


def is_strict(request: BaseModel, headers: Mapping[str, str]) -> bool:
    """Whether a request that asks no model has its unknown fields refused. Raises as :func:`read_intent`."""
    extra: dict[str, Any] = request.model_extra or {}
    asked, intent = extra.get("strict"), read_intent("auto", extra.get("routing"), headers)
    return intent.strict or (asked is not None and _flag("strict", asked))


def _flag(name: str, asked: Any) -> bool:
    if not isinstance(asked, bool | None):
        raise InvalidRequest(f"'{name}' must be true or false.", param=name)
    return bool(asked)


def _merged(sources: Sequence[IntentBody]) -> dict[str, Any]:
    """The fields of all sources, of which an earlier one's preferences go before a later one's."""
    first = sources[0]
    fields = {name: getattr(first, name) for name in _FIELDS}
    for other in sources[1:]:
        fields |= {name: getattr(other, name) for name in other.model_fields_set - first.model_fields_set}
        fields |= {name: getattr(first, name) | getattr(other, name) for name in _LIMITS}
        costs = [source.max_cost for source in sources if source.max_cost is not None]
        fields["max_cost"] = min(costs, default=None)
        fields["mode"] = first.mode or other.mode
    return fields


def _chosen(requested: str, named: Mode, wished: Mode | None) -> Mode:
    """The mode of a name and another wish. Raises InvalidRequest if one contradicts the other.

    ``auto`` contradicts no mode, and ``local`` is a limit that every mode can keep.
    """
    if wished is None or wished is named:
        return named
    if named in _OPEN:
        return named if wished is Mode.AUTO else wished
    if wished in _OPEN:
        return named
    raise InvalidRequest(
        f"The model '{requested[:50]}' and the mode '{wished.value}' of 'routing' or {HEADER_PREFIX}mode "
        "contradict each other; name one of them.",
        param="routing.mode",
    )


def _parsed(fields: Mapping[str, Any], where: str = HEADER_PREFIX) -> IntentBody:
    """The fields of one source. Raises InvalidRequest that names a wrong one."""
    try:
        return IntentBody.model_validate(fields)
    except ValidationError as error:
        raise _invalid(error, where) from None


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


def _invalid(error: ValidationError, prefix: str) -> InvalidRequest:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "routing"
    where = prefix + (name.replace("_", "-") if prefix == HEADER_PREFIX else name)
    if first["type"] == UNKNOWN:
        return InvalidRequest(
            f"'{where[:80]}' is unknown. Known fields: {', '.join(sorted(_FIELDS))}.", param=where[:80]
        )
    return InvalidRequest(f"'{where[:80]}': {describe(first, value=False)}.", param=where[:80])
