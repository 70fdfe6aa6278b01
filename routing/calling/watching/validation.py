"""Validates an answer: JSON, its schema, tool arguments.

The validator implements the structural keywords of JSON Schema (2020-12, and draft 7's spelling of tuples) and
ignores the rest: a value reported invalid is invalid, one reported valid has the right structure. It evaluates no
``pattern``, because a caller's regular expression may never terminate, and it takes a bounded number of steps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from backends.wire.chat import ChatRequest, NamedToolChoice

_STEPS = 20_000
_DEPTH = 64
_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (
        (isinstance(value, int) and not isinstance(value, bool))
        or (isinstance(value, float) and value.is_integer())
    ),
}


class Unchecked(Exception):
    """The schema is too large, too deep or not a schema, so the value cannot be checked."""


def judge(request: ChatRequest, *, text: str | None, tool_calls: Sequence[Mapping[str, Any]] = ()) -> bool | None:
    """Whether a whole answer to a chat is valid; ``None`` when the request does not define validity.

    ``tool_calls`` are OpenAI's, each with ``function.name`` and ``function.arguments``.
    """
    if tool_calls:
        return _tools_valid(request, tool_calls)
    if request.tools and _must_call(request):
        return False
    choices = choices_of(request)
    if choices is not None:
        return (text or "").strip() in {choice.strip() for choice in choices}
    wanted = form_of(request)
    if wanted is None:
        return None
    value, parsed = _parse(text or "")
    if not parsed:
        return False
    return conforms(value, wanted)


def choices_of(request: ChatRequest) -> Sequence[str] | None:
    """The texts of which the answer must be one, in vLLM's words (``structured_outputs``, ``guided_choice``)."""
    own = request.structured_outputs
    return request.guided_choice if own is None or own.choice is None else own.choice


def form_of(request: ChatRequest) -> Mapping[str, Any] | None:
    """The schema of the JSON that an answer must be; ``None`` where it may be something else.

    A regular expression and a grammar are forms too, which only the engine that decodes by them can check.
    """
    wanted, own = request.response_format, request.structured_outputs
    if wanted is not None and wanted.json_schema is not None and wanted.type == "json_schema":
        return wanted.json_schema.schema_
    if (wanted is not None and wanted.type == "json_object") or (own is not None and own.json_object):
        return _ANY_OBJECT
    given = request.guided_json if own is None or own.json_ is None else own.json_
    if isinstance(given, str):
        given, _ = _parse(given)
    return given if isinstance(given, Mapping) else None


_ANY_OBJECT = {"type": "object"}


def conforms(value: Any, schema: Mapping[str, Any]) -> bool | None:
    """Whether a JSON value has the structure that a schema asks for; ``None`` when that cannot be decided.

    The schema is the caller's and may hold anything; a keyword with a value of the wrong type
    (``"required": 5``) makes it undecidable.
    """
    try:
        return _Check(schema).valid(value, schema, 0)
    except (Unchecked, TypeError, ValueError, AttributeError):
        return None


def _must_call(request: ChatRequest) -> bool:
    choice = request.tool_choice
    if choice is None or isinstance(choice, str):
        return choice == "required"
    if choice.type != "allowed_tools":
        return True
    allowed = (choice.model_extra or {}).get("allowed_tools")
    return isinstance(allowed, dict) and allowed.get("mode") == "required"


def _tools_valid(request: ChatRequest, tool_calls: Iterable[Mapping[str, Any]]) -> bool | None:
    offered = {tool.function.name: tool.function.parameters for tool in request.tools or () if tool.function}
    sure = True
    if request.tool_choice == "none":
        return False
    choice = request.tool_choice
    if isinstance(choice, NamedToolChoice) and choice.function is not None:
        offered = {name: schema for name, schema in offered.items() if name == choice.function.name}
    for call in tool_calls:
        if call.get("type", "function") != "function":
            sure = False
            continue
        function = call.get("function") or {}
        if function.get("name") not in offered:
            return False
        value, parsed = _parse(function.get("arguments") or "{}")
        if not parsed or not isinstance(value, dict):
            return False
        schema = offered[function["name"]]
        verdict = True if schema is None else conforms(value, schema)
        if verdict is False:
            return False
        sure = sure and verdict is True
    return True if sure else None


def _parse(text: str) -> tuple[Any, bool]:
    try:
        return json.loads(text, parse_constant=_refuse), True
    except (ValueError, RecursionError):
        return None, False


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


