"""Generates bodies for the fuzz test from the JSON schemas of the request types, then corrupts them in places.

A purely random body fails at the first check; one that is valid but for one or two places reaches more code.
The same seed gives the same bodies.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from server.api import ROUTERS
from server.edge.contracts import ContractRoute

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0, 1e308, -1e308, 1e-320, "", " ",
    "\x00", "a\x00b", "\ud800", "\udfff\ud800", "\u202e\u2066", "é" * 300, "💥" * 50, "A" * 10_000, "null", "NaN",
    "../../etc/passwd", "file:///etc/passwd", "http://169.254.169.254/", "data:,", "data:image/png;base64,AAAA",
    "a {{7*7}}", "a {% for x in ().__class__.__base__.__subclasses__() %}", "${jndi:ldap://x}", "<script>",
    "\r\nX: y",
    "'; DROP TABLE keys;--", "%s%s%s%n", [], [[]], {}, {"": ""}, {"a": {}}, [None], [""], ["\x00"], [[], {}],
    {"$ref": "#"}, {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, {"type": "object"},
    {"type": "string", "pattern": "(a+)+$"}, {"type": "array", "minItems": 10**9}, {"enum": []},
    {"type": "unicorn"},
    {"url": "http://127.0.0.1/"}, {"data": "!!", "format": "wav"}, {"role": "user", "content": "x"},
)  # fmt: skip
EXTRAS = (
    "routing", "api_base", "api_key", "chat_template", "chat_template_kwargs", "grammar", "fake", "top_k", "min_p",
    "keep_alive", "strict", "__proto__", "model_config", "self", "json_schema", "extra_body", "cache_prompt", "",
    "thinking", "stream_options", "truncate", "ignore_eos", "json", "mirostat", "dry_sequence_breakers",
    "日", "é", "a\nb", "a\r\nX: y", "\x00", "a, b", "💥", "x" * 5000, "timings",
)  # fmt: skip
_SCHEMAS = frozenset({"schema", "parameters", "guided_json", "json", "input_schema"})
_KEYWORDS: tuple[tuple[Any, ...], ...] = (
    ("pattern", r"^\d{1,3}$", "[a-z]+", "^(?=a)a", r"\bx", "("), ("format", "date", "uri", "int32", "ipv4"),
    ("enum", ["a", 1, None], [], "a"), ("const", 3, {"a": []}), ("multipleOf", 7, 0, 0.1), ("minimum", 5, -1e300),
    ("not", {"const": 1}), ("if", {"type": "string"}), ("uniqueItems", True), ("propertyNames", {"pattern": "a"}),
    ("anyOf", [{"type": "string"}, {"type": "integer"}], []), ("oneOf", [{"const": 1}, {"const": 2}], [{}, {}]),
    ("allOf", [{"type": "string"}, {"type": "integer"}], [{"maxLength": 2}]), ("contains", {}),
    ("patternProperties", {"^x": {"type": "integer"}}), ("minProperties", 2), ("items", [{}, True]),
    ("title", "T"), ("x-guidance", {"lenient": True}), ("$id", "http://a/b"), ("minLength", 3, 10**9),
    ("patern", "a"), ("$ref", "#", "#/nowhere", "http://x/y"),
)  # fmt: skip
WORDS = ("Hello", "The quick brown fox", "你好 世界", "مرحبا", "😀", "def f(x):\n    return x", "1 + 1 = ?", "a")


class Fuzzer:
    """Generates bodies; ``names`` are the models to ask for, by path."""

    def __init__(self, seed: int, names: Mapping[str, str]) -> None:
        self.random = random.Random(seed)
        self._names = names
        self._documents: dict[type[BaseModel], dict[str, Any]] = {}

    def body(self, path: str, model: type[BaseModel]) -> bytes:
        """A body for ``path``, whose type is ``model``."""
        draw = self.random
        document = self._documents.get(model)
        if document is None:
            document = self._documents[model] = model.model_json_schema()
        value = self._value(document, document.get("$defs", {}), "", 0)
        if isinstance(value, dict):
            if "model" in document.get("properties", {}) and draw.random() < 0.9:
                value["model"] = draw.choice((self._names.get(path, "near"), "auto", "near", "auto:local"))
            for _ in range(draw.choice((0, 0, 0, 1, 2))):
                value[draw.choice(EXTRAS)] = draw.choice(NASTY)
        for _ in range(draw.choice((0, 0, 1, 1, 2))):
            value = self.spoilt(value)
        if draw.random() < 0.01:
            value = self._deep(value)
        text = json.dumps(value, ensure_ascii=draw.random() < 0.9).encode("utf-8", "surrogatepass")
        return self.garbled(text) if draw.random() < 0.08 else text

    def _value(self, schema: Mapping[str, Any], defs: Mapping[str, Any], name: str, depth: int) -> Any:
        draw = self.random
        if "$ref" in schema:
            return self._value(defs[schema["$ref"].rpartition("/")[2]], defs, name, depth)
        if "anyOf" in schema or "oneOf" in schema:
            branches = schema.get("anyOf") or schema["oneOf"]
            chosen = [branch for branch in branches if branch.get("type") != "null"] or branches
            return self._value(draw.choice(chosen), defs, name, depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return draw.choice(schema["enum"])
        match schema.get("type"):
            case "object":
                if name in _SCHEMAS and draw.random() < 0.9:
                    return self._schema(0)
                return self._object(schema, defs, depth)
            case "array":
                least = schema.get("minItems", 0)
                count = max(least, draw.choice((0, 1, 1, 2, 3)))
                return [self._value(schema.get("items", {}), defs, name, depth + 1) for _ in range(count)]
            case "string":
                return self._text(schema, name)
            case "integer":
                low = int(schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1))
                return draw.choice((low, low + 1, low + draw.randrange(5)))
            case "number":
                low, high = schema.get("minimum", 0), schema.get("maximum", schema.get("minimum", 0) + 1)
                return draw.choice((low, high, (low + high) / 2))
            case "boolean":
                return draw.random() < 0.5
            case _:
                return draw.choice(NASTY)

    def _object(self, schema: Mapping[str, Any], defs: Mapping[str, Any], depth: int) -> dict[str, Any]:
        draw, required = self.random, set(schema.get("required", ()))
        chance = 0.25 if depth < 3 else 0.1
        made = {
            name: self._value(inner, defs, name, depth + 1)
            for name, inner in schema.get("properties", {}).items()
            if name in required or draw.random() < chance
        }
        if not schema.get("properties") and draw.random() < 0.5:
            made[draw.choice(("type", "url", "text", "data", "name", "42"))] = draw.choice(NASTY)
        return made

    def _schema(self, depth: int) -> Any:
        """A JSON schema, mostly of keywords that mean something to each other."""
        draw = self.random
        if depth > 3 or draw.random() < 0.02:
            return draw.choice((True, False, {}, {"$ref": "#"}, *NASTY[-20:]))
        if draw.random() < 0.03:
            name, width = draw.choice(("anyOf", "allOf", "prefixItems")), draw.choice((1, 2, 5))
            steps = draw.choice((3, 12, 60))
            chain = {f"n{at}": {name: [{"$ref": f"#/$defs/n{at + 1}"}] * width} for at in range(steps)}
            return {"$ref": "#/$defs/n0", "$defs": {**chain, f"n{steps}": self._schema(depth + 1)}}
        made: dict[str, Any] = {"type": draw.choice(("object", "object", "array", "string", "integer", "boolean"))}
        if made["type"] == "object":
            made["properties"] = {each: self._schema(depth + 1) for each in draw.sample(("a", "b", "é", "x-y"), 2)}
            made["required"] = list(made["properties"])[: draw.randrange(3)]
            made["additionalProperties"] = draw.random() < 0.3
        if made["type"] == "array":
            made |= {"items": self._schema(depth + 1), "minItems": draw.randrange(3), "maxItems": 3}
        for _ in range(draw.choice((0, 0, 0, 1))):
            keyword = draw.choice(_KEYWORDS)
            made[keyword[0]] = draw.choice(keyword[1:])
        return made

    def _text(self, schema: Mapping[str, Any], name: str) -> str:
        draw = self.random
        if name == "type":
            return draw.choice(("text", "image_url", "input_audio", "file", "refusal", "function", "input_text"))
        if "pattern" in schema:
            return draw.choice(("7", "en", "256x256", "auto"))
        return draw.choice(WORDS)[: schema.get("maxLength", 10**6)]

    def spoilt(self, value: Any) -> Any:
        """``value`` with one place in it replaced, removed or doubled."""
        draw = self.random
        if not isinstance(value, dict | list) or not value or draw.random() < 0.1:
            return draw.choice(NASTY)
        if isinstance(value, dict):
            name = draw.choice(list(value))
            changed = dict(value)
            if draw.random() < 0.1:
                del changed[name]
            else:
                changed[name] = self.spoilt(value[name])
            return changed
        position = draw.randrange(len(value))
        if draw.random() < 0.1:
            return value * draw.choice((0, 2, 40))
        return [*value[:position], self.spoilt(value[position]), *value[position + 1 :]]

    def _deep(self, value: Any) -> Any:
        for level in range(self.random.choice((70, 150, 220, 400))):
            value = [value] if level % 2 else {"type": value}
        return {"model": "near", "messages": [{"role": "user", "content": "x"}], "tools": value, "deep": value}

    def garbled(self, text: bytes) -> bytes:
        """``text`` that is cut, doubled, encoded otherwise, or replaced by brackets without end."""
        draw = self.random
        at = draw.randrange(len(text) + 1)
        return draw.choice(
            (
                text[:at],
                text[:at] + bytes(draw.randrange(256) for _ in range(4)) + text[at:],
                b"\xef\xbb\xbf" + text,
                text + text,
                text.replace(b'"', b"'", 1),
                text.replace(b":", b": NaN,", 1),
                text.replace(b"0", b"Infinity", 1),
                text.decode("utf-8", "replace").encode("utf-16"),
                b"[" * 5000,
                b'{"a":' * 5000,
                b"",
                b"\x00" * 100,
            )
        )


def bodies() -> dict[str, type[BaseModel]]:
    """The type of the JSON body of every endpoint that reads one, by path."""
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, ContractRoute)]
    return {
        route.path_format: route.contract.reads
        for route in routes
        if route.include_in_schema and route.contract.reads is not None and not route.contract.form
    }
