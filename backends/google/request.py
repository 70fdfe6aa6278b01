"""Translates a chat request into the body of ``streamGenerateContent``. Source: Google's reference, SDK types."""

from __future__ import annotations

from typing import Any

from backends.adapting.choices import allowed_tools
from backends.adapting.efforts import nearest
from backends.adapting.marks import lost_fields, lost_marks
from backends.adapting.names import GEMINI
from backends.adapting.restoring import TELL_JSON
from backends.adapting.tools import ToolRules, adapted, lost_forms, restoration_for
from backends.base import Upstream
from backends.google.messages import translate_messages
from backends.google.modalities import take_modalities
from backends.google.models import BUDGETS, GeminiTraits, traits
from backends.google.search import add_search
from backends.parameters import SEARCHED_ANSWERS, check_stops, refuse_forbidden, refuse_other_answers
from backends.translation import Dropped, TranslatedRequest, given, is_set, restrict
from backends.wire.chat import ChatRequest, NamedToolChoice
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json

MAX_CANDIDATES = 8
MAX_STOPS = 5
_NUMBERS = {
    "n": "candidateCount",
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
    "seed": "seed",
}
_KEPT = frozenset({"safety_settings", "modalities", "audio"})
_REFUSED = {name: advice for name, advice in SEARCHED_ANSWERS.items() if name not in _KEPT}
_TIERS = {"standard": "standard", "flex": "flex", "priority": "priority", "fast": "priority"}
_KEPT_MARKS = frozenset({"is_error", "extra_content", "images", "server_tool_calls"})
TOOLS = ToolRules(names=GEMINI, refused_roots=frozenset({"$ref"}), allowed_tools=True, custom_tools=False)
_PENALTIES = frozenset({"frequency_penalty", "presence_penalty"})  # their range ends just below 2
_INT32 = range(-(2**31), 2**31)

_TRANSLATED = frozenset(
    {
        *("max_tokens", "max_completion_tokens", "n", "stop", "seed", "temperature", "top_p", "top_k"),
        *("frequency_penalty", "presence_penalty", "logprobs", "top_logprobs"),
        *("tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort"),
        *("safety_settings", "service_tier", "thinking", "web_search_options"),
    }
)
_SCHEMA_KEYWORDS = frozenset(
    {
        *("$id", "$defs", "$ref", "$anchor", "$schema", "type", "format", "title", "description", "enum"),
        *("items", "prefixItems", "minItems", "maxItems", "minimum", "maximum", "anyOf", "oneOf"),
        *("properties", "additionalProperties", "required", "propertyOrdering", "default"),
    }
)
"""The keywords that Gemini's constrained decoding enforces; others only guide the model."""
_SCHEMAS_BY_NAME = frozenset({"properties", "$defs", "definitions", "patternProperties", "dependentSchemas"})
_NO_SCHEMAS = frozenset({"enum", "default", "required", "const", "examples", "dependentRequired"})
_MAX_DEPTH = 100


def translate(request: ChatRequest, upstream: Upstream) -> TranslatedRequest:
    """The body to send, and the names of the dropped parameters.

    Raises :class:`InvalidRequest` or a subclass where dropping a parameter would change the answer's shape and
    not only its quality.
    """
    refuse_forbidden(request)
    refuse_other_answers(request, upstream, _REFUSED)
    dropped = Dropped()
    config: Json = {}
    request = take_modalities(request, upstream, config, dropped)
    request = restrict(request, upstream.parameters, dropped)
    can = traits(upstream.model)
    asked = request
    dropped.add(*lost_forms(request, TOOLS))
    request = adapted(request, TOOLS)
    dropped.add(*lost_marks(request, _KEPT_MARKS), *lost_fields(request))
    system, contents = translate_messages(request.messages, can, dropped)
    body: Json = {"contents": contents}
    _tools(request, body, dropped)
    if request.web_search_options is not None:
        add_search(request.web_search_options, can, upstream, body, dropped)
    _sampling(request, upstream, config, dropped)
    _thinking(request, can, config, dropped)
    json_object = _response_format(request, can, "tools" in body, config, dropped)
    if json_object:
        system = f"{system}\n\n{TELL_JSON}" if system else TELL_JSON
    if system:
        body["systemInstruction"] = {"parts": [{"text": system}]}
    if config:
        body["generationConfig"] = config
    safety = (request.model_extra or {}).get("safety_settings")
    if safety is not None:
        body["safetySettings"] = safety
    if is_set(request, "service_tier"):
        tier = _TIERS.get(str((request.model_extra or {}).get("service_tier")))
        if tier is None:
            dropped.add("service_tier")
        else:
            body["serviceTier"] = tier
    dropped.add(*(name for name in given(request) if name not in _TRANSLATED))
    return TranslatedRequest(body, dropped.as_tuple(), restoration_for(asked, TOOLS, json_object=json_object))


