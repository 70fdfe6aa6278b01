"""Translates chats and embeddings into Ollama's own API.

``/api/chat`` takes what its ``/v1`` leaves out or changes: the model's own sampling defaults, a context length,
thinking, pictures and texts in one message, and a refusal instead of a prompt that is cut in silence. Source:
Ollama's API reference, its SDK's types, and ``api/types.go`` for ``truncate`` and ``shift``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.adapting.arguments import object_of
from backends.adapting.efforts import nearest
from backends.adapting.files import with_text_files
from backends.adapting.marks import lost_fields, lost_marks
from backends.adapting.names import OPENAI as OPENAI_NAMES
from backends.adapting.tools import ToolRules, adapted, lost_forms
from backends.base import Upstream
from backends.constraints.request import ANY_OBJECT, Constraint, constraint_of
from backends.local.tool_schema import ToolPlan, chosen_tools
from backends.parameters import OTHER_ANSWERS, refuse_other_answers
from backends.translation import Dropped, given, restrict
from backends.wire.chat import ChatRequest, FunctionDefinition, Message, NamedToolChoice
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.media import image_url, parts_of, read_data_url
from backends.wire.sampling import OLLAMA_OPTIONS
from backends.wire.seeing.videos import takes_no_videos
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json

_SAMPLING = {
    **{name: name for name in ("temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "stop")},
    **{name: name for name in ("presence_penalty", "frequency_penalty", "repeat_penalty")},
    "repetition_penalty": "repeat_penalty",
}
_LIMITS = ("max_tokens", "max_completion_tokens")
EFFORTS = frozenset({"none", "low", "medium", "high"})
"""Ollama's levels of ``think``, with ``none`` for false. Models without levels take each level for true."""
TOOLS = ToolRules(
    names=OPENAI_NAMES,
    refused_roots=frozenset({"anyOf", "oneOf", "allOf"}),
    media_results=False,
    custom_tools=False,
)
_KEPT_MARKS = frozenset({"reasoning_content"})
_TAKEN = frozenset(
    {
        *(*_SAMPLING, *_LIMITS),
        *("tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort"),
        *("logprobs", "top_logprobs", "think", "keep_alive", "options"),
        *("structured_outputs", "guided_json"),
    }
)


@dataclass(frozen=True, slots=True)
class OllamaChat:
    """A body for ``/api/chat``, and how its answer is to be read.

    ``bound``: the answer's text has calls or content in this plan's form. ``one_call``: only the first counts.
    """

    body: Json
    bound: ToolPlan | None
    one_call: bool
    dropped: tuple[str, ...]


def translate(request: ChatRequest, upstream: Upstream) -> OllamaChat:
    """The call to make.

    Pictures must be ``data:`` URLs by now. Raises InvalidRequest for a message that Ollama cannot hold,
    UnsupportedParameter for several answers to one request, and what :func:`chosen_tools` raises.
    """
    refuse_other_answers(request, upstream, OTHER_ANSWERS)
    if (request.n or 1) > 1:
        raise UnsupportedParameter(f"'{upstream.model}' gives one answer at a time, not {request.n}.", param="n")
    dropped = Dropped()
    request = restrict(request, upstream.parameters, dropped)
    dropped.add(*lost_forms(request, TOOLS))
    request = adapted(request, TOOLS)
    dropped.add(*lost_marks(request, _KEPT_MARKS), *lost_fields(request))
    request = with_text_files(request)
    extra = request.model_extra or {}
    tools = chosen_tools(request)
    form = constraint_of(request, checked=False)
    if form is not None and form.kind != "json":
        dropped.add(form.param)
        form = None
    bound = _bound(request, tools, form)
    body: Json = {"model": upstream.model, "stream": True, "truncate": False, "shift": False}
    body["messages"] = list(_messages(request.messages))
    if bound is not None:
        body["format"] = bound.schema()
        body["messages"] = _instructed(body["messages"], bound.instructions())
    elif tools:
        body["tools"] = [_tool(tool) for tool in tools]
    elif form is not None:
        body["format"] = "json" if form.value == ANY_OBJECT else form.value
    if options := _options(request, upstream):
        body["options"] = options
    _think(request, body, dropped)
    for name in ("logprobs", "top_logprobs"):
        if getattr(request, name):
            body[name] = getattr(request, name)
    if (keep_alive := extra.get("keep_alive", upstream.options.get("keep_alive"))) is not None:
        body["keep_alive"] = keep_alive
    dropped.add(*(name for name in given(request) if not (name in _TAKEN or name in OLLAMA_OPTIONS)))
    one_call = request.parallel_tool_calls is False and bool(tools)
    return OllamaChat(body, bound, one_call, dropped.as_tuple())


def _think(request: ChatRequest, body: Json, dropped: Dropped) -> None:
    think = (request.model_extra or {}).get("think")
    if request.reasoning_effort is not None:
        level = nearest(request.reasoning_effort, EFFORTS)
        think = level if level != "none" else False
        if level != request.reasoning_effort:
            dropped.add("reasoning_effort")
    if think is not None:
        body["think"] = think


