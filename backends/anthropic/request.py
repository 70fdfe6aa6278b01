"""Translates a chat request into the body of ``POST /v1/messages``.

Source: Anthropic's API reference and SDK types.
"""

from __future__ import annotations

import re
from hashlib import sha256

from backends.adapting.marks import CITING, MARKS, lost_fields, lost_marks
from backends.adapting.names import ANTHROPIC
from backends.adapting.restoring import TELL_JSON
from backends.adapting.tools import ToolRules, adapted, lost_forms, restoration_for
from backends.anthropic.messages import continues_tools_without_thinking, lost_ttls, translate_messages
from backends.anthropic.models import ClaudeTraits, traits
from backends.anthropic.schema import Inexpressible, constrain
from backends.anthropic.search import add_search
from backends.anthropic.thinking import apply_thinking
from backends.base import Upstream
from backends.parameters import SEARCHED_ANSWERS, refuse_forbidden, refuse_other_answers
from backends.translation import Dropped, TranslatedRequest, given, is_set, restrict
from backends.wire.chat import ChatRequest, FunctionDefinition, NamedToolChoice
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json

DEFAULT_MAX_TOKENS = 16_384
"""Anthropic requires a bound; this one is sent when neither the caller nor the model's row has one."""

MIN_THINKING_TOP_P = 0.95
"""The smallest top_p beside thinking, which also excludes top_k and any temperature but 1."""

ANSWER_TOOL = "json_answer"
"""The tool that is forced on models without structured outputs to get a JSON answer."""

TOOLS = ToolRules(names=ANTHROPIC, refused_roots=frozenset({"anyOf", "oneOf", "allOf"}), custom_tools=False)

MAX_USER = 256
"""Characters of a user's id; a longer one is replaced by its digest."""

