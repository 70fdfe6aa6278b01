"""The parameters that reach a server of OpenAI's wire: passed, renamed, dropped (and reported), or refused.

A backend has a :class:`ParameterTable`. An unknown parameter is passed on where the server itself refuses what it
does not know, and dropped where the server would ignore it in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from backends.adapting.efforts import nearest
from backends.adapting.files import has_files, refuse_links, with_text_files
from backends.adapting.marks import MARKS, UNREAD, foreign_marks, lost_marks
from backends.adapting.tools import ALL, ToolRules, adapted, is_plain, lost_forms
from backends.base import Upstream
from backends.translation import BY_CAPABILITY, CONSTRAINTS, NEUTRAL
from backends.wire.chat import ChatRequest, TranslatedChat, WebSearchOptions
from backends.wire.common import WireModel
from backends.wire.images import ImageRequest
from backends.wire.sampling import Sampling
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json

TEMPLATES_OWN = frozenset(
    {
        "add_generation_prompt", "bos_token", "chat_template", "continue_final_message", "conversation",
        "eos_token", "functions", "messages", "pad_token", "tokenize", "tool_choice", "tools", "unk_token",
    }
)  # fmt: skip
"""Variables of a chat template that the request's own fields or the model set: an argument of the same name would
replace a conversation whose tokens were counted."""

FORBIDDEN = frozenset(
    {
        "api_base", "api_key", "api_type", "api_version", "authorization", "azure_endpoint", "base_url",
        "chat_template", "custom_llm_provider", "deployment_id", "endpoint", "extra_body", "extra_headers",
        "extra_query", "headers", "host", "http_client", "organization", "proxies", "proxy", "timeout", "url",
    }
)  # fmt: skip
"""Fields that would name an address, a key or a template of the caller's own; a request with one is refused."""

ELSEWHERE = frozenset(
    {
        "models", "model_id", "model_name", "model_list", "model_group", "model_info", "base_model",
        "target_model", "draft_model", "speculative_model", "safety_model", "guard_model",
        "judge_model", "model_router", "fallback", "fallbacks", "fallback_models",
        "default_fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "user_config",
        "preset", "engine", "engine_id", "deployment", "route", "router", "lora", "loras",
        "lora_request", "lora_path", "lora_name", "lora_adapter", "adapter", "adapters",
        "adapter_id", "provider", "providers", "provider_options", "endpoint_id", "gateway",
        "virtual_key", "config", "region", "region_name", "aws_region_name", "vertex_project",
        "vertex_location", "project_id", "space_id", "kv_transfer_params", "bootstrap_host",
        "bootstrap_port", "bootstrap_room", "litellm_params", "litellm_metadata",
        "litellm_credential_name", "input_cost_per_token", "output_cost_per_token", "plugins",
        "guardrails", "connectors", "extensions", "data_sources", "logits_processors",
        "custom_logit_processor", "callback", "callbacks", "callback_url", "success_callback",
        "failure_callback", "logger_fn", "webhook", "webhooks", "webhook_url", "notify_url",
        "notification_url",
    }
)  # fmt: skip
"""Fields by which other gateways and servers of OpenAI's wire take another model, endpoint, adapter, plugin or
callback than the operator's row names. A server that would be sent one gets it only if the row lists it.
Source: the references of OpenRouter, LiteLLM, Portkey, Vercel's AI Gateway, vLLM, SGLang and Azure."""

LLAMA_SAMPLERS = frozenset(
    {
        *("top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n"),
        *("mirostat", "mirostat_tau", "mirostat_eta"),
    }
)
"""Samplers of llama.cpp, some of vLLM's too, that OpenAI's API does not have."""

_ALWAYS = frozenset(
    {
        *("model", "messages", "prompt", "input", "query", "documents", "labels"),
        *("stream", "stream_options", "strict", "routing", "timings"),
    }
)

OTHER_ANSWERS: Mapping[str, str] = MappingProxyType(
    {
        "modalities": 'It answers with text alone; ask for ["text"], and speak it with POST /v1/audio/speech.',
        "audio": "It answers with text alone; speak it with POST /v1/audio/speech.",
        "web_search_options": "It cannot search; ask a model that can, or give it a tool of your own.",
        **CONSTRAINTS,
    }
)
"""Parameters of chats that change what the answer is, and what to do where a server does not take them."""

SEARCHED_ANSWERS: Mapping[str, str] = MappingProxyType(
    {name: advice for name, advice in OTHER_ANSWERS.items() if name != "web_search_options"}
)
"""Those of them that a server which searches the web does not take."""


_SIGNATURES = frozenset({"extra_content"})
"""Marks that a translated conversation keeps in the form of the server that gave them."""


