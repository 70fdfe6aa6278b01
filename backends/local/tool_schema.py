"""Tool calls of models whose chat template does not take tools.

llama-server silently ignores ``tools`` there. A grammar works with every model, so the system message describes
the tools and a grammar binds the answer: the arguments alone when one tool is named, otherwise
``{"tool_calls": [{"name", "arguments"}]}``. Where the model may choose, text that does not begin with a brace is
an answer without a call; if the request sets the form of the answer, that is ``{"content": ...}``. A tool whose
input has a grammar is called with ``{"custom_tool": name}`` on a line, and the input as it is below.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from backends.adapting.custom import INPUT, INPUT_GRAMMAR
from backends.constraints import lark
from backends.constraints.checker import Checker
from backends.constraints.request import Constraint, constraint_of
from backends.constraints.schema import check_expansion, checked_schema
from backends.wire.chat import ChatRequest, FunctionDefinition, NamedToolChoice, Tool
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json

MAX_PARALLEL_CALLS = 4
CALLS = '{"tool_calls": ['
CONTENT = '{"content": '
CUSTOM = '{"custom_tool": '
_ANY_OBJECT: Json = {"type": "object"}
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_KINDS = frozenset({"type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"})


def chosen_tools(request: ChatRequest) -> tuple[FunctionDefinition, ...]:
    """The tools that ``tool_choice`` allows. Raises InvalidRequest for a choice that is not among the tools."""
    tools = tuple(_definition(tool, at) for at, tool in enumerate(request.tools or ()))
    _check_names(tools)
    choice = request.tool_choice
    if choice == "none":
        return ()
    if isinstance(choice, NamedToolChoice):
        if choice.function is None:
            raise InvalidRequest(
                f"A local model takes no tool_choice of the type '{choice.type[:80]}'. Send only the tools "
                "that it may call, with the choice 'auto' or 'required'.",
                param="tool_choice",
            )
        name = choice.function.name
        tools = tuple(tool for tool in tools if tool.name == name)
        if not tools:
            raise InvalidRequest(
                f"tool_choice names '{name[:80]}', which is not among the tools.", param="tool_choice"
            )
    elif choice == "required" and not tools:
        raise InvalidRequest("tool_choice is 'required', but there are no tools.", param="tool_choice")
    return tools


def _check_names(tools: Sequence[FunctionDefinition]) -> None:
    """Raises InvalidRequest for a name that OpenAI's API does not allow, or that two tools have."""
    seen: set[str] = set()
    for at, tool in enumerate(tools):
        if _NAME.fullmatch(tool.name) is None:
            raise InvalidRequest(
                f"The tool's name {tool.name[:80]!r} may have letters, digits, '_' and '-' only, 64 at most.",
                param=f"tools.{at}.function.name",
            )
        if tool.name in seen:
            raise InvalidRequest(
                f"Two tools have the name '{tool.name}'. Give each a name of its own.",
                param=f"tools.{at}.function.name",
            )
        seen.add(tool.name)


def _definition(tool: Tool, position: int) -> FunctionDefinition:
    if tool.function is None:
        raise InvalidRequest("A local model takes tools of the type 'function' only.", param=f"tools.{position}")
    return tool.function


