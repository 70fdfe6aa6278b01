"""Which parameters of a request reach which provider: passed, renamed, dropped (and said so), or refused.

The tables are data. An unknown parameter is passed on where the provider's own answer to it is the best there
is (an OpenAI-compatible server of unknown make), and dropped where it would be ignored in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from backends.base import Upstream
from backends.translation import NEUTRAL
from backends.wire.chat import ChatRequest
from backends.wire.common import WireModel
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json

FORBIDDEN = frozenset(
    {
        "api_base", "api_key", "api_type", "api_version", "authorization", "azure_endpoint", "base_url",
        "chat_template", "custom_llm_provider", "deployment_id", "endpoint", "extra_body", "extra_headers",
        "extra_query", "headers", "host", "http_client", "organization", "proxies", "proxy", "timeout", "url",
    }
)  # fmt: skip
"""Fields by which a request would name an address, a key or a template of its own; such a request is refused."""

_ALWAYS = frozenset(
    {
        "model",
        "messages",
        "prompt",
        "input",
        "query",
        "documents",
        "labels",
        "stream",
        "stream_options",
        "strict",
        "routing",
    }
)
_LLAMA_SAMPLERS = frozenset({"top_k", "min_p", "typical_p", "repeat_penalty"})


@dataclass(frozen=True, slots=True)
class ParameterTable:
    """One provider's ways.

    ``drops`` are known not to be taken, ``renames`` are of a chat's parameters, ``extras`` are unknown to
    OpenAI's wire but known to this provider, and ``unknown_pass`` decides about all others.
    """

    drops: frozenset[str] = frozenset()
    renames: Mapping[str, str] = field(default_factory=dict)
    extras: frozenset[str] = frozenset()
    unknown_pass: bool = True

    def describe(self) -> Json:
        """For ``/v1/models/{id}``: what becomes of a request's parameters."""
        return {
            "dropped": sorted(self.drops),
            "renamed": dict(self.renames),
            "extra": sorted(self.extras),
            "unknown": "passed" if self.unknown_pass else "dropped",
            "refused": sorted(FORBIDDEN),
        }


OPENAI = ParameterTable(
    drops=_LLAMA_SAMPLERS
    | {"input_type", "language", "sample_rate", "negative_prompt", "steps", "guidance_scale"},
    renames={"max_tokens": "max_completion_tokens"},
)
"""api.openai.com and Azure. Their newer chat models refuse ``max_tokens``, and all take its new name.
Source: OpenAI's API reference."""

COMPATIBLE = ParameterTable()
"""Any other server of OpenAI's wire: it knows best what it takes."""

OLLAMA = ParameterTable(
    drops=_LLAMA_SAMPLERS
    | {"n", "logit_bias", "tool_choice", "parallel_tool_calls", "user", "metadata", "best_of", "echo"},
    renames={"max_completion_tokens": "max_tokens"},
    extras=frozenset({"keep_alive"}),
    unknown_pass=False,
)
"""Ollama's ``/v1``. Source: its page on OpenAI compatibility."""

WORKER = ParameterTable(
    drops=frozenset({"user", "metadata", "reasoning_effort"}),
    extras=frozenset(
        {
            "cache_prompt", "chat_template_kwargs", "dry_allowed_length", "dry_base", "dry_multiplier",
            "dry_penalty_last_n", "dry_sequence_breakers", "dynatemp_exponent", "dynatemp_range", "grammar",
            "ignore_eos", "mirostat", "mirostat_eta", "mirostat_tau", "reasoning_format", "repeat_last_n",
            "top_n_sigma", "truncate", "xtc_probability", "xtc_threshold",
        }
    ),
    unknown_pass=False,
)  # fmt: skip
"""llama-server and our own worker app. Source: llama.cpp's page on its server."""

_LLAMA_ONLY = frozenset(
    {
        "cache_prompt", "dry_allowed_length", "dry_base", "dry_multiplier", "dry_penalty_last_n",
        "dry_sequence_breakers", "dynatemp_exponent", "dynatemp_range", "grammar", "mirostat", "mirostat_eta",
        "mirostat_tau", "reasoning_format", "repeat_last_n", "top_n_sigma", "truncate",
    }
)  # fmt: skip