def _no_renames() -> Mapping[str, str]:
    return MappingProxyType({})


def refuse_domains(search: WebSearchOptions, upstream: Upstream, *names: str) -> None:
    """Raises UnsupportedParameter for a list of domains among ``names`` that the server cannot keep to."""
    for name in names:
        if search.filters is not None and getattr(search.filters, name):
            raise UnsupportedParameter(
                f"'{upstream.model}' cannot keep a search to domains by '{name}'; leave it out, or ask a model "
                "whose server can.",
                param=f"web_search_options.filters.{name}",
            )


def search_fields(search: WebSearchOptions, upstream: Upstream) -> tuple[Json, tuple[str, ...]]:
    """The fields of a search in OpenAI's form, and the names of the options that chats lack: a bound on searches.

    Raises UnsupportedParameter for filters, which OpenAI's chats do not have.
    """
    refuse_domains(search, upstream, "allowed_domains", "blocked_domains")
    lacking = () if search.max_uses is None else ("web_search_options.max_uses",)
    return {"web_search_options": search.to_wire(filters=None, max_uses=None)}, lacking


@dataclass(frozen=True, slots=True)
class PictureRules:
    """The treatment of requests for pictures by one kind of server.

    ``drops`` are parameters that it does not take there, beside the table's. ``format``: it is told the
    ``response_format``. ``variations``: it serves them, beside edits. ``own``: it is a worker of this machine,
    which takes all parameters of an edit in a variation, and no ``markup``.
    """

    drops: frozenset[str] = frozenset()
    format: bool = True
    variations: bool = True
    own: bool = False


@dataclass(frozen=True, slots=True)
class ParameterTable:
    """The treatment of parameters by one kind of server.

    ``drops`` are parameters of OpenAI's wire that the server does not take, ``renames`` apply to chats,
    ``extras`` are parameters beyond OpenAI's wire that it does take, and ``unknown_pass`` decides about all
    others. ``takes_strict``: it refuses by itself what it would drop, so ``strict`` is sent on where the request's
    type declares it. ``marks`` are
    fields within messages and tools, beyond OpenAI's wire, that it takes: of chats translated from another API,
    and where it is not ``unmarked``, of all chats; an unmarked one is sent a chat's marks, except what another
    maker's model gave. ``stops`` bounds the stop sequences, ``choices`` the choices. ``voices`` are the voices
    of speech, if known. ``refuses`` are parameters without which the answer would be another, each with the
    advice that its error gives. ``efforts`` gives the reasoning efforts of a model by its name, None for one
    that gets them as they are. ``tools`` are the forms of tools and their results. ``text_files``: files may
    hold text; ``linked_files``: they may be given by address; None, if that is not known, leaves it to a caller
    who speaks the server's wire. ``sources``: an answer's sources stand beside it
    (:mod:`backends.openai.sources`). ``search`` gives the fields of a search, and the options that
    the server lacks. ``pictures`` are the rules of drawing.
    """

    drops: frozenset[str] = frozenset()
    renames: Mapping[str, str] = field(default_factory=_no_renames)
    extras: frozenset[str] = frozenset()
    unknown_pass: bool = True
    takes_strict: bool = False
    marks: frozenset[str] = frozenset()
    unmarked: bool = True
    stops: int | None = None
    choices: int | None = None
    voices: frozenset[str] = frozenset()
    refuses: Mapping[str, str] = field(default_factory=_no_renames)
    sources: bool = False
    efforts: Callable[[str], Set[str] | None] | None = None
    tools: ToolRules = ALL
    text_files: bool = False
    linked_files: bool | None = True
    search: Callable[[WebSearchOptions, Upstream], tuple[Json, tuple[str, ...]]] = search_fields
    pictures: PictureRules = PictureRules()


def body_for(request: WireModel, upstream: Upstream, table: ParameterTable) -> Json:
    """The body to send, with the model's name at the upstream.

    ``upstream.parameters``, where the model's row has it, is a further bound. Raises InvalidRequest for a field of
    :data:`FORBIDDEN` or an unlisted one of :data:`ELSEWHERE`, UnsupportedParameter for more stop sequences than
    the server takes and for what it refuses.
    """
    refuse_forbidden(request)
    refuse_other_answers(request, upstream, table.refuses)
    if isinstance(request, Sampling):
        _check_bounds(request, upstream, table)
    plain = not isinstance(request, ChatRequest) or is_plain(request)
    if isinstance(request, ChatRequest) and not plain:
        request = _with_files(adapted(request, table.tools), upstream, table)
    left_out = _left_out(request, upstream, table)
    refuse_elsewhere(request, upstream, left_out)
    body = request.to_wire(model=upstream.model, **dict.fromkeys(left_out))
    body.pop("routing", None)
    body.pop("timings", None)
    if not table.takes_strict or "strict" not in type(request).model_fields:
        body.pop("strict", None)
    if isinstance(request, ChatRequest):
        if request.web_search_options is not None:
            _search(request.web_search_options, body, upstream, table)
        if request.max_tokens is not None and request.max_completion_tokens is not None:
            _one_limit(request, body)
        for name, new in table.renames.items():
            if name in body:
                body.setdefault(new, body.pop(name))
        if "reasoning_effort" in body:
            body["reasoning_effort"] = _effort(request, upstream, table)
            if body["reasoning_effort"] is None:
                del body["reasoning_effort"]
        if not plain:
            _clean(body, (UNREAD - table.marks) | _unsent_marks(request, upstream, table))
    return body