def _tools(request: ChatRequest, body: Json, dropped: Dropped) -> None:
    choice = request.tool_choice
    if not is_set(request, "tools"):
        if isinstance(choice, NamedToolChoice) or choice == "required":
            raise InvalidRequest("tool_choice asks for a tool, but there are no tools.", param="tool_choice")
        return
    declarations = []
    for tool in request.tools or ():
        function = tool.function
        if function is None:
            raise UnsupportedParameter("Gemini takes function tools only.", param="tools")
        declaration: Json = {"name": function.name, "description": function.description or ""}
        if function.parameters:
            declaration["parametersJsonSchema"] = function.parameters
        if function.parameters and function.strict:
            ignored: dict[str, None] = {}
            _find_ignored(function.parameters, ignored, 0)
            dropped.add(*(f"tools.function.parameters.{name}" for name in ignored))
        declarations.append(declaration)
    body["tools"] = [{"functionDeclarations": declarations}]
    config = _calling_config(request, strict=any(t.function and t.function.strict for t in request.tools or ()))
    if config:
        body["toolConfig"] = {"functionCallingConfig": config}
    if request.parallel_tool_calls is False:
        dropped.add("parallel_tool_calls")


def _calling_config(request: ChatRequest, *, strict: bool) -> Json | None:
    """The mode of calling. VALIDATED is auto with calls that match their schema, as those of ANY always do."""
    allowed = allowed_tools(request)
    if allowed is not None:
        mode, names = allowed
        if not names:
            return {"mode": "NONE"}
        return {"mode": "ANY" if mode == "required" else "VALIDATED", "allowedFunctionNames": list(names)}
    choice = request.tool_choice
    match choice:
        case None | "auto":
            return {"mode": "VALIDATED"} if strict else None if choice is None else {"mode": "AUTO"}
        case "none":
            return {"mode": "NONE"}
        case "required":
            return {"mode": "ANY"}
        case NamedToolChoice(function=function) if function is not None:
            return {"mode": "ANY", "allowedFunctionNames": [function.name]}
        case _:
            raise UnsupportedParameter("Gemini does not take this tool_choice.", param="tool_choice")


def _sampling(request: ChatRequest, upstream: Upstream, config: Json, dropped: Dropped) -> None:
    for name, field in _NUMBERS.items():
        if is_set(request, name):
            value = getattr(request, name)
            if (name in _PENALTIES and value >= 2) or (name == "seed" and value not in _INT32):
                dropped.add(name)
            else:
                config[field] = value
    if is_set(request, "n") and (request.n or 1) > MAX_CANDIDATES:
        raise UnsupportedParameter(f"Gemini gives at most {MAX_CANDIDATES} choices.", param="n")
    if request.output_limit is not None:
        config["maxOutputTokens"] = request.output_limit
    if request.stop:
        check_stops(request, upstream, MAX_STOPS)
        config["stopSequences"] = list(request.stop)
    if request.logprobs:
        config["responseLogprobs"] = True
        if request.top_logprobs:
            config["logprobs"] = request.top_logprobs


def _thinking(request: ChatRequest, can: GeminiTraits, config: Json, dropped: Dropped) -> None:
    """Set the nearest level that the model has; one that differs from the caller's effort is reported.

    A budget in tokens (``thinking``, as in Anthropic's API) goes to the models that take a number.
    """
    asked = (request.model_extra or {}).get("thinking")
    budget = asked.get("budget_tokens") if isinstance(asked, dict) and asked.get("type") == "enabled" else None
    effort = request.reasoning_effort
    if type(budget) is int and can.budgets is not None:
        least, most = can.budgets
        taken = min(max(budget, least), most)
        if taken != budget:
            dropped.add("thinking.budget_tokens")
        config["thinkingConfig"] = {"thinkingBudget": taken, "includeThoughts": True}
        return
    if asked is not None:
        dropped.add("thinking" if effort is None else "thinking.budget_tokens")
    if effort is None:
        return
    if can.levels:
        level = nearest(effort, can.levels)
        if level != effort:
            dropped.add("reasoning_effort")
        config["thinkingConfig"] = {"thinkingLevel": level.upper(), "includeThoughts": effort != "none"}
    elif can.budgets is None:
        if effort != "none":
            dropped.add("reasoning_effort")
    elif effort == "none":
        if can.can_stop_thinking:
            config["thinkingConfig"] = {"thinkingBudget": 0}
        else:
            dropped.add("reasoning_effort")
    else:
        config["thinkingConfig"] = {"thinkingBudget": BUDGETS[effort], "includeThoughts": True}


def _response_format(request: ChatRequest, can: GeminiTraits, tools: bool, config: Json, dropped: Dropped) -> bool:
    """Ask for the form of the answer; whether the model is only told, so that the answer must be checked."""
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return False
    if tools and wanted.type == "json_object" and not can.json_with_tools:
        return True
    if tools and not can.json_with_tools and request.tool_choice != "none":
        raise UnsupportedParameter(
            "This Gemini model takes no JSON response_format beside tools.", param="response_format"
        )
    config["responseMimeType"] = "application/json"
    if wanted.type == "json_object":
        return False
    if wanted.json_schema is None or wanted.json_schema.schema_ is None:
        raise InvalidRequest("response_format.json_schema.schema is missing.", param="response_format")
    schema = wanted.json_schema.schema_
    config["responseJsonSchema"] = schema
    ignored: dict[str, None] = {}
    _find_ignored(schema, ignored, 0)
    dropped.add(*(f"response_format.json_schema.schema.{name}" for name in ignored))
    return False


def _find_ignored(schema: Any, ignored: dict[str, None], depth: int) -> None:
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return
    for key, value in schema.items():
        if key not in _SCHEMA_KEYWORDS:
            ignored.setdefault(key)
        children = value if isinstance(value, list) else [value]
        if key in _SCHEMAS_BY_NAME and isinstance(value, dict):
            children = list(value.values())
        if key not in _NO_SCHEMAS:
            for child in children:
                _find_ignored(child, ignored, depth + 1)