ENGINES: Mapping[str, ParameterTable] = {
    "mlx": replace(WORKER, drops=WORKER.drops | {"typical_p"}, extras=WORKER.extras - _LLAMA_ONLY),
    "vllm": ParameterTable(
        drops=frozenset({"user", "metadata", "typical_p"}),
        extras=frozenset({"chat_template_kwargs", "ignore_eos", "min_tokens", "stop_token_ids"}),
        unknown_pass=False,
    ),
    "llama-cpp-python": replace(WORKER, extras=frozenset({"chat_template_kwargs", "ignore_eos"})),
    "diffusion": ParameterTable(
        drops=frozenset({"user", "quality", "style", "background", "partial_images"}), unknown_pass=False
    ),
}
"""Workers whose engine takes less, or other, than llama-server; the others have :data:`WORKER`."""

_QUIET = frozenset({"user", "metadata", "store", "safety_identifier", "prompt_cache_key", "service_tier"})
"""Notes for a provider's books: they ask nothing of the answer, so leaving them out is not worth a report."""


def table_for(upstream: Upstream) -> ParameterTable:
    """The table of an upstream, by its protocol and, for OpenAI's, its host."""
    match upstream.protocol:
        case "worker":
            return ENGINES.get(upstream.engine or "", WORKER)
        case "ollama":
            return OLLAMA
        case "azure":
            return OPENAI
        case _:
            return OPENAI if _host(upstream.base_url) == "api.openai.com" else COMPATIBLE


@lru_cache(maxsize=256)
def _host(address: str) -> str | None:
    return urlsplit(address).hostname


@dataclass(frozen=True, slots=True)
class Prepared:
    """A body to send, and the names of what the caller asked for that is not in it."""

    body: Json
    dropped: tuple[str, ...] = ()


def prepare(
    request: WireModel, upstream: Upstream, *, strict: bool = False, table: ParameterTable | None = None
) -> Prepared:
    """The body for an upstream, with the model's name there.

    ``upstream.parameters``, when the model's row gives it, is a further bound. Raises InvalidRequest for a
    field of :data:`FORBIDDEN`, and in strict mode UnsupportedParameter for anything that would be dropped.
    """
    refuse_forbidden(request)
    table = table or table_for(upstream)
    left_out = _left_out(request, upstream, table)
    dropped = tuple(name for name, value in left_out.items() if _asks(name, value))
    if strict and dropped:
        raise UnsupportedParameter(
            f"The model '{upstream.model}' does not take {', '.join(repr(name[:80]) for name in dropped)}.",
            param=dropped[0][:80],
        )
    body = request.to_wire(model=upstream.model, **dict.fromkeys(left_out))
    body.pop("routing", None)
    if upstream.protocol != "worker" or upstream.engine in ENGINES:
        body.pop("strict", None)
    if isinstance(request, ChatRequest):
        for name, new in table.renames.items():
            if name in body:
                body.setdefault(new, body.pop(name))
    return Prepared(body, dropped)


def dropped_names(request: WireModel, upstream: Upstream) -> tuple[str, ...]:
    """What :func:`prepare` would drop. Pure, and as quick for a long prompt as for a short one."""
    left_out = _left_out(request, upstream, table_for(upstream))
    return tuple(name for name, value in left_out.items() if _asks(name, value))


def _left_out(request: WireModel, upstream: Upstream, table: ParameterTable) -> dict[str, Any]:
    """The fields, with their values, that are not this upstream's to see."""
    extra = request.model_extra or {}
    wanted = request.model_fields_set - _ALWAYS
    if all(_taken(name, table, upstream, unknown=name in extra) for name in wanted):
        return {}
    return {
        name: extra[name] if name in extra else getattr(request, name)
        for name in (*type(request).model_fields, *extra)
        if name in wanted and not _taken(name, table, upstream, unknown=name in extra)
    }


def refuse_forbidden(request: WireModel) -> None:
    """Raises InvalidRequest if the request names an address, a key or a template of its own."""
    for name in request.model_extra or ():
        if name.lower().replace("-", "_") in FORBIDDEN:
            raise InvalidRequest(
                f"A request cannot set '{name[:80]}'; the operator's configuration does.", param=name
            )


def _taken(name: str, table: ParameterTable, upstream: Upstream, *, unknown: bool) -> bool:
    if upstream.parameters is not None:
        return name in upstream.parameters or table.renames.get(name) in upstream.parameters
    if unknown:
        return table.unknown_pass or name in table.extras
    return name not in table.drops


def _asks(name: str, value: Any) -> bool:
    """Whether leaving this value out changes the answer."""
    return value is not None and value not in NEUTRAL.get(name, ()) and name not in _QUIET