def dropped_names(request: WireModel, upstream: Upstream, table: ParameterTable) -> tuple[str, ...]:
    """The parameters that :func:`body_for` leaves out. Pure; its time grows with the number of messages."""
    left_out = _left_out(request, upstream, table)
    names = tuple(name for name, value in left_out.items() if _asks(name, value)) if left_out else ()
    if not isinstance(request, ChatRequest):
        return names
    if request.web_search_options is not None and "web_search_options" not in left_out:
        names += table.search(request.web_search_options, upstream)[1]
    effort = request.reasoning_effort
    if effort is not None and "reasoning_effort" not in left_out and _effort(request, upstream, table) != effort:
        names += ("reasoning_effort",)
    if not is_plain(request):
        names += lost_marks(request, MARKS - _unsent_marks(request, upstream, table))
        names += lost_forms(request, table.tools)
    return names


def _search(search: WebSearchOptions, body: Json, upstream: Upstream, table: ParameterTable) -> None:
    fields, _ = table.search(search, upstream)
    if body.pop("web_search_options", None) is None:
        return
    for name in fields.keys() & body.keys():
        raise InvalidRequest(f"'{name}' says the same as 'web_search_options'; send one of them.", param=name)
    body.update(fields)


def _one_limit(request: ChatRequest, body: Json) -> None:
    """Leave one name of the bound on an answer, with the smaller of both: servers differ in which of them wins."""
    names = [name for name in ("max_tokens", "max_completion_tokens") if name in body]
    for name in names[1:]:
        del body[name]
    if names:
        body[names[0]] = request.output_limit


def _check_bounds(request: Sampling, upstream: Upstream, table: ParameterTable) -> None:
    if table.stops is not None:
        check_stops(request, upstream, table.stops)
    if table.choices is not None and (request.n or 1) > table.choices:
        raise UnsupportedParameter(
            f"'{upstream.model}' gives one choice of an answer; ask as often as you need one.", param="n"
        )


def _with_files(request: ChatRequest, upstream: Upstream, table: ParameterTable) -> ChatRequest:
    if not has_files(request.messages):
        return request
    if table.linked_files is False or (table.linked_files is None and isinstance(request, TranslatedChat)):
        refuse_links(request.messages, upstream.model)
    return request if table.text_files else with_text_files(request)


def check_stops(request: Sampling, upstream: Upstream, most: int) -> None:
    """Raises UnsupportedParameter for more stop sequences than ``most``."""
    if request.stop is not None and len(request.stop) > most:
        raise UnsupportedParameter(
            f"'{upstream.model}' takes at most {most} stop sequences, and the request has {len(request.stop)}.",
            param="stop",
        )


def refuse_other_answers(request: WireModel, upstream: Upstream, refuses: Mapping[str, str]) -> None:
    """Raises UnsupportedParameter for a set parameter that is among ``refuses``, with its advice.

    One that the model's row lists is the operator's word that this server takes it.
    """
    if not isinstance(request, ChatRequest) or refuses.keys().isdisjoint(request.model_fields_set):
        return
    for name in refuses.keys() & request.model_fields_set:
        if _asks(name, getattr(request, name)) and name not in (upstream.parameters or ()):
            raise UnsupportedParameter(f"'{upstream.model}' does not take '{name}'. {refuses[name]}", param=name)


def refuse_forbidden(request: WireModel) -> None:
    """Raises InvalidRequest if the request names an address, a key or a template of its own.

    So it is with arguments of the chat template that would take the place of the request's own fields.
    """
    extra = request.model_extra
    if not extra:
        return
    refuse_names(extra)
    arguments = extra.get("chat_template_kwargs")
    if arguments is None:
        return
    if not isinstance(arguments, dict):
        raise InvalidRequest("'chat_template_kwargs' must be an object.", param="chat_template_kwargs")
    for name in arguments:
        if name in TEMPLATES_OWN:
            raise InvalidRequest(
                f"'chat_template_kwargs' cannot set '{name}': the request's fields or the model do.",
                param=f"chat_template_kwargs.{name}",
            )


