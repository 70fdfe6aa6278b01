"""Checks that every keyword of a JSON schema can be enforced, and prepares the schema for llguidance.

llguidance enforces 27 keywords of draft 2020-12 and nine formats. llama-server drops a grammar that llguidance
refuses and answers in free text, so the check stands before the call. Source: docs/json_schema.md of llguidance;
xllamacpp 2026.10 holds version 1.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from backends.wire.schema import looks_around
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json

_COUNTS = frozenset({"minItems", "maxItems", "minProperties", "maxProperties"})
MAX_ITEMS = 5_000
"""Items that a schema may count: a grammar spells out each, and a million of them hold a worker for seconds."""
MAX_EXPANSION = 20_000
"""Values of a schema in which each ``$ref`` counts as what it points at. References to references double with each
level: forty levels of two are 3 kB and a million million values."""

_ROUNDS = 20
"""Rounds over the references of a schema, after which it is taken for one that values have."""

_ONE = frozenset({"items", "additionalItems", "additionalProperties"})
_LISTED = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions"})
_PLAIN = frozenset(
    {
        "$ref", "const", "enum", "type", "minItems", "maxItems", "required", "minProperties", "maxProperties",
        "minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum",
        "exclusiveMaximum", "multipleOf",
    }
)  # fmt: skip
_SILENT = frozenset(
    {
        "$anchor", "$schema", "$id", "$comment", "title", "description", "default", "readOnly", "writeOnly",
        "examples", "contentMediaType", "contentEncoding", "deprecated", "example", "externalDocs",
    }
)  # fmt: skip
"""Annotations, which constrain nothing. A keyword that begins with ``x-`` is one too."""

FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_AS_PATTERN = {
    "uri": r"^[a-z][a-z0-9+.-]{0,9}://[A-Za-z0-9.-]{1,60}(/[A-Za-z0-9._~/-]{0,90})?(\?[A-Za-z0-9._~=&-]{0,60})?$"
}
"""Formats that llguidance 1.0 lacks, as expressions of which every match has the format."""


def checked_schema(schema: Json, param: str) -> Json:
    """A copy of the schema for llguidance, without annotations that it might misread.

    Raises UnsupportedParameter that names a keyword which cannot be enforced and its path, and InvalidRequest for
    references that expand beyond :data:`MAX_EXPANSION` or that no value ends.
    """
    prepared: Json = _prepared(schema, "$", param)
    check_expansion(prepared, param)
    _check_finite(prepared, param)
    return prepared


def _prepared(node: Any, path: str, param: str) -> Any:
    if not isinstance(node, dict):
        return node  # true, false, or something that llguidance refuses
    prepared: Json = {}
    for keyword, value in node.items():
        _refuse_look_around(keyword, value, path, param)
        if keyword in _SILENT or (keyword.startswith("x-") and keyword != "x-guidance"):
            # The root of a reference and its draft are still needed.
            if keyword.startswith("$"):
                prepared[keyword] = value
        elif keyword in _ONE:
            where = f"{path}.{keyword}"
            prepared[keyword] = (
                [_prepared(each, f"{where}[{at}]", param) for at, each in enumerate(value)]
                if isinstance(value, list)
                else _prepared(value, where, param)
            )
        elif keyword in _LISTED and isinstance(value, list):
            prepared[keyword] = [
                _prepared(each, f"{path}.{keyword}[{at}]", param) for at, each in enumerate(value)
            ]
        elif keyword in _NAMED and isinstance(value, dict):
            prepared[keyword] = {
                name: _prepared(each, f"{path}.{keyword}.{name}", param) for name, each in value.items()
            }
        elif keyword in _COUNTS and isinstance(value, int | float) and value > MAX_ITEMS:
            raise UnsupportedParameter(
                f"'{keyword}' at {path[:300]} is more than {MAX_ITEMS}: a local model cannot count so far.",
                param=param,
            )
        elif keyword == "format":
            prepared |= _format(node, value, path, param)
        elif keyword in _PLAIN or keyword in _LISTED or keyword in _NAMED:
            prepared[keyword] = value
        else:
            raise UnsupportedParameter(
                f"The keyword '{keyword[:80]}' at {path[:300]} cannot be enforced on a local model. Remove it, or "
                "say the same with other keywords.",
                param=param,
            )
    return prepared


def _refuse_look_around(keyword: str, value: Any, path: str, param: str) -> None:
    """Raises UnsupportedParameter for an expression that looks ahead or behind."""
    names = value if keyword == "patternProperties" and isinstance(value, dict) else ()
    if any(map(looks_around, [value] if keyword == "pattern" and isinstance(value, str) else names)):
        raise UnsupportedParameter(
            f"The keyword '{keyword}' at {path[:300]} cannot be enforced on a local model, as it looks around "
            "(look-ahead or look-behind): no grammar can. Say the same without it.",
            param=param,
        )


def _format(node: Json, value: Any, path: str, param: str) -> Json:
    """The format as llguidance knows it; it applies to strings alone."""
    kinds = node.get("type", "string")
    if "string" not in (kinds if isinstance(kinds, list) else [kinds]):
        return {}
    if value in FORMATS:
        return {"format": value}
    if value in _AS_PATTERN and "pattern" not in node:
        return {"pattern": _AS_PATTERN[value]}
    raise UnsupportedParameter(
        f"The keyword 'format' with {str(value)[:80]!r} at {path[:300]} cannot be enforced on a local model; "
        f"known are {', '.join(sorted({*FORMATS, *_AS_PATTERN}))}.",
        param=param,
    )


def check_expansion(schema: Json, param: str) -> None:
    """Raises InvalidRequest for a schema whose references expand to more than :data:`MAX_EXPANSION` values.

    A reference to a place that contains it is recursion, which counts once.
    """
    sizes: dict[str, int] = {}

    def target(pointer: str) -> int:
        if pointer not in sizes:
            sizes[pointer] = 1  # while it is being counted
            sizes[pointer] = size(_resolve(schema, pointer))
        return sizes[pointer]

    def size(node: Any) -> int:
        total = 1
        for child in _children(node):
            total += size(child)
            if total > MAX_EXPANSION:
                break
        if isinstance(node, dict) and isinstance(node.get("$ref"), str):
            total += target(node["$ref"])
        return min(total, MAX_EXPANSION + 1)

    try:
        expanded = size({name: value for name, value in schema.items() if name not in ("$defs", "definitions")})
    except RecursionError:
        expanded = MAX_EXPANSION + 1
    if expanded > MAX_EXPANSION:
        raise InvalidRequest(
            f"The references ('$ref') of this schema expand to more than {MAX_EXPANSION} values. Use fewer levels "
            "of references, or fewer references on each.",
            param=param,
        )


def _check_finite(schema: Json, param: str) -> None:
    """Raises InvalidRequest for a schema whose every value would hold another one of its kind, without end."""
    pointers: dict[str, None] = {}
    finite: set[str] = set()

    def collect(node: Any) -> None:
        for child in _children(node):
            collect(child)
        pointer = node.get("$ref") if isinstance(node, dict) else None
        if isinstance(pointer, str) and pointer not in seen:
            seen.add(pointer)
            collect(_resolve(schema, pointer))
            pointers[pointer] = None  # after those that it needs, so that one round is usually enough

    def ends(node: Any) -> bool:
        if not isinstance(node, dict):
            return True
        pointer, kinds = node.get("$ref"), node.get("type")
        if isinstance(pointer, str) and pointer not in finite:
            return False
        return (
            all(map(ends, _list(node, "allOf")))
            and all(any(map(ends, either)) for name in ("anyOf", "oneOf") if (either := _list(node, name)))
            and (kinds not in ("object", ["object"]) or all(map(ends, _required(node))))
            and (kinds not in ("array", ["array"]) or all(map(ends, _first_items(node))))
        )

    seen: set[str] = set()
    collect(schema)
    for _ in range(_ROUNDS):
        found = False
        for pointer in pointers:
            if pointer not in finite and ends(_resolve(schema, pointer)):
                finite.add(pointer)
                found = True
        if ends(schema):
            return
        if not found:
            raise InvalidRequest(
                "No value has this schema: the values that it requires lead back to themselves ('$ref') without "
                "end. Make one of them optional, or allow null.",
                param=param,
            )


def _list(node: Json, name: str) -> list[Any]:
    value = node.get(name)
    return value if isinstance(value, list) else []


def _required(node: Json) -> list[Any]:
    properties = node.get("properties")
    if not isinstance(properties, dict):
        return []
    return [properties[name] for name in _list(node, "required") if isinstance(name, str) and name in properties]


def _first_items(node: Json) -> list[Any]:
    least = node.get("minItems")
    if not isinstance(least, int) or least < 1:
        return []
    first = _list(node, "prefixItems")
    return [*first[:least], *([node.get("items")] if least > len(first) else [])]


def _children(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        yield from (value for name, value in node.items() if name not in ("$ref", "$defs", "definitions"))
    elif isinstance(node, list):
        yield from node


def _resolve(schema: Json, pointer: str) -> Any:
    """The part that a local reference points at; None for any other, which llguidance refuses."""
    node: Any = schema
    for part in pointer.removeprefix("#").split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        if name and isinstance(node, dict):
            node = node.get(name)
        elif isinstance(node, list):
            node = node[int(name)] if name.isdecimal() and int(name) < len(node) else None
    return node