def new_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """The form and the instructions that bind the answer to one request.

    ``named``: the answer is the arguments of this tool. ``optional``: the model may answer without a call, in text
    or in the form ``content``. ``parallel``: it may call several tools. ``parameters`` has a schema per tool, or
    None where a tool's own cannot be compiled and its calls are only checked. ``inputs`` has the Lark grammars of
    the inputs that have one, by their tools.
    """

    tools: tuple[FunctionDefinition, ...]
    named: FunctionDefinition | None
    optional: bool
    parallel: bool
    content: Constraint | None
    parameters: tuple[Json | None, ...]
    inputs: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    async def of(cls, request: ChatRequest, tools: tuple[FunctionDefinition, ...], checker: Checker) -> ToolPlan:
        """The plan of a request.

        A strict tool's schema is enforced or refused. That of any other is enforced as far as it can be, and every
        call is checked against the whole of it. Raises UnsupportedParameter.
        """
        return cls(
            tools=tools,
            named=tools[0] if isinstance(request.tool_choice, NamedToolChoice) else None,
            optional=request.tool_choice in (None, "auto"),
            parallel=request.parallel_tool_calls is not False,
            content=constraint_of(request),
            parameters=tuple([await _enforceable(tool, checker) for tool in tools]),
            inputs={tool.name: await _input(tool, checker) for tool in tools if has_input_grammar(tool)},
        )

    async def grammar(self, checker: Checker) -> str:
        """The Lark grammar of the answer. Raises UnsupportedParameter for a form that goes with no tools."""
        if self.named is not None:
            return await checker.compile_rules(f"start: {self._arguments(0)}", "tools")
        more = f"({lark.literal(', ')} call){{0,{MAX_PARALLEL_CALLS - 1}}} " if self.parallel else ""
        by_form = self._by_form()
        rules: list[str] = []
        if by_form[False]:
            rules.append(f"calls: {lark.literal(CALLS)} call {more}{lark.literal(']}')}")
            rules.append("call: " + " | ".join(f"call_{at}" for at in by_form[False]))
        if by_form[True]:
            rules.append("custom: " + " | ".join(f"call_{at}" for at in by_form[True]))
        for at, tool in enumerate(self.tools):
            name = lark.literal(tool.name)
            head, tail = (f'{{"name": {name}, "arguments": ', "}")
            if tool.name in self.inputs:
                head, tail = (f"{CUSTOM}{name}}}\n", "")
            ended = f" {lark.literal(tail)}" if tail else ""
            rules += [f"call_{at}: {lark.literal(head)} args_{at}{ended}", f"args_{at}: {self._arguments(at)}"]
        ways = [*(["calls"] if by_form[False] else []), *(["custom"] if by_form[True] else [])]
        if self.optional:
            ways.append("content")
            rules += self._content_rules()
        return await checker.compile_rules("\n".join([f"start: {' | '.join(ways)}", *rules]), "tools")

    def _by_form(self) -> dict[bool, list[int]]:
        """The positions of the tools, by whether their input has a grammar."""
        found: dict[bool, list[int]] = {True: [], False: []}
        for at, tool in enumerate(self.tools):
            found[tool.name in self.inputs].append(at)
        return found

    def _arguments(self, at: int) -> str:
        if self.tools[at].name in self.inputs:
            return lark.nested(self.inputs[self.tools[at].name])
        schema = self.parameters[at]
        return lark.json_value(_ANY_OBJECT if schema is None else schema, lenient=not self.tools[at].strict)

    def _content_rules(self) -> list[str]:
        bound = self.content
        if bound is None:
            return [f"content: {lark.FREE_TEXT}"]
        if bound.kind not in ("json", "choice"):
            raise UnsupportedParameter(
                f"A local model takes {bound.param} or tools that it may call, not both in one request.",
                param=bound.param,
            )
        form = lark.json_value(bound.value) if bound.kind == "json" else lark.choice(bound.value)
        return [f"content: {lark.literal(CONTENT)} form {lark.literal('}')}", f"form: {form}"]

    def schema(self) -> Json:
        """The answer's JSON schema, for a server that takes no Lark grammar; text is ``{"content"}`` there.

        ``$defs`` of the tools' schemas are hoisted to its root.
        """
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
            content = self.content.value if self.content and self.content.kind == "json" else {"type": "string"}
            schema = {"anyOf": [schema, _object({"content": hoisted(content, "content", definitions)})]}
        return {**schema, "$defs": definitions} if definitions else schema

    def instructions(self) -> str:
        """The part of the system message about the tools."""
        listed = "\n".join(orjson.dumps(self._told(tool)).decode() for tool in self.tools)
        if self.named is not None:
            what = "input" if self.named.name in self.inputs else "JSON arguments"
            how = f"Answer with the {what} of a call of {self.named.name}, and nothing else."
        else:
            how = ""
            if len(self.inputs) < len(self.tools):
                how = (
                    'To call tools, answer with {"tool_calls": [{"name": ..., "arguments": {...}}]} and nothing '
                    "else."
                )
            for name in self.inputs:
                how += (
                    f" To call {name}, answer with {CUSTOM}{lark.literal(name)}}} and its input on the next line."
                )
            if self.optional and self.content is not None:
                how += ' To answer without a tool, write {"content": ...}.'
            elif self.optional:
                how += " To answer without a tool, write plain text."
        return f"You can call these tools:\n{listed}\n{how}"

    def _told(self, tool: FunctionDefinition) -> Json:
        if tool.name in self.inputs:
            return {"custom_tool": tool.name, "description": tool.description or ""}
        return {"name": tool.name, "description": tool.description or "", "parameters": tool.parameters or {}}