_REFUSED = {name: advice for name, advice in SEARCHED_ANSWERS.items() if name != "inference_geo"}
_KEPT_MARKS = MARKS - {"extra_content"}
_PROPERTY = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_PASSED = ("cache_control", "speed", "inference_geo", "container")
_SERVICE_TIERS = ("auto", "standard_only")
_TRANSLATED = frozenset(
    {
        *("max_tokens", "max_completion_tokens", "stop", "temperature", "top_p", "top_k"),
        *("tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "thinking"),
        *("user", "safety_identifier", "service_tier"),
        "web_search_options",
        *_PASSED,
    }
)


def translate(request: ChatRequest, upstream: Upstream) -> TranslatedRequest:
    """The body to send, which always asks for a stream, and the names of the dropped parameters.

    Raises :class:`InvalidRequest` or a subclass where dropping a parameter would change the answer's shape
    (several choices, a custom tool) and not only its quality.
    """
    refuse_forbidden(request)
    refuse_other_answers(request, upstream, _REFUSED)
    dropped = Dropped()
    request = restrict(request, upstream.parameters, dropped)
    if is_set(request, "n"):
        raise UnsupportedParameter("Anthropic's models give one choice; 'n' must be 1.", param="n")
    can = traits(upstream.model)
    asked = request
    dropped.add(*lost_forms(request, TOOLS))
    request = adapted(request, TOOLS)
    dropped.add(*lost_marks(request, _KEPT_MARKS), *lost_fields(request, CITING | {"prompt_cache_breakpoint"}))
    if any(map(lost_ttls, request.messages)):
        dropped.add("messages.prompt_cache_breakpoint.ttl")
    system, turns = translate_messages(request.messages, dropped, system_turns=can.system_turns)
    body: Json = {"model": upstream.model, "messages": turns, "stream": True}
    if system:
        body["system"] = system
    _tools(request, can, body, dropped)
    if request.web_search_options is not None:
        add_search(request.web_search_options, upstream, body, dropped)
    json_object = _response_format(request, can, body, dropped)
    bound = request.output_limit or upstream.max_output_tokens
    body["max_tokens"] = bound or DEFAULT_MAX_TOKENS
    unsigned = continues_tools_without_thinking(turns)
    apply_thinking(request, can, body, dropped, bound=bound, loop_without_thinking=unsigned)
    _sampling(request, can, body, dropped)
    _stop(request, body, dropped)
    _account(request, body, dropped)
    dropped.add(*(name for name in given(request) if name not in _TRANSLATED))
    return TranslatedRequest(body, dropped.as_tuple(), restoration_for(asked, TOOLS, json_object=json_object))


def answers_by_tool(body: Json) -> bool:
    """Whether this body asks for its JSON answer through the forced tool."""
    choice = body.get("tool_choice") or {}
    return choice.get("type") == "tool" and choice.get("name") == ANSWER_TOOL


# ---- tools


def _tools(request: ChatRequest, can: ClaudeTraits, body: Json, dropped: Dropped) -> None:
    if not is_set(request, "tools"):
        if isinstance(request.tool_choice, NamedToolChoice) or request.tool_choice == "required":
            raise InvalidRequest("tool_choice asks for a tool, but there are no tools.", param="tool_choice")
        return
    tools = []
    for tool in request.tools or ():
        if tool.function is None:
            raise UnsupportedParameter("Anthropic's models take function tools only.", param="tools")
        translated = _tool(tool.function, can, dropped)
        mark = (tool.model_extra or {}).get("cache_control") or (tool.function.model_extra or {}).get(
            "cache_control"
        )
        tools.append({**translated, "cache_control": mark} if isinstance(mark, dict) else translated)
    body["tools"] = tools
    choice = _tool_choice(request)
    if (choice or {}).get("type") in ("any", "tool") and not can.forced_tools:
        raise UnsupportedParameter(
            f"'{body['model']}' cannot be forced to call a tool; let tool_choice be 'auto'.",
            param="tool_choice",
        )
    if request.parallel_tool_calls is False and (choice or {}).get("type") != "none":
        choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
    if choice:
        body["tool_choice"] = choice


def _tool(function: FunctionDefinition, can: ClaudeTraits, dropped: Dropped) -> Json:
    tool: Json = {"name": function.name}
    if function.description:
        tool["description"] = function.description
    schema = function.parameters or {"type": "object", "properties": {}}
    properties = schema.get("properties")
    for name in properties if isinstance(properties, dict) else ():
        if _PROPERTY.fullmatch(name) is None:
            raise UnsupportedParameter(
                f"Anthropic's models take no argument with the name {name[:80]!r}: it may have letters, digits, "
                "'_', '.' and '-' only, 64 at most.",
                param="tools.function.parameters.properties",
            )
    tool["input_schema"] = {"type": "object", **schema}
    if function.strict:
        try:
            if not can.structured_outputs:
                raise Inexpressible
            if "if" in schema:  # what was moved from the root, which no grammar holds
                raise Inexpressible
            strict, described = constrain(tool["input_schema"])
            dropped.add(*(f"tools.function.parameters.{name}" for name in described))
            tool |= {"input_schema": strict, "strict": True}
        except Inexpressible:
            dropped.add("tools.function.strict")
    return tool


def _tool_choice(request: ChatRequest) -> Json | None:
    match request.tool_choice:
        case None:
            return None
        case "none" | "auto" as kind:
            return {"type": kind}
        case "required":
            return {"type": "any"}
        case NamedToolChoice(function=function) if function is not None:
            return {"type": "tool", "name": function.name}
        case _:
            raise UnsupportedParameter("Anthropic's models do not take this tool_choice.", param="tool_choice")


# ---- JSON answers


def _response_format(request: ChatRequest, can: ClaudeTraits, body: Json, dropped: Dropped) -> bool:
    """Ask for the form of the answer; whether the model is only told, so that the answer must be checked."""
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return False
    if wanted.type == "json_object" and ("tools" in body or not can.forced_tools):
        body["system"] = [*body.get("system", ()), {"type": "text", "text": TELL_JSON}]
        return True
    schema: Json | None = None
    strict = False
    if wanted.type == "json_schema":
        if wanted.json_schema is None or wanted.json_schema.schema_ is None:
            raise InvalidRequest("response_format.json_schema.schema is missing.", param="response_format")
        schema, strict = wanted.json_schema.schema_, bool(wanted.json_schema.strict)
    if schema is not None and can.structured_outputs:
        try:
            closed, described = constrain(schema)
        except Inexpressible:
            pass
        else:
            dropped.add(*(f"response_format.json_schema.schema.{name}" for name in described))
            body.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": closed}
            return False
    if "tools" in body:
        raise UnsupportedParameter(
            f"'{body['model']}' takes no response_format of this kind beside tools.", param="response_format"
        )
    if not can.forced_tools:
        raise UnsupportedParameter(
            f"'{body['model']}' answers by a closed schema only: give its objects the additionalProperties false.",
            param="response_format",
        )
    if strict:
        dropped.add("response_format.json_schema.strict")
    _force_answer_tool(body, schema or {"type": "object"})
    return False


def _force_answer_tool(body: Json, schema: Json) -> None:
    """Ask for the JSON answer as the input of a forced tool, as Anthropic documents for older models."""
    if schema.get("type") != "object":
        raise UnsupportedParameter(
            f"'{body['model']}' can only answer with a JSON object; give the schema the type 'object'.",
            param="response_format",
        )
    body["tools"] = [{"name": ANSWER_TOOL, "description": "Give the answer.", "input_schema": schema}]
    body["tool_choice"] = {"type": "tool", "name": ANSWER_TOOL, "disable_parallel_tool_use": True}


# ---- the rest


def _sampling(request: ChatRequest, can: ClaudeTraits, body: Json, dropped: Dropped) -> None:
    """The largest temperature is 1 here and 2 in OpenAI's wire; one above 1 is dropped, not scaled or clamped."""
    thinks = body.get("thinking", {}).get("type") in ("enabled", "adaptive")
    for name in ("temperature", "top_p", "top_k"):
        if not is_set(request, name):
            continue
        value = getattr(request, name)
        alone = can.sampling_pair or "temperature" not in body
        taken = {
            "temperature": value == 1 or (value < 1 and not thinks),
            "top_p": alone and (value >= MIN_THINKING_TOP_P or not thinks),
            "top_k": not thinks,
        }
        if can.sampling and taken[name]:
            body[name] = value
        else:
            dropped.add(name)


def _stop(request: ChatRequest, body: Json, dropped: Dropped) -> None:
    """Anthropic refuses stop sequences that are only white space."""
    stops = list(request.stop or ())
    usable = [stop for stop in stops if stop.strip()]
    if usable:
        body["stop_sequences"] = usable
    if len(usable) < len(stops):
        dropped.add("stop")


def _account(request: ChatRequest, body: Json, dropped: Dropped) -> None:
    extra = request.model_extra or {}
    user = extra.get("safety_identifier") or request.user
    if request.user not in (None, user):
        dropped.add("user")
    if isinstance(user, str) and user:
        body["metadata"] = {"user_id": user if len(user) <= MAX_USER else sha256(user.encode()).hexdigest()}
    for name in _PASSED:
        if extra.get(name) is not None:
            body[name] = extra[name]
    tier = extra.get("service_tier")
    if tier in _SERVICE_TIERS:
        body["service_tier"] = tier
    elif tier not in (None, "default"):
        dropped.add("service_tier")