def embedding_body(request: EmbeddingRequest, upstream: Upstream) -> Json:
    """A body for ``/api/embed``. Raises UnsupportedParameter for token ids, of which Ollama takes none."""
    items = request.items()
    if not isinstance(items[0], str):
        raise UnsupportedParameter(f"'{upstream.model}' embeds texts, not token ids.", param="input")
    extra = request.model_extra or {}
    body: Json = {"model": upstream.model, "input": items, "truncate": extra.get("truncate", False)}
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    if options := _own_options(extra, upstream):
        body["options"] = options
    if (keep_alive := extra.get("keep_alive", upstream.options.get("keep_alive"))) is not None:
        body["keep_alive"] = keep_alive
    return body


def embedding_dropped(request: EmbeddingRequest) -> tuple[str, ...]:
    """The parameters that :func:`embedding_body` leaves out."""
    names = [name for name in ("input_type", "instruction", "user") if getattr(request, name) is not None]
    taken = OLLAMA_OPTIONS | {"options", "keep_alive", "truncate", "routing", "strict", "timings"}
    return (*names, *(name for name in request.model_extra or () if name not in taken))


# ---- options


def _options(request: ChatRequest, upstream: Upstream) -> Json:
    options = _own_options(request.model_extra or {}, upstream)
    for name, own in _SAMPLING.items():
        value = getattr(request, name)
        if value is not None:
            options[own] = value
    if request.output_limit is not None:
        options["num_predict"] = request.output_limit
    return options


def _own_options(extra: Mapping[str, Any], upstream: Upstream) -> Json:
    """Ollama's options of the row and of the request. Raises InvalidRequest for ``options`` that are no object."""
    asked = extra.get("options") or {}
    if not isinstance(asked, dict) or (
        unknown := next((name for name in asked if name not in OLLAMA_OPTIONS), None)
    ):
        known = ", ".join(sorted(OLLAMA_OPTIONS))
        wrong = "must be an object" if not isinstance(asked, dict) else f"have no {str(unknown)[:80]!r}"
        raise InvalidRequest(f"Ollama's 'options' {wrong}. They are: {known}.", param="options")
    beside = {name: extra[name] for name in OLLAMA_OPTIONS & extra.keys() if extra[name] is not None}
    return {name: value for name, value in upstream.options.items() if name in OLLAMA_OPTIONS} | asked | beside


# ---- tools


def _bound(request: ChatRequest, tools: Sequence[FunctionDefinition], form: Constraint | None) -> ToolPlan | None:
    """The form of an answer that must call a tool, or may call one beside a form of its own.

    Ollama has no ``tool_choice``, and a ``format`` keeps a model from calling; but it holds an answer to a schema.
    """
    named = isinstance(request.tool_choice, NamedToolChoice)
    must = named or request.tool_choice == "required"
    if not tools or not (must or form is not None):
        return None
    return ToolPlan(
        tools=tuple(tools),
        named=tools[0] if named else None,
        optional=not must,
        parallel=request.parallel_tool_calls is not False,
        content=None if must else form,
        parameters=(),
    )


def _tool(tool: FunctionDefinition) -> Json:
    function: Json = {"name": tool.name, "parameters": tool.parameters or {"type": "object", "properties": {}}}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function}


# ---- messages


def _messages(messages: Sequence[Message]) -> Iterator[Json]:
    """Ollama's messages. It tells results apart by their order, so that they follow the order of the calls."""
    called: dict[str, str] = {}
    results: list[tuple[int, Json]] = []
    for message in messages:
        if message.role in ("tool", "function"):
            names = list(called)
            call = message.tool_call_id or ""
            told = {"tool_name": name} if (name := called.get(call) or message.name) else {}
            results.append((names.index(call) if call in called else len(names), {**_content(message), **told}))
            continue
        yield from (result for _, result in sorted(results, key=lambda pair: pair[0]))
        results = []
        said = _content(message)
        if message.role == "assistant":
            extra = message.model_extra or {}
            if isinstance(extra.get("refusal"), str):
                said["content"] += extra["refusal"]
            thinking = extra.get("reasoning_content")
            if isinstance(thinking, str) and thinking:
                said["thinking"] = thinking
            if message.tool_calls:
                called = {call.id: call.function.name for call in message.tool_calls if call.function is not None}
                said["tool_calls"] = [
                    {"function": {"name": call.function.name, "arguments": object_of(call.function.arguments)}}
                    for call in message.tool_calls
                    if call.function is not None
                ]
        yield said
    yield from (result for _, result in sorted(results, key=lambda pair: pair[0]))


def _instructed(messages: list[Json], instructions: str) -> list[Json]:
    """The messages with the instructions at the end of the first system message, or in one of their own."""
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": instructions}, *messages]
    first = {**messages[0], "content": f"{messages[0]['content']}\n\n{instructions}".strip()}
    return [first, *messages[1:]]


def _content(message: Message) -> Json:
    """A message with its text and its pictures, which Ollama holds beside it."""
    role = {"developer": "system", "function": "tool"}.get(message.role, message.role)
    texts: list[str] = []
    images: list[str] = []
    for part in parts_of(message):
        if part.type == "text":
            texts.append(part.text or "")
        elif part.type == "image_url":
            images.append(read_data_url(image_url(part))[1])
        elif part.type == "refusal":
            texts.append(part.refusal or "")
        elif part.type == "video_url":
            raise takes_no_videos("Ollama")
        else:
            raise UnsupportedParameter(
                f"Ollama takes texts and pictures, not {part.type[:80]!r}.", param="messages"
            )
    content: Json = {"role": role, "content": "\n\n".join(texts)}
    if images:
        content["images"] = images
    return content