def has_input_grammar(tool: FunctionDefinition) -> bool:
    """Whether a function stands for a custom tool whose input has a grammar."""
    return INPUT_GRAMMAR in (tool.parameters or {})


async def _input(tool: FunctionDefinition, checker: Checker) -> str:
    """The Lark grammar of a tool's input. Raises InvalidRequest and UnsupportedParameter."""
    given, param = (tool.parameters or {})[INPUT_GRAMMAR], f"tools.{tool.name}.format"
    text = given.get("definition") if isinstance(given, dict) else None
    if not isinstance(text, str) or given.get("syntax") not in ("lark", "regex"):
        raise InvalidRequest("A grammar has a 'syntax', lark or regex, and a 'definition'.", param=param)
    return await checker.compiled(Constraint("regex" if given["syntax"] == "regex" else "grammar", text, param))


async def _enforceable(tool: FunctionDefinition, checker: Checker) -> Json | None:
    """The schema of a tool's arguments for llguidance; None if it is not strict and cannot be compiled."""
    schema = tool.parameters or _ANY_OBJECT
    if not schema.keys() & _KINDS:
        schema = {**schema, "type": "object"}
    param = f"tools.{tool.name}.parameters"
    if tool.strict:
        return checked_schema(schema, param)
    check_expansion(schema, param)
    try:
        await checker.compile_rules(f"start: {lark.json_value(schema, lenient=True)}", param)
    except UnsupportedParameter:
        return None
    return schema


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


def plain_messages(messages: list[Json], instructions: str, custom: Collection[str] = ()) -> list[Json]:
    """Messages for a template without tools: calls and results as text, instructions in the system message."""
    plain = told_calls(messages, custom)
    if plain and plain[0]["role"] in ("system", "developer"):
        first = f"{_text(plain[0].get('content'))}\n\n{instructions}"
        return [{"role": "system", "content": first}, *plain[1:]]
    return [{"role": "system", "content": instructions}, *plain]


def has_calls(messages: list[Json]) -> bool:
    """Whether the conversation has calls of tools, or results."""
    return any(message.get("tool_calls") or message["role"] == "tool" for message in messages)


def told_calls(messages: list[Json], custom: Collection[str] = ()) -> list[Json]:
    """Messages with calls and results as text, after the text that they came with.

    Calls of ``custom`` tools are written as such, one a message.
    """
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
            if len(calls) == 1 and calls[0]["name"] in custom and isinstance(calls[0]["arguments"], dict):
                head = orjson.dumps(calls[0]["name"]).decode()
                text = f"{CUSTOM}{head}}}\n{calls[0]['arguments'].get(INPUT, '')}"
            said = _text(message.get("content"))
            kept = {name: value for name, value in message.items() if name != "tool_calls"}
            plain.append({**kept, "content": f"{said}\n\n{text}" if said else text})
        elif message["role"] == "tool":
            name = names.get(message.get("tool_call_id") or "", "the tool")
            plain.append({"role": "user", "content": f"Result of {name}: {_text(message.get('content'))}"})
        else:
            plain.append(message)
    return plain


def _loaded(arguments: str | None) -> Any:
    try:
        return orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        return arguments


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(part.get("text") or "" for part in content if isinstance(part, dict))
    return content or ""
