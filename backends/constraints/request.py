"""Reads the constraint of a request: the form that its answer must have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import orjson

from backends.constraints.schema import checked_schema
from backends.wire.chat import ChatRequest
from backends.wire.completions import CompletionRequest
from backends.wire.sampling import StructuredOutputs
from backends.wire.schema import bounded_schema
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json

FIELDS = (
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "grammar",
)
"""The fields of a request that set its answer's form."""

ANY_OBJECT: Json = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Constraint:
    """One form of an answer. ``value`` is a schema, a list of choices, or the text of an expression or grammar.

    ``param`` is the field that it came from.
    """

    kind: Literal["json", "regex", "choice", "grammar"]
    value: Any
    param: str


def constraint_of(request: ChatRequest | CompletionRequest, *, checked: bool = True) -> Constraint | None:
    """The constraint of a request, if it has one. ``checked``: its schema is held to what llguidance enforces.

    Raises InvalidRequest for two constraints or a malformed one, UnsupportedParameter for a schema that cannot be
    enforced.
    """
    found = [constraint for name in FIELDS if (constraint := _constraint(request, name)) is not None]
    if len(found) > 1:
        raise InvalidRequest(
            f"An answer has one form, and the request sets two: {found[0].param} and {found[1].param}.",
            param=found[1].param,
        )
    if not found:
        return None
    (constraint,) = found
    if checked and constraint.kind == "json":
        return replace(constraint, value=checked_schema(constraint.value, constraint.param))
    return constraint


def _constraint(request: ChatRequest | CompletionRequest, name: str) -> Constraint | None:
    value = getattr(request, name, None)
    if value is None:
        return None
    if name == "response_format":
        extra = dict(value.model_extra or {})
        schema = extra.pop("schema", None)  # llama.cpp's extension of json_object
        unknown = next(iter(extra), "schema" if schema is not None and value.type != "json_object" else None)
        if unknown is not None:
            raise UnsupportedParameter(
                f"Local models do not take response_format.{unknown[:80]} with the type '{value.type}'.",
                param=name,
            )
        if value.type == "text":
            return None
        if value.type == "json_object":
            if schema is None:
                return Constraint("json", ANY_OBJECT, name)
            if not isinstance(schema, dict):
                raise InvalidRequest("A JSON schema must be an object.", param="response_format.schema")
            return _json(orjson.dumps(schema).decode(), "response_format.schema")
        return _json(value.json_schema.schema_, "response_format.json_schema.schema")
    if name == "structured_outputs":
        return _structured(value)
    if name == "guided_json":
        return _json(value, name)
    return Constraint(_KINDS[name], value, name)


_KINDS: dict[str, Literal["regex", "choice", "grammar"]] = {
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "grammar": "grammar",
}


def _structured(value: StructuredOutputs) -> Constraint:
    unknown = next(iter(value.model_extra or ()), None)
    if unknown is not None:
        raise UnsupportedParameter(
            f"Local models do not take structured_outputs.{unknown[:80]}; remove it.", param="structured_outputs"
        )
    set_members = [
        member
        for member in ("json", "json_object", "regex", "choice", "grammar")
        if getattr(value, "json_" if member == "json" else member)
    ]
    if len(set_members) != 1:
        raise InvalidRequest(
            "structured_outputs needs exactly one of json, json_object, regex, choice and grammar.",
            param="structured_outputs",
        )
    param = f"structured_outputs.{set_members[0]}"
    if value.json_ is not None:
        return _json(value.json_, param)
    if value.json_object:
        return Constraint("json", ANY_OBJECT, param)
    if value.regex is not None:
        return Constraint("regex", value.regex, param)
    if value.choice is not None:
        return Constraint("choice", value.choice, param)
    return Constraint("grammar", value.grammar, param)


def _json(schema: Json | str, param: str) -> Constraint:
    if isinstance(schema, str):
        try:
            loaded = orjson.loads(schema)
            schema = bounded_schema(loaded) if isinstance(loaded, dict) else {}
            if not isinstance(loaded, dict):
                raise InvalidRequest("A JSON schema must be an object.", param=param)
        except ValueError as error:
            raise InvalidRequest(f"This JSON schema cannot be read: {error}", param=param) from None
    return Constraint("json", schema, param)
