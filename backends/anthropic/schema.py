"""Converts JSON schemas into the subset that Anthropic's constrained decoding takes.

Every object must forbid additional properties, and bounds on numbers, strings and arrays are not enforced.
A bound is moved into the description, where the model can read it, and its name is reported as dropped, since
the decoder does not enforce it. Source: Anthropic's page on structured outputs.
"""

from __future__ import annotations

from typing import Any

_KEPT = frozenset(
    {
        *("type", "enum", "const", "default", "title", "description", "properties", "required", "items"),
        *("anyOf", "allOf", "$ref", "$defs", "definitions", "additionalProperties", "format", "minItems"),
    }
)
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})
_MAX_DEPTH = 100


class Inexpressible(Exception):
    """The schema cannot be made closed: it allows properties that it does not name, or refers to itself."""


def constrain(schema: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """``(schema in the subset, names of the keywords that are only described)``.

    Raises :class:`Inexpressible` for open objects (``additionalProperties`` true or a schema,
    ``patternProperties``), which the subset cannot express.
    """
    described: dict[str, None] = {}
    return _walk(schema, described, 0), tuple(described)


def _walk(schema: dict[str, Any], described: dict[str, None], depth: int) -> dict[str, Any]:
    if depth > _MAX_DEPTH:
        raise Inexpressible
    out: dict[str, Any] = {}
    moved: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("oneOf", "anyOf", "allOf"):
            out["anyOf" if key == "oneOf" else key] = [_child(one, described, depth) for one in _list(value)]
            if key == "oneOf":
                described["oneOf"] = None
        elif key in ("properties", "$defs", "definitions"):
            out[key] = {name: _child(one, described, depth) for name, one in _object(value).items()}
        elif key == "items":
            out[key] = _child(value, described, depth)
        elif _is_kept(key, value):
            out[key] = value
        elif key not in ("$schema", "$id", "$comment", "examples", "deprecated", "readOnly", "writeOnly"):
            moved[key] = value
    _close(schema, out, moved)
    if moved:
        described.update(dict.fromkeys(moved))
        note = ", ".join(f"{key}: {value}" for key, value in moved.items())
        out["description"] = f"{out['description']}\n\n{{{note}}}" if out.get("description") else f"{{{note}}}"
    return out


def _child(value: Any, described: dict[str, None], depth: int) -> Any:
    return _walk(value, described, depth + 1) if isinstance(value, dict) else value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Inexpressible
    return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Inexpressible
    return value


def _is_kept(key: str, value: Any) -> bool:
    if key == "format":
        return value in _FORMATS
    if key == "minItems":
        return value in (0, 1)
    return key in _KEPT


def _close(schema: dict[str, Any], out: dict[str, Any], moved: dict[str, Any]) -> None:
    """Forbid additional properties of an object. Raises Inexpressible if the schema allows them."""
    kind = schema.get("type")
    is_object = kind == "object" or (isinstance(kind, list) and "object" in kind) or "properties" in schema
    if "patternProperties" in moved or out.get("additionalProperties") not in (None, False):
        raise Inexpressible
    if is_object:
        if not schema.get("properties") and schema.get("additionalProperties") is not False:
            raise Inexpressible
        out["additionalProperties"] = False
