"""The facts of a request that routing depends on. The policy never sees the request itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from backends.wire.chat import NO_PAID_TOOLS, PaidTools
from catalog.model import Capability
from routing.prefix import Prefix


class Task(StrEnum):
    """Kind of work that a request asks for; quality is learned per task."""

    CHAT = "chat"
    CODE = "code"
    REASONING = "reasoning"
    MATHS = "maths"
    SUMMARISE = "summarise"
    CLASSIFY = "classify"
    EXTRACT = "extract"
    TRANSLATE = "translate"
    WRITE = "write"
    TOOL_USE = "tool_use"
    VISION = "vision"
    EMBED = "embed"
    RERANK = "rerank"
    SPEECH = "speech"
    TRANSCRIBE = "transcribe"
    IMAGE = "image"
    VIDEO = "video"


AUTO_LATEST = "auto:latest"
"""``auto`` with Ollama's tag."""


def alias_of(requested: str) -> str:
    """A model's name in lower case, as pins are kept by it; ``auto`` has no tag of Ollama's there."""
    name = requested.casefold()
    return "auto" if name == AUTO_LATEST else name


class Complexity(StrEnum):
    """Apparent difficulty of a prompt."""

    SIMPLE = "simple"
    MEDIUM = "medium"
    COMPLEX = "complex"


@dataclass(frozen=True, slots=True)
class Confidence:
    """How sure the recogniser is of a task and of a complexity, from 0 to 1; 0 where it was not asked."""

    task: float = 0.0
    complexity: float = 0.0


NO_CONFIDENCE = Confidence()


class Mode(StrEnum):
    """Preset of the weights of quality, latency and cost."""

    AUTO = "auto"
    FAST = "fast"
    BEST = "best"
    CHEAP = "cheap"
    LOCAL = "local"


class Workload(StrEnum):
    """Urgency of the answer. A user waits for an interactive one."""

    INTERACTIVE = "interactive"
    BATCH = "batch"
    BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class Intent:
    """The caller's preferences and limits, from ``routing: {...}`` of the body or from headers."""

    mode: Mode = Mode.AUTO
    task: Task | None = None
    require: frozenset[Capability] = frozenset()
    workload: Workload = Workload.INTERACTIVE
    local_only: bool = False
    prefer_local: bool = False
    prefer_fast: bool = False
    prefer_quality: bool = False
    high_stakes: bool = False
    exclude: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    max_cost: float | None = None
    escalate: bool = False
    strict: bool = False
    timings: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """One request, as input of the policy.

    ``requested`` is the model name as the caller wrote it. ``prompt_tokens`` is an estimate; ``output_tokens``
    is the caller's bound on each of the ``choices`` (answers to all prompts) or ``None``. ``key`` is the id of
    the caller's API key. ``prompt_digest`` identifies a repeated prompt without storing it. ``units`` is the
    amount of work not measured in tokens: characters to speak, images, minutes of audio, seconds of video.
    ``tokens_only`` marks a request that only splits or joins tokens, or deletes. ``hosted`` marks one
    that may make the provider run tools of its own, such as a search, whose results are prompt tokens too.
    ``allowed`` lists the models that the caller's key may use, as ids or patterns; empty means all. ``tiers``
    names the service, speed and region that are asked for, where they are not the standard ones. ``searches``
    is the caller's bound on web searches. ``paid`` is what a provider of the caller's own language may run
    beside; ``containers`` and ``uncounted`` are what the called one may: containers, and the names of tools of
    unknown cost. ``prefix`` is the prompt of a chat as a chain of blocks. ``probe`` marks a request of the
    server's own that measures models: it teaches their speed and reliability, and neither their quality nor the
    usual length of answers. ``stands_for`` is the name that the caller wrote where ``requested`` stands in for
    it. ``languages`` are the codes of those that sound is said to be in; none: it is not known. ``picture`` is the
    ``size`` and the ``quality`` of pictures to be drawn, as the caller wrote them. ``media_margin`` is how
    many more tokens the prompt's pictures may have than ``prompt_tokens`` says: models count them in many ways.
    """

    capability: Capability
    requested: str = "auto"
    features: frozenset[Capability] = frozenset()
    task: Task = Task.CHAT
    complexity: Complexity = Complexity.SIMPLE
    confidence: Confidence = NO_CONFIDENCE
    prompt_tokens: int = 0
    output_tokens: int | None = None
    units: float = 1.0
    parameters: frozenset[str] = frozenset()
    stream: bool = False
    key: str = ""
    prompt_digest: str = ""
    tokens_only: bool = False
    hosted: bool = False
    allowed: tuple[str, ...] = ()
    choices: int = 1
    tiers: tuple[str, ...] = ()
    searches: int | None = None
    paid: PaidTools = NO_PAID_TOOLS
    containers: int = 0
    uncounted: tuple[str, ...] = ()
    probe: bool = False
    stands_for: str | None = None
    languages: frozenset[str] = frozenset()
    picture: tuple[str, str] = ("", "")
    media_margin: int = 0
    intent: Intent = field(default_factory=Intent)
    prefix: Prefix | None = field(default=None, compare=False, repr=False)
