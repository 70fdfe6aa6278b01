"""The result of translating a request: the provider's body, and the names of the parameters that it lacks.

A translator writes the name of each parameter that the provider cannot take into a :class:`Dropped`; the server
shows the names in ``x-roundhouse-dropped``, or refuses the request in strict mode. A parameter whose value changes
nothing (``n`` of 1, a penalty of 0) is left out and not reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from backends.adapting.restoring import Restoration
from backends.streams.shapes import WrongShape
from backends.wire.chat import ChatRequest, Message
from catalog.errors import UpstreamProtocolError
from catalog.types import Json

GATEWAY_FIELDS = frozenset({"model", "messages", "stream", "stream_options", "routing", "strict", "timings"})
"""Fields for the gateway itself; no provider takes or drops them."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "min_p": (0,),
    "typical_p": (1,),
    "repeat_penalty": (1,),
    "top_k": (0, -1),
    "tools": ([],),
    "stop": ([],),
    "metadata": ({},),
    "store": (False,),
    "modalities": (["text"], []),
    "functions": ([],),
    "function_call": ("none",),
    "service_tier": ("auto", "default"),
    "inference_geo": ("global",),
    "safety_settings": ([],),
    "moderation": ({}, "auto"),
    "quality": ("auto",),
    "background": ("auto",),
    "partial_images": (0,),
    "input_fidelity": ("low",),
    "output_compression": (100,),
}
"""Values that equal the default behaviour."""

BOOKKEEPING = frozenset({"user", "metadata", "store", "safety_identifier", "prompt_cache_key"})
"""Fields that do not change the answer: those which a provider lacks are named, but ``strict`` lets them pass."""

CONSTRAINTS: Mapping[str, str] = {
    "inference_geo": "It cannot keep the answer's computation to a place; Anthropic's models can.",
    "safety_settings": "It has other filters than these, which are Gemini's.",
    "moderation": "It moderates no chat; ask POST /v1/moderations, or one of OpenAI's models.",
}
"""Promises about an answer, and the advice where a provider cannot keep one: it is refused, never left out."""

BY_CAPABILITY = frozenset({"web_search_options"}) | CONSTRAINTS.keys()
"""Parameters that a row takes by its capability or provider, whatever the list of its parameters says."""


@dataclass(frozen=True, slots=True)
class TranslatedRequest:
    """A provider's body, and the names of the parameters that are not in it (dotted where they are nested).

    ``restoration`` is what the answer needs to come back in the caller's terms, None for nothing.
    """

    body: Json
    dropped: tuple[str, ...] = ()
    restoration: Restoration | None = None


@dataclass(slots=True)
class Dropped:
    """Collects the names of dropped parameters, each once, in the order they were added."""

    names: dict[str, None] = field(default_factory=dict)

    def add(self, *names: str) -> None:
        for name in names:
            self.names.setdefault(name)

    def as_tuple(self) -> tuple[str, ...]:
        return tuple(self.names)


def is_set(request: ChatRequest, name: str) -> bool:
    """Whether the caller set this parameter to a value that changes the answer."""
    value = getattr(request, name, None)
    return value is not None and value not in NEUTRAL.get(name, ())


def given(request: ChatRequest) -> tuple[str, ...]:
    """The names of all parameters, known and unknown, that are set to change the answer."""
    names = (*type(request).model_fields, *(request.model_extra or {}))
    return tuple(name for name in names if name not in GATEWAY_FIELDS and is_set(request, name))


def restrict(request: ChatRequest, accepted: frozenset[str] | None, dropped: Dropped) -> ChatRequest:
    """The request without the parameters that the model's row does not accept; ``None`` accepts all."""
    if accepted is None:
        return request
    if accepted & {"max_tokens", "max_completion_tokens"}:
        accepted |= {"max_tokens", "max_completion_tokens"}
    accepted |= BY_CAPABILITY
    refused = [name for name in given(request) if name not in accepted]
    dropped.add(*refused)
    return request.model_copy(update=dict.fromkeys(refused)) if refused else request


def name_foreign(message: Message, provider: str, dropped: Dropped, *, images: bool) -> None:
    """Report the results of another provider's own tools, and images where the provider takes none back."""
    extra = message.model_extra
    if not extra:
        return
    items = extra.get("server_tool_calls")
    for item in items if isinstance(items, list) else ():
        own = item.get("extra_content") if isinstance(item, dict) else None
        if not isinstance(own, dict) or provider not in own:
            dropped.add("messages.server_tool_calls")
    if extra.get("images") and not images:
        dropped.add("messages.images")


@contextmanager
def reading(provider: str) -> Iterator[None]:
    """Raises UpstreamProtocolError for an answer of another shape than the code in the block reads."""
    try:
        yield
    except WrongShape as wrong:
        raise UpstreamProtocolError(f"{provider} sent an answer of a wrong shape: {wrong}.") from wrong
    except KeyError as lacking:
        name = str(lacking.args[0])[:100] if lacking.args else "a field"
        raise UpstreamProtocolError(
            f"{provider} sent an answer of a wrong shape: '{name}' is missing."
        ) from lacking
    except (TypeError, ValueError, AttributeError, IndexError) as wrong:
        raise UpstreamProtocolError(
            f"{provider} sent an answer of a wrong shape: a part of it has another type than in its API."
        ) from wrong