class _Check:
    """State of one validation: the root that references point into, and the remaining steps."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = _STEPS

    def valid(self, value: Any, schema: Any, depth: int) -> bool:
        self._left -= 1
        if self._left < 0 or depth > _DEPTH:
            raise Unchecked
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise Unchecked
        reference = schema.get("$ref")
        if reference is not None and not self.valid(value, self._resolve(reference), depth + 1):
            return False
        return (
            _has_type(value, schema.get("type"))
            and _is_listed(value, schema)
            and self._combined(value, schema, depth)
            and _in_bounds(value, schema)
            and (not isinstance(value, dict) or self._object(value, schema, depth))
            and (not isinstance(value, list) or self._array(value, schema, depth))
        )

    def _resolve(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise Unchecked
        node: Any = self._root
        for part in reference[1:].strip("/").split("/"):
            if not part:
                continue
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(node, dict) or name not in node:
                raise Unchecked
            node = node[name]
        return node

    def _combined(self, value: Any, schema: Mapping[str, Any], depth: int) -> bool:
        def matches(name: str) -> list[bool]:
            return [self.valid(value, part, depth + 1) for part in _parts(schema, name)]

        if "allOf" in schema and not all(matches("allOf")):
            return False
        if "anyOf" in schema and not any(matches("anyOf")):
            return False
        if "oneOf" in schema and sum(matches("oneOf")) != 1:
            return False
        return "not" not in schema or not self.valid(value, schema["not"], depth + 1)

    def _object(self, value: dict[str, Any], schema: Mapping[str, Any], depth: int) -> bool:
        properties = schema.get("properties") or {}
        if not isinstance(properties, dict):
            raise Unchecked
        if any(name not in value for name in schema.get("required") or ()):
            return False
        rest = schema.get("additionalProperties", True)
        by_pattern = "patternProperties" in schema
        for name, item in value.items():
            if name in properties:
                if not self.valid(item, properties[name], depth + 1):
                    return False
            elif not by_pattern and not self.valid(item, rest, depth + 1):
                return False
        return True

    def _array(self, value: list[Any], schema: Mapping[str, Any], depth: int) -> bool:
        first = schema.get("prefixItems")
        rest = schema.get("items", True)
        if isinstance(rest, list):
            first, rest = rest, schema.get("additionalItems", True)
        head = first if isinstance(first, list) else []
        return all(
            self.valid(item, head[place] if place < len(head) else rest, depth + 1)
            for place, item in enumerate(value)
        )


def _parts(schema: Mapping[str, Any], name: str) -> list[Any]:
    parts = schema[name]
    if not isinstance(parts, list):
        raise Unchecked
    return parts


def _has_type(value: Any, wanted: Any) -> bool:
    if wanted is None:
        return True
    names = wanted if isinstance(wanted, list) else [wanted]
    tests = [_TYPES.get(name) if isinstance(name, str) else None for name in names]
    if any(test is None for test in tests):
        raise Unchecked
    return any(test is not None and test(value) for test in tests)


def _is_listed(value: Any, schema: Mapping[str, Any]) -> bool:
    if "const" in schema and not _same(value, schema["const"]):
        return False
    return "enum" not in schema or any(_same(value, choice) for choice in _parts(schema, "enum"))


def _same(left: Any, right: Any) -> bool:
    """JSON equality at every depth; unlike in Python, true is not 1."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(value, right[name]) for name, value in left.items())
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def _in_bounds(value: Any, schema: Mapping[str, Any]) -> bool:
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int | float):
        return _within(value, schema, "minimum", "maximum") and _strictly_within(value, schema)
    if isinstance(value, str):
        return _within(len(value), schema, "minLength", "maxLength")
    if isinstance(value, list):
        return _within(len(value), schema, "minItems", "maxItems")
    return _within(len(value), schema, "minProperties", "maxProperties")


def _within(size: float, schema: Mapping[str, Any], least: str, most: str) -> bool:
    return _bound(schema, least, -math.inf) <= size <= _bound(schema, most, math.inf)


def _strictly_within(size: float, schema: Mapping[str, Any]) -> bool:
    return _bound(schema, "exclusiveMinimum", -math.inf) < size < _bound(schema, "exclusiveMaximum", math.inf)


def _bound(schema: Mapping[str, Any], name: str, missing: float) -> float:
    bound = schema.get(name)
    return bound if isinstance(bound, int | float) and not isinstance(bound, bool) else missing
