"""Tool calls of models whose chat template does not take tools.

llama-server silently ignores ``tools`` there. Its JSON-schema output works with every model, so the system
message describes the tools and a schema binds the answer: the arguments alone when one tool is named, otherwise
``{"tool_calls": [{"name", "arguments"}]}``, or ``{"content"}`` where the model may choose.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import orjson

from backends.wire.chat import ChatRequest, FunctionDefinition, NamedToolChoice, Tool
from catalog.errors import InvalidRequest, StreamBroken
from catalog.types import Json

MAX_PARALLEL_CALLS = 4
_ANY_OBJECT: Json = {"type": "object"}


def chosen_tools(request: ChatRequest) -> tuple[FunctionDefinition, ...]:
    """The tools that ``tool_choice`` allows. Raises InvalidRequest for a choice that is not among the tools."""
    tools = tuple(_definition(tool, at) for at, tool in enumerate(request.tools or ()))
    choice = request.tool_choice
    if choice == "none":
        return ()
    if isinstance(choice, NamedToolChoice):
        name = choice.function.name if choice.function else ""
        tools = tuple(tool for tool in tools if tool.name == name)
        if not tools:
            raise InvalidRequest(
                f"tool_choice names '{name[:80]}', which is not among the tools.", param="tool_choice"
            )
    elif choice == "required" and not tools:
        raise InvalidRequest("tool_choice is 'required', but there are no tools.", param="tool_choice")
    return tools


def _definition(tool: Tool, position: int) -> FunctionDefinition:
    if tool.function is None:
        raise InvalidRequest("A local model takes tools of the type 'function' only.", param=f"tools.{position}")
    return tool.function


def new_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """The schema and the instructions that bind the answer to one request.

    ``named``: the answer is the arguments of this tool. ``optional``: the model may answer in text, of the schema
    ``content``. ``parallel``: it may call several tools.
    """

    tools: tuple[FunctionDefinition, ...]
    named: FunctionDefinition | None
    optional: bool
    parallel: bool
    content: Json

    @classmethod
    def of(cls, request: ChatRequest, tools: tuple[FunctionDefinition, ...]) -> ToolPlan:
        named = tools[0] if isinstance(request.tool_choice, NamedToolChoice) else None
        form = request.response_format
        content: Json = {"type": "string"}
        if form is not None and form.type == "json_object":
            content = _ANY_OBJECT
        elif form is not None and form.json_schema is not None and form.json_schema.schema_ is not None:
            content = form.json_schema.schema_
        return cls(
            tools=tools,
            named=named,
            optional=request.tool_choice in (None, "auto"),
            parallel=request.parallel_tool_calls is not False,
            content=content,
        )

    def schema(self) -> Json:
        """The JSON schema of the answer; ``$defs`` of the tools' schemas are hoisted to its root."""
        definitions: Json = {}
        if self.named is not None:
            return self.named.parameters or _ANY_OBJECT
        calls = [
            _object(
                {
                    "name": {"const": tool.name},
                    "arguments": hoisted(tool.parameters or _ANY_OBJECT, f"tool{at}", definitions),
                }
            )
            for at, tool in enumerate(self.tools)
        ]
        listed = {
            "type": "array",
            "items": calls[0] if len(calls) == 1 else {"anyOf": calls},
            "minItems": 1,
            "maxItems": MAX_PARALLEL_CALLS if self.parallel else 1,
        }
        schema = _object({"tool_calls": listed})
        if self.optional:
            schema = {"anyOf": [schema, _object({"content": hoisted(self.content, "content", definitions)})]}
        return {**schema, "$defs": definitions} if definitions else schema

    def instructions(self) -> str:
        """The part of the system message about the tools."""
        listed = "\n".join(
            orjson.dumps(
                {"name": tool.name, "description": tool.description or "", "parameters": tool.parameters or {}}
            ).decode()
            for tool in self.tools
        )
        if self.named is not None:
            how = f"Answer with the JSON arguments of a call of {self.named.name}, and nothing else."
        else:
            how = (
                'To call tools, answer with {"tool_calls": [{"name": ..., "arguments": {...}}]} and nothing else.'
            )
            if self.optional:
                how += ' To answer without a tool, write {"content": ...}.'
        return f"You can call these tools:\n{listed}\n{how}"

    def read(self, text: str) -> tuple[str | None, list[tuple[str, str]]]:
        """The content, or the name and arguments of each call, in a complete answer.

        Raises StreamBroken if it does not match the schema.
        """
        try:
            answer = orjson.loads(text)
            if "content" in answer and self.optional:
                content = answer["content"]
                return content if isinstance(content, str) else orjson.dumps(content).decode(), []
            calls = [(call["name"], orjson.dumps(call["arguments"]).decode()) for call in answer["tool_calls"]]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise StreamBroken("The model's answer is not the tool call that its schema asks for.") from None
        return None, calls


def _object(properties: Json) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def hoisted(schema: Any, prefix: str, definitions: Json) -> Any:
    """``schema`` with its ``$defs`` moved to ``definitions``, their names prefixed."""
    if not isinstance(schema, dict):
        return schema
    own = {key: schema[key] for key in ("$defs", "definitions") if isinstance(schema.get(key), dict)}
    if not own:
        return schema
    rest = {key: value for key, value in schema.items() if key not in own}
    for key, group in own.items():
        for name, inner in group.items():
            definitions[f"{prefix}_{name}"] = _renamed(inner, prefix, key)
    for key in own:
        rest = _renamed(rest, prefix, key)
    return rest


def _renamed(node: Any, prefix: str, key: str) -> Any:
    """``node`` with references into ``#/key`` pointing at the hoisted definitions."""
    if isinstance(node, list):
        return [_renamed(item, prefix, key) for item in node]
    if not isinstance(node, dict):
        return node
    start = f"#/{key}/"
    return {
        name: f"#/$defs/{prefix}_{value.removeprefix(start)}"
        if name == "$ref" and isinstance(value, str) and value.startswith(start)
        else _renamed(value, prefix, key)
        for name, value in node.items()
    }


def plain_messages(messages: list[Json], instructions: str) -> list[Json]:
    """Messages for a template without tools: calls and results as text, instructions in the system message."""
    names: dict[str, str] = {}
    plain: list[Json] = []
    for message in messages:
        if message.get("tool_calls"):
            calls = []
            for call in message["tool_calls"]:
                function = call.get("function") or {}
                names[call["id"]] = function.get("name", "")
                calls.append({"name": function.get("name"), "arguments": _loaded(function.get("arguments"))})
            text = orjson.dumps({"tool_calls": calls}).decode()
            plain.append({"role": "assistant", "content": text})
        elif message["role"] == "tool":
            name = names.get(message.get("tool_call_id") or "", "the tool")
            plain.append({"role": "user", "content": f"Result of {name}: {_text(message.get('content'))}"})
        else:
            plain.append(message)
    if plain and plain[0]["role"] in ("system", "developer"):
        first = f"{_text(plain[0].get('content'))}\n\n{instructions}"
        return [{"role": "system", "content": first}, *plain[1:]]
    return [{"role": "system", "content": instructions}, *plain]


def _loaded(arguments: str | None) -> Any:
    try:
        return orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        return arguments


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(part.get("text") or "" for part in content if isinstance(part, dict))
    return content or ""
