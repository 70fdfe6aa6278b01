"""Binds an answer to the form that a request asks for: a grammar for the worker, a check of the answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from backends.constraints.checker import Checker
from backends.constraints.request import FIELDS, Constraint, constraint_of
from backends.local.chat import bind
from backends.local.tool_calls import as_tool_calls, checked_native
from backends.local.tool_schema import ToolPlan, chosen_tools, has_input_grammar
from backends.notices import DROPPED, note
from backends.wire.chat import ChatRequest, FunctionDefinition
from backends.wire.completions import CompletionRequest
from backends.wire.sampling import Sampling
from catalog.errors import UnsupportedParameter
from catalog.types import Json

Wrap = Callable[[AsyncGenerator[Json]], AsyncGenerator[Json]]

_CHAT_FIELDS = ("tools", "tool_choice", "parallel_tool_calls")
_STOP_BY_TOKEN = frozenset({"mlx", "llama-cpp-python"})
"""Engines that stop at a token by themselves; for llama-server the tokens become texts."""
_NATIVE = frozenset(
    {
        "type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "$ref",
        "$defs", "definitions", "title", "description", "default", "examples", "$schema",
    }
)  # fmt: skip
"""Keywords that llama.cpp's own conversion of tools enforces."""


def refuse_endless(body: Json) -> None:
    """Raises UnsupportedParameter for ``ignore_eos`` with a grammar: the answer would go on past its end."""
    if body.get("ignore_eos") and body.get("grammar"):
        raise UnsupportedParameter("'ignore_eos' goes with no form of the answer.", param="ignore_eos")


def _unchanged(chunks: AsyncGenerator[Json]) -> AsyncGenerator[Json]:
    return chunks


@dataclass(frozen=True, slots=True)
class Binding:
    """A request's body for the worker; ``chunks`` makes an answer's chunks regular and checks them.

    ``calls`` tells whether the answer may hold tool calls, or must. A stop sequence ends the text of such an
    answer, never the JSON of a call; ``cut`` checks the text that one may have ended.
    """

    body: Json
    chunks: Wrap
    calls: Literal["never", "may", "must"] = "never"
    cut: Wrap = _unchanged


async def bind_answer(
    request: ChatRequest,
    body: Json,
    engine: str | None,
    checker: Checker,
    takes_tools: Callable[[], Awaitable[bool]],
) -> Binding:
    """The binding of a chat.

    Tools go to the worker where its template takes them and its server enforces what is asked; elsewhere a
    :class:`ToolPlan` does. Raises InvalidRequest and UnsupportedParameter.
    """
    tools = chosen_tools(request)
    if not tools:
        for name in _CHAT_FIELDS:
            body.pop(name, None)
        constraint = constraint_of(request, checked=engine != "vllm")
        return await _bound(constraint, body, engine, checker, stops=has_stops(request))
    if request.stop_token_ids and engine in _STOP_BY_TOKEN:
        raise UnsupportedParameter(
            f"The engine {engine} takes stop_token_ids or tools, whose calls they might cut, not both.",
            param="stop_token_ids",
        )
    must = request.tool_choice not in (None, "auto")
    calls: Literal["may", "must"] = "must" if must else "may"
    names = {tool.name for tool in tools}
    if await takes_tools() and (engine == "vllm" or not _needs_plan(request, tools, engine)):
        body["tools"] = [tool for tool in body["tools"] if tool["function"]["name"] in names]
        if not isinstance(request.tool_choice, str | None):
            body["tool_choice"] = "required"
        return Binding(
            _vllm_body(body, constraint_of(request, checked=False)) if engine == "vllm" else body,
            lambda chunks: checked_native(chunks, tools, checker, must=must),
            calls=calls,
        )
    plan = await ToolPlan.of(request, tools, checker)
    if must and request.logprobs:  # they would be of a text that is no part of the answer
        note({DROPPED: "logprobs"})
    bound = without_form(bind(body, plan))
    if engine == "vllm":
        schema = {"name": "tool_call", "schema": plan.schema(), "strict": True}
        bound["response_format"] = {"type": "json_schema", "json_schema": schema}
    else:
        bound["grammar"] = await plan.grammar(checker)
    as_schema, content = engine == "vllm", plan.content
    return Binding(
        bound,
        lambda chunks: as_tool_calls(chunks, plan, checker, as_schema=as_schema),
        calls,
        _unchanged
        if content is None
        else lambda chunks: checked_form(chunks, content, checker, compiled=not as_schema, stops=True),
    )


