"""Translates a chat request into the body of Bedrock's ``ConverseStream``.

Source: the service model of bedrock-runtime in botocore; AWS's pages on Nova's and gpt-oss's own fields, and on
structured outputs, whose schemas have Anthropic's limits.
"""

from __future__ import annotations

from typing import Any

import orjson

from backends.adapting.efforts import nearest
from backends.adapting.marks import CITING, lost_fields
from backends.adapting.names import OPENAI
from backends.adapting.restoring import TELL_JSON
from backends.adapting.tools import ToolRules, adapted, lost_forms, restoration_for
from backends.anthropic.schema import Inexpressible, constrain
from backends.base import Upstream
from backends.clouds.bedrock.messages import Turns
from backends.parameters import OTHER_ANSWERS, refuse_forbidden, refuse_other_answers
from backends.translation import Dropped, TranslatedRequest, given, is_set, name_foreign, restrict
from backends.wire.chat import ChatRequest, FunctionDefinition, NamedToolChoice
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json

TIERS = frozenset({"flex", "priority"})
"""The service tiers that OpenAI's requests and Bedrock have in common, beside the default."""

TOOLS = ToolRules(names=OPENAI, refused_roots=frozenset({"anyOf", "oneOf", "allOf"}), custom_tools=False)
"""Bedrock's names of tools have OpenAI's form."""

_EFFORTS = frozenset({"low", "medium", "high"})
_TRANSLATED = frozenset(
    {
        *("max_tokens", "max_completion_tokens", "stop", "temperature", "top_p", "top_k"),
        *("tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "service_tier"),
    }
)
_GUARDRAIL = "x-amzn-bedrock-guardrail"


def translate(request: ChatRequest, upstream: Upstream) -> TranslatedRequest:
    """The body to send, and the names of the dropped parameters.

    Raises InvalidRequest or a subclass where dropping a parameter would change the answer's shape.
    """
    refuse_forbidden(request)
    refuse_other_answers(request, upstream, OTHER_ANSWERS)
    dropped = Dropped()
    request = restrict(request, upstream.parameters, dropped)
    if is_set(request, "n"):
        raise UnsupportedParameter("Bedrock gives one choice; 'n' must be 1.", param="n")
    asked = request
    dropped.add(*lost_forms(request, TOOLS))
    request = adapted(request, TOOLS)
    dropped.add(*lost_fields(request, CITING))
    name = upstream.model.lower()
    turns = Turns(dropped, caches="nova" in name or "claude" in name)
    for message in request.messages:
        name_foreign(message, "bedrock", dropped, images=False)
        turns.add(message)
    if not turns.turns:
        raise InvalidRequest("Bedrock needs at least one message that is not system.", param="messages")
    body: Json = {"messages": turns.turns}
    if turns.system:
        body["system"] = turns.system
    _tools(request, turns, body, dropped)
    json_object = _response_format(request, body, dropped)
    _sampling(request, upstream, name, body, dropped)
    _reasoning(request, name, body, dropped)
    tier = (request.model_extra or {}).get("service_tier")
    if tier in TIERS:
        body["serviceTier"] = {"type": tier}
    elif is_set(request, "service_tier"):
        dropped.add("service_tier")
    if guardrail := _guardrail(upstream):
        body["guardrailConfig"] = guardrail
    dropped.add(*(name for name in given(request) if name not in _TRANSLATED))
    return TranslatedRequest(body, dropped.as_tuple(), restoration_for(asked, TOOLS, json_object=json_object))


def _tools(request: ChatRequest, turns: Turns, body: Json, dropped: Dropped) -> None:
    choice = request.tool_choice
    if not is_set(request, "tools"):
        if isinstance(choice, NamedToolChoice) or choice == "required":
            raise InvalidRequest("tool_choice asks for a tool, but there are no tools.", param="tool_choice")
        if turns.uses_tools:
            raise UnsupportedParameter(
                "Bedrock wants 'tools' with a conversation that has used some.", param="tools"
            )
        return
    if choice == "none":
        if turns.uses_tools:
            raise UnsupportedParameter(
                "Bedrock cannot forbid tools in a conversation that has used some.", param="tool_choice"
            )
        return
    tools = []
    for tool in request.tools or ():
        if tool.function is None:
            raise UnsupportedParameter("Bedrock takes function tools only.", param="tools")
        tools.append({"toolSpec": _tool(tool.function, dropped)})
    body["toolConfig"] = {"tools": tools, **_tool_choice(choice)}
    if request.parallel_tool_calls is False:
        dropped.add("parallel_tool_calls")


def _tool_choice(choice: Any) -> Json:
    match choice:
        case None:
            return {}
        case "auto":
            return {"toolChoice": {"auto": {}}}
        case "required":
            return {"toolChoice": {"any": {}}}
        case NamedToolChoice(function=function) if function is not None:
            return {"toolChoice": {"tool": {"name": function.name}}}
    raise UnsupportedParameter("Bedrock does not take this tool_choice.", param="tool_choice")


def _tool(function: FunctionDefinition, dropped: Dropped) -> Json:
    schema: Json = {"type": "object", **(function.parameters or {"properties": {}})}
    tool: Json = {"name": function.name}
    if function.description:
        tool["description"] = function.description
    if function.strict:
        try:
            schema, described = constrain(schema)
        except Inexpressible:
            dropped.add("tools.function.strict")
        else:
            dropped.add(*(f"tools.function.parameters.{name}" for name in described))
            tool["strict"] = True
    return {**tool, "inputSchema": {"json": schema}}


def _response_format(request: ChatRequest, body: Json, dropped: Dropped) -> bool:
    """Bind the answer to a schema. True if the model is only told to answer with a JSON object."""
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return False
    if wanted.type != "json_schema":
        body.setdefault("system", []).append({"text": TELL_JSON})
        return True
    if wanted.json_schema is None or wanted.json_schema.schema_ is None:
        raise InvalidRequest("response_format.json_schema.schema is missing.", param="response_format")
    try:
        closed, described = constrain(wanted.json_schema.schema_)
    except Inexpressible:
        raise UnsupportedParameter(
            "Bedrock takes schemas only whose objects forbid additional properties.", param="response_format"
        ) from None
    dropped.add(*(f"response_format.json_schema.schema.{name}" for name in described))
    schema: Json = {"schema": orjson.dumps(closed).decode(), "name": wanted.json_schema.name or "answer"}
    body["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": schema}}}
    return False


