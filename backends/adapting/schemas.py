"""Parameters of tools whose schema has, at its root, what a provider refuses there.

A union at the root of an object's schema says the same beneath ``then`` of an ``if`` that is always true. The
properties of its branches are repeated at the root, where models look for them. Sources: Anthropic's and OpenAI's
errors ("does not support oneOf, allOf, or anyOf at the top level"), JSON Schema 2020-12.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any

from catalog.errors import UnsupportedParameter
from catalog.types import Json

_MAX_STEPS = 32
_MERGED = frozenset({"type", "properties", "required", "title", "description"})


def object_root(schema: Json, refused: Set[str], where: str) -> Json:
    """An equal schema of an object that has none of the ``refused`` keywords at its root; itself if it has none.

    ``where`` names it in errors. Raises UnsupportedParameter for a schema of something else than an object, and
    for one whose root is a reference that leads nowhere.
    """
    if schema.get("type") == "object" and "$ref" not in schema and refused.isdisjoint(schema):
        return schema
    root = _resolved(schema, where)
    kind = root.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise UnsupportedParameter(
            f"{where}: the type must be 'object', not {str(kind)[:40]!r}: a tool's arguments are an object.",
            param=where,
        )
    root = _flattened({**root, "type": "object"})
    moved = {name: root.pop(name) for name in sorted(refused & root.keys())}
    if not moved:
        return root
    conditional = {name: root.pop(name) for name in ("if", "then", "else") if name in root}
    if root.get("additionalProperties") is not False and "unevaluatedProperties" not in root:
        properties = root.get("properties")
        found = _described(moved, schema)
        root["properties"] = {**found, **(properties if isinstance(properties, dict) else {})}
    root["if"] = {}
    root["then"] = {"allOf": [conditional, moved]} if conditional else moved
    return root


def _resolved(schema: Json, where: str) -> Json:
    """The schema with the target in the place of a reference at its root."""
    root = dict(schema)
    for _ in range(_MAX_STEPS):
        reference = root.pop("$ref", None)
        if reference is None:
            return root
        target = lookup(schema, reference)
        if not isinstance(target, dict) or target is schema:
            raise UnsupportedParameter(
                f"{where}: '$ref' at the root leads to {str(reference)[:80]!r}, which is not a schema in it.",
                param=where,
            )
        clash = (target.keys() & root.keys()) - {"$defs", "definitions", "title", "description"}
        root = {"allOf": [target, root]} | _definitions(root) if clash else {**target, **root}
    raise UnsupportedParameter(f"{where}: '$ref' at the root leads to itself.", param=where)


def _definitions(schema: Json) -> Json:
    return {name: schema[name] for name in ("$defs", "definitions") if name in schema}


def lookup(schema: Json, reference: Any) -> Any:
    """The part of a schema that a local reference (``#/$defs/a``) points at; None for any other."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    node: Any = schema
    for part in reference[1:].strip("/").split("/"):
        if part:
            node = node.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(node, dict) else None
    return node


def _flattened(root: Json) -> Json:
    """The root with the branches of ``allOf`` in it, where these say nothing but properties of its own."""
    branches = root.get("allOf")
    if not isinstance(branches, list) or root.get("additionalProperties") is False:
        return root
    properties, required = dict(root.get("properties") or {}), list(root.get("required") or ())
    for branch in branches:
        if not isinstance(branch, dict) or branch.keys() - _MERGED or branch.get("type", "object") != "object":
            return root
        for name, value in (branch.get("properties") or {}).items():
            if properties.setdefault(name, value) != value:
                return root
        required += [name for name in branch.get("required") or () if name not in required]
    rest = {name: value for name, value in root.items() if name != "allOf"}
    return {**rest, "properties": properties, **({"required": required} if required else {})}


def _described(moved: Json, schema: Json) -> Json:
    """The properties that the branches describe: one schema each, or any of several."""
    found: dict[str, list[Any]] = {}
    for branch in _branches(moved, schema, 0):
        properties = branch.get("properties")
        for name, value in properties.items() if isinstance(properties, dict) else ():
            kept = found.setdefault(name, [])
            if value not in kept:
                kept.append(value)
    return {name: values[0] if len(values) == 1 else {"anyOf": values} for name, values in found.items()}


def _branches(node: Json, schema: Json, depth: int) -> Iterator[Json]:
    for name in ("anyOf", "oneOf", "allOf"):
        branches = node.get(name)
        for branch in branches if isinstance(branches, list) and depth < _MAX_STEPS else ():
            target = lookup(schema, branch["$ref"]) if isinstance(branch, dict) and "$ref" in branch else branch
            if isinstance(target, dict):
                yield target
                yield from _branches(target, schema, depth + 1)


def is_closed(schema: Any) -> bool:
    """Whether OpenAI's strict mode takes a schema: its root and every object in it name and need each property."""
    return isinstance(schema, dict) and schema.get("type") == "object" and _all_closed(schema)


def _all_closed(node: Any) -> bool:
    if isinstance(node, list):
        return all(map(_all_closed, node))
    if not isinstance(node, dict):
        return True
    properties = node.get("properties")
    if node.get("type") == "object" or isinstance(properties, dict):
        needed, known = node.get("required"), properties if isinstance(properties, dict) else {}
        if node.get("additionalProperties") is not False or set(needed or ()) != set(known):
            return False
    return all(map(_all_closed, node.values()))


def closed(schema: Json) -> Json:
    """The schema without room for properties that an object does not name, where it says nothing of others.

    llama.cpp's own grammars, and so Ollama, read a schema like this. One with ``allOf`` stays as it is: its
    branches name properties for each other.
    """
    made, composed = _closed(schema, alone=True)
    return schema if composed else made


def _closed(node: Any, *, alone: bool) -> tuple[Any, bool]:
    """A node, closed if it stands ``alone``, and whether there is an ``allOf`` in it."""
    if not isinstance(node, dict):
        return node, False
    made, composed = dict(node), "allOf" in node
    whole = alone and _OPEN.isdisjoint(node)
    for name, value in node.items():
        if name in _SCHEMAS_BY_NAME and isinstance(value, dict):
            found = {key: _closed(each, alone=True) for key, each in value.items()}
            made[name] = {key: each for key, (each, _) in found.items()}
            composed = composed or any(with_all for _, with_all in found.values())
        elif name in _SCHEMAS_IN_LIST and isinstance(value, list):
            listed = [_closed(each, alone="properties" not in node) for each in value]
            made[name] = [each for each, _ in listed]
            composed = composed or any(with_all for _, with_all in listed)
        elif name in ("items", "additionalProperties"):
            made[name], with_all = _closed(value, alone=True)
            composed = composed or with_all
    if whole and isinstance(node.get("properties"), dict):
        made["additionalProperties"] = False
    return made, composed


_SCHEMAS_BY_NAME = frozenset({"properties", "patternProperties", "$defs", "definitions"})
_SCHEMAS_IN_LIST = frozenset({"anyOf", "oneOf", "prefixItems"})
_OPEN = frozenset(
    {
        "additionalProperties", "unevaluatedProperties", "patternProperties", "propertyNames", "$ref", "anyOf",
        "oneOf", "if", "dependentSchemas", "minProperties",
    }
)  # fmt: skip