def _needs_plan(request: ChatRequest, tools: tuple[FunctionDefinition, ...], engine: str | None) -> bool:
    """Whether the request asks for more than a worker's own tool calls hold."""
    must_call = request.tool_choice not in (None, "auto")
    if (engine == "mlx" and must_call) or constraint_of(request) is not None:
        return True
    return any(has_input_grammar(tool) or (tool.strict and not _enforced(tool.parameters or {})) for tool in tools)


def _enforced(node: Any) -> bool:
    if isinstance(node, list):
        return all(map(_enforced, node))
    if not isinstance(node, dict):
        return True
    if not node.keys() <= _NATIVE:
        return False
    named = [each for name in ("properties", "$defs", "definitions") for each in (node.get(name) or {}).values()]
    return all(map(_enforced, [*named, *(node.get(name) for name in ("items", "anyOf", "additionalProperties"))]))


async def bind_text(request: CompletionRequest, body: Json, engine: str | None, checker: Checker) -> Binding:
    """The binding of a text completion. Raises InvalidRequest and UnsupportedParameter."""
    constraint = constraint_of(request, checked=engine != "vllm")
    if constraint is not None and request.suffix is not None:
        raise UnsupportedParameter(
            f"A local model takes {constraint.param} or a suffix, not both.", param=constraint.param
        )
    return await _bound(constraint, body, engine, checker, stops=has_stops(request))


async def _bound(
    constraint: Constraint | None, body: Json, engine: str | None, checker: Checker, *, stops: bool
) -> Binding:
    if constraint is None:
        body.pop("response_format", None)
        return Binding(body, _unchanged)
    if engine == "vllm":
        bound = _vllm_body(body, constraint)
    else:
        bound = {**without_form(body), "grammar": await checker.compiled(constraint)}
    compiled = engine != "vllm"
    return Binding(bound, lambda chunks: checked_form(chunks, constraint, checker, compiled=compiled, stops=stops))


def has_stops(request: Sampling) -> bool:
    """Whether a sequence or token of the request may end its answer."""
    return bool(request.stop or request.stop_token_ids)


def without_form(body: Json) -> Json:
    """The body without the fields that set the answer's form."""
    return {name: value for name, value in body.items() if name not in FIELDS}


def _vllm_body(body: Json, constraint: Constraint | None) -> Json:
    """The body with vLLM's present names: it enforces by itself, and has no ``guided_*`` since 0.12."""
    if constraint is None or "response_format" in body:
        return body
    return {**without_form(body), "structured_outputs": {constraint.kind: constraint.value}}


async def checked_form(
    chunks: AsyncGenerator[Json], constraint: Constraint, checker: Checker, *, compiled: bool, stops: bool
) -> AsyncGenerator[Json]:
    """The chunks; the last passes on once the whole text is found to have its form. Raises AnswerInvalid.

    ``stops``: the request has stop sequences, so a text up to one of them needs only begin the form, as at OpenAI.
    """
    checks = compiled or constraint.kind == "json"
    check = checker.check_cut if stops else checker.check
    pieces: list[str] = []
    async with aclosing(chunks):
        async for chunk in chunks:
            for choice in chunk.get("choices") or ():
                text = choice["text"] if "text" in choice else choice["delta"].get("content")
                pieces.append(text or "")
                if choice.get("finish_reason") == "stop" and checks:
                    await check("".join(pieces), constraint)
                elif choice.get("finish_reason") == "length" and compiled:
                    await checker.check_beginning("".join(pieces), constraint)
            yield chunk