_SQUEEZED = frozenset(name.replace("_", "") for name in ELSEWHERE)


def is_elsewhere(name: str) -> bool:
    """Whether a field is of :data:`ELSEWHERE`, in any spelling."""
    return name.lower().replace("-", "").replace("_", "") in _SQUEEZED


def refuse_elsewhere(request: WireModel, upstream: Upstream, left_out: Container[str] = ()) -> None:
    """Raises InvalidRequest for a field of :data:`ELSEWHERE` that would be sent and that the row does not list."""
    for name, value in (request.model_extra or {}).items():
        if value is None or name in left_out or name in (upstream.parameters or ()) or not is_elsewhere(name):
            continue
        raise InvalidRequest(
            f"A request cannot set '{name[:80]}': it would name other models, endpoints, plugins or callbacks of "
            "the server than the operator's. Leave it out; the operator can list it in the model's 'parameters'.",
            param=name,
        )


def refuse_names(names: Iterable[str]) -> None:
    """Raises InvalidRequest if one of the names of a request's fields is in :data:`FORBIDDEN`."""
    for name in names:
        if name.lower().replace("-", "_") in FORBIDDEN:
            raise InvalidRequest(
                f"A request cannot set '{name[:80]}'; the operator's configuration does.", param=name
            )


def _left_out(request: WireModel, upstream: Upstream, table: ParameterTable) -> dict[str, Any]:
    """The fields, with their values, that the upstream is not sent."""
    if isinstance(request, ImageRequest) and table.pictures.drops:
        table = replace(table, drops=table.drops | table.pictures.drops)
    extra = request.model_extra or {}
    wanted = request.model_fields_set - _ALWAYS
    foreign = request.foreign if isinstance(request, TranslatedChat) else frozenset()
    if not isinstance(request, ChatRequest):  # a field of its own, such as a picture's moderation, is no chat's
        wanted -= table.refuses.keys() & type(request).model_fields.keys()
    if foreign.isdisjoint(wanted) and all(_taken(name, table, upstream, unknown=name in extra) for name in wanted):
        return {}
    return {
        name: extra[name] if name in extra else getattr(request, name)
        for name in (*type(request).model_fields, *extra)
        if name in wanted and (name in foreign or not _taken(name, table, upstream, unknown=name in extra))
    }


def _effort(request: ChatRequest, upstream: Upstream, table: ParameterTable) -> str | None:
    """The nearest reasoning effort that the model has; None for one that does not reason."""
    effort = request.reasoning_effort
    if effort is None or table.efforts is None:
        return effort
    known = table.efforts(upstream.model)
    if known is None:
        return effort
    return nearest(effort, known) if known else None


def _unsent_marks(request: ChatRequest, upstream: Upstream, table: ParameterTable) -> Set[str]:
    """The marks that the server is not sent: those of a chat pass, but for what another maker's model gave."""
    if not table.unmarked:
        return MARKS - table.marks
    foreign = foreign_marks(upstream.model)
    if isinstance(request, TranslatedChat):
        return MARKS - table.marks - (_SIGNATURES - foreign)
    return foreign - table.marks


def _clean(body: Json, unknown: Set[str]) -> None:
    """Delete fields within messages and tools that the server does not take, and those that say nothing.

    SDKs send an answer back as they read it, with its null fields, and strict servers refuse these.
    """
    for message in (*body.get("messages", ()), *(body.get("tools") or ())):
        content = message.get("content")
        parts = content if isinstance(content, list) else ()
        for holder in (message, *parts, *(message.get("tool_calls") or ())):
            for name in [name for name, value in holder.items() if name in unknown or _says_nothing(name, value)]:
                del holder[name]
        if content is None and message.get("role") == "assistant" and message.keys() <= _ALONE:
            message["content"] = ""  # what it was is left out, and a null is for tool calls alone


_ALONE = frozenset({"role", "content", "name"})


def _says_nothing(name: str, value: Any) -> bool:
    return (value is None and name != "content") or (name in UNREAD and not value)


def _taken(name: str, table: ParameterTable, upstream: Upstream, *, unknown: bool) -> bool:
    listed = upstream.parameters
    if listed is not None:
        if name in listed or table.renames.get(name) in listed:
            return True
        return name in BY_CAPABILITY and name not in table.refuses
    if name in table.drops:
        return False
    if not unknown:
        return name not in table.refuses
    return (table.unknown_pass or name in table.extras) and name not in table.refuses


def _asks(name: str, value: Any) -> bool:
    """Whether leaving this value out changes the answer."""
    return value is not None and value not in NEUTRAL.get(name, ())