def _sampling(request: ChatRequest, upstream: Upstream, name: str, body: Json, dropped: Dropped) -> None:
    """The largest temperature is 1 here and 2 in OpenAI's wire; one above 1 is dropped, not scaled or clamped."""
    config: Json = {}
    if (bound := request.output_limit or upstream.max_output_tokens) is not None:
        config["maxTokens"] = bound
    for ours, theirs in (("temperature", "temperature"), ("top_p", "topP")):
        if not is_set(request, ours):
            continue
        if getattr(request, ours) <= 1:
            config[theirs] = getattr(request, ours)
        else:
            dropped.add(ours)
    if is_set(request, "top_k"):
        if "nova" in name:
            body["additionalModelRequestFields"] = {"inferenceConfig": {"topK": request.top_k}}
        else:
            dropped.add("top_k")
    stops = [stop for stop in request.stop or () if stop]
    if stops:
        config["stopSequences"] = stops
    if config:
        body["inferenceConfig"] = config


def _reasoning(request: ChatRequest, name: str, body: Json, dropped: Dropped) -> None:
    """Set the nearest effort that the model has; one that differs from the caller's is reported."""
    effort = request.reasoning_effort
    if effort is None:
        return
    level = None if effort == "none" else nearest(effort, _EFFORTS)
    if "gpt-oss" in name:
        level = level or "low"
        fields: Json = {"reasoning_effort": level}
    elif "nova-2" in name:
        if level == "high" and body.get("inferenceConfig", {}).keys() & {"maxTokens", "temperature", "topP"}:
            level = "medium"  # Nova refuses these beside its highest effort
        fields = {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": level}}
        if level is None:
            fields = {"reasoningConfig": {"type": "disabled"}}
    else:
        if effort != "none":
            dropped.add("reasoning_effort")
        return
    if level not in (effort, None):
        dropped.add("reasoning_effort")
    body.setdefault("additionalModelRequestFields", {}).update(fields)


def _guardrail(upstream: Upstream) -> Json | None:
    """The guardrail that the endpoint's headers name, which Converse reads in the body alone."""
    headers = {name.lower(): value for name, value in upstream.headers.items()}
    identifier = headers.get(f"{_GUARDRAIL}identifier")
    if identifier is None:
        return None
    return {
        "guardrailIdentifier": identifier,
        "guardrailVersion": headers.get(f"{_GUARDRAIL}version", "DRAFT"),
    }
