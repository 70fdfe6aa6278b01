"""Settings of the choice of models. The defaults of :class:`Learning` are tuned, the others are chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field, field_validator

from backends.registry import trusted_providers
from catalog.model import Capability
from catalog.validation.section import Section
from routing.facts import Mode, Task
from routing.reading.intent import is_auto
from routing.reading.stand_ins import check_stand_in

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Amount = Annotated[float, Field(ge=0)]


class Weights(Section):
    """Weights of quality, latency and cost in a score; they need not sum to one."""

    quality: Share = Field(description="weight of the expected quality")
    latency: Share = Field(description="weight of the expected seconds")
    cost: Share = Field(description="weight of the expected dollars")


class Signal(Section):
    """Value of one implicit observation: ``score`` in [0, 1], worth ``confidence`` of an explicit report."""

    score: Share = Field(description="quality that the sign stands for, in [0, 1]")
    confidence: Share = Field(description="weight of the sign, in parts of an explicit report")


class Signals(Section):
    """Signals of quality that are inferred from attempts.

    ``completed`` is an answer without any sign of a fault. It is weak evidence, and ``implicit_memory`` bounds the
    weight of any number of such answers together.
    """

    invalid: Signal = Field(
        default=Signal(score=0.0, confidence=0.8), description="an answer breaks its JSON schema or a tool's"
    )
    valid: Signal = Field(
        default=Signal(score=1.0, confidence=0.3), description="an answer keeps its JSON schema and its tools'"
    )
    cut: Signal = Field(
        default=Signal(score=0.3, confidence=0.2), description="an answer ends at a limit of tokens"
    )
    asked_again: Signal = Field(
        default=Signal(score=0.2, confidence=0.25), description="the same caller asks the same prompt again"
    )
    completed: Signal = Field(
        default=Signal(score=0.75, confidence=0.05), description="an answer ends without any sign of a fault"
    )
    asked_again_within: Positive = Field(
        default=90.0, description="seconds within which the same prompt counts as asked again"
    )
    implicit_memory: Positive = Field(
        default=8.0, description="explicit reports that all signs of a model together weigh as much as, at most"
    )


class Learning(Section):
    """The hierarchical posterior: model, then task, then complexity.

    A strength is the number of real observations that weigh as much as the level above. The defaults are tuned
    on seeds of ``tests/bench/simulation.py`` and checked on others.
    """

    prior_strength: Positive = Field(
        default=40.0, description="observations that a prior by the model's own benchmarks weighs as much as"
    )
    benchmark_trust: Share = Field(
        default=0.6,
        description="share of a benchmark's distance from the mean of the rows of its kind that is kept",
    )
    relative_strength: Positive = Field(
        default=32.0,
        description="the same for a prior by the benchmarks of the same model elsewhere, or of what it succeeds",
    )
    price_strength: Positive = Field(
        default=12.0,
        description="the same for a prior by price and version among the measured models of a provider",
    )
    guess_strength: Positive = Field(default=6.0, description="the same for a prior guessed from the model's size")
    task_strength: Positive = Field(
        default=10.0, description="observations of a task at which its own mean weighs as much as the model's"
    )
    complexity_strength: Positive = Field(
        default=80.0, description="observations of a complexity at which its own mean weighs as much as the task's"
    )
    memory: Positive = Field(
        default=4000.0, description="observations of a task and complexity after which an old one weighs 1/e"
    )
    optimism: Amount = Field(
        default=0.42,
        description="how far above its mean a quality is sampled: so many standard deviations, times log(1 + "
        "horizon / strength)",
    )
    horizon: Positive = Field(
        default=100.0, description="observations up to which exploring a model pays; optimism fades beyond"
    )
    spread: Share = Field(default=0.3, description="share of itself by which optimism varies between requests")
    retrial: Share = Field(
        default=0.05,
        description="share of requests for a name with replicas that retry one that failed lately",
    )
    change_ratio: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.5, description="ratio of the odds after a drop that the change detector is most sensitive to"
    )
    change_threshold: Positive = Field(
        default=12.0, description="log likelihood ratio at which a change is detected"
    )
    change_patience: Positive = Field(
        default=10.0,
        description="observations of a task and complexity at which they count half in the change detector",
    )
    speed_memory: Positive = Field(
        default=20.0, description="observations of speed after which an old one weighs 1/e"
    )
    speed_prior: Positive = Field(
        default=1.0, description="observations that weigh as much as the catalogue's speed"
    )
    reliability_memory: Positive = Field(
        default=30.0, description="attempts after which an old success or failure weighs 1/e"
    )


class ColdStart(Section):
    """A trusted remote model is preferred until a private model has enough good observations of a task.

    Private are the models of this machine and of endpoints marked ``private``. Under high stakes the rule holds
    for every task, and a small model without these observations, wherever it runs, comes after every other.
    """

    always: frozenset[Task] = Field(
        default=frozenset({Task.TOOL_USE, Task.VISION}), description="tasks for which the rule always holds"
    )
    interactive: frozenset[Task] = Field(
        default=frozenset({Task.CODE, Task.REASONING, Task.MATHS}),
        description="tasks for which it holds for interactive requests only",
    )
    observations: Positive = Field(default=5.0, description="observations of a task that end the rule for a model")
    floor: Share = Field(default=0.6, description="mean quality that these observations must exceed")
    explore: Share = Field(
        default=0.05,
        description="share of requests that skip the rule, so that private models are observed at all",
    )
    trusted: frozenset[str] = Field(
        default_factory=trusted_providers,
        description="providers trusted from the start; the tag 'trusted' does the same for a row or endpoint",
    )


class Affinity(Section):
    """Conversations stay with the model and the replica whose cache holds their beginning.

    The prefill that a cache saves counts as seconds, and as dollars where cached tokens cost less; it counts less
    the longer ago the beginning was sent (1/e after ``remote`` or ``local`` seconds). In mid-conversation nothing
    is tried out, and another model must be better by more than ``stay``.
    """

    enabled: bool = Field(default=True, description="whether a cached beginning counts in the choice")
    remote: Positive = Field(default=300.0, description="seconds that providers keep a prompt, about")
    local: Positive = Field(default=3600.0, description="seconds that a worker on this machine keeps a prompt")
    stay: Share = Field(default=0.02, description="bonus of the model of the last turn, added to its score")
    remembered: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=16_384, description="prompts whose model is remembered, at most"
    )


class JudgeSettings(Section):
    """A model that compares answers of ``auto`` with the runner-up's, after they were sent.

    Off without ``model``. A request's content goes to the judge and to the runner-up: never that of requests which
    must stay local, and of none where storage.store is "never".
    """

    model: str | None = Field(
        default=None,
        min_length=1,
        description="the judge: a chat model's id or alias; none: off",
        examples=["gpt-5-mini"],
    )
    share: Share = Field(default=0.02, description="share of the answered requests for auto that are compared")
    daily_dollars: Amount = Field(
        default=0.5, description="dollars a day (UTC) for the runner-up's answers and the judge"
    )
    confidence: Share = Field(default=0.5, description="weight of a verdict, in parts of an explicit report")

    @field_validator("model")
    @classmethod
    def _one_model(cls, model: str | None) -> str | None:
        if model is not None and is_auto(model):
            raise ValueError(f"'{model}' may be another model for each answer: name one chat model")
        return model


class SpeechPolicy(Section):
    """Preferences for where speech and transcription run."""

    prefer_local: bool = Field(default=True, description="local voices and recognisers come before remote ones")
    allow_remote: bool = Field(default=True, description="speech and recordings may go to providers")
    preferred: tuple[str, ...] = Field(
        default=(), description="model ids, the most preferred first", examples=[["kokoro-82m", "hibari"]]
    )


def _mode_weights() -> dict[Mode, Weights]:
    return {
        Mode.AUTO: Weights(quality=0.45, latency=0.40, cost=0.15),
        Mode.FAST: Weights(quality=0.15, latency=0.80, cost=0.05),
        Mode.BEST: Weights(quality=0.99, latency=0.005, cost=0.005),
        Mode.CHEAP: Weights(quality=0.25, latency=0.10, cost=0.65),
        Mode.LOCAL: Weights(quality=0.60, latency=0.40, cost=0.0),
    }


class RoutingSettings(Section):
    """Settings of the router.

    In the mode ``cheap``, cost is relative to the cheapest model with a quality of ``able``.
    """

    weights: dict[Mode, Weights] = Field(
        default_factory=_mode_weights, description="weights of quality, latency and cost by mode: auto, fast, ..."
    )
    latency_scale: Positive = Field(
        default=10.0, description="seconds up to which the penalty of latency is proportional; it flattens beyond"
    )
    cost_scale: Positive = Field(
        default=0.02, description="dollars up to which the penalty of cost is proportional; it flattens beyond"
    )
    batch_latency_factor: Positive = Field(
        default=20.0,
        validation_alias=AliasChoices("batch_latency_factor", "patience"),
        description="factor of latency_scale for workloads that are not interactive",
    )
    unnoticed: Amount = Field(
        default=0.05, description="seconds within which a latency counts as equal to the fastest"
    )
    unnoticed_per_token: Amount = Field(
        default=0.001, description="seconds a decoded token within which a speed counts as equal to the fastest"
    )
    able: Share = Field(default=0.55, description="quality from which a model counts as able to do a request")
    best_explores: Share = Field(
        default=0.05, description="share of requests for the best model that try one that may be better"
    )
    stakes: Weights = Field(
        default=Weights(quality=0.99, latency=0.005, cost=0.005),
        description="weights of requests with high stakes",
    )
    local_bonus: Share = Field(
        default=0.15, description="bonus of a local model's score where the request says prefer_local"
    )
    effort: bool = Field(
        default=True,
        description="whether the reasoning effort of requests to auto follows their complexity, if they name none",
    )
    diversity: Share = Field(
        default=0.25, description="deducted from a fallback's score per earlier candidate of its failure domain"
    )
    candidates: Annotated[int, Field(ge=1, le=64)] = Field(default=8, description="models of a plan, at most")
    classify_floor: Share = Field(
        default=0.6,
        description="quality less a standard deviation from which a chat model classifies in place of similarity",
    )
    preferred: dict[Capability, str] = Field(
        default={},
        description="the model that auto uses for a capability",
        examples=[{"embed": "all-minilm-l6-v2"}],
    )
    stand_ins: dict[str, str] = Field(
        default={},
        description="the model that answers for a name, or a pattern of names, which no usable model has: an id, "
        "or auto; names of embedding models need one model",
        examples=[{"gpt-4o*": "auto:best", "whisper-1": "auto"}],
    )
    priors: tuple[Path, ...] = Field(
        default=(),
        description="files or folders with qualities and speeds of models (.json, .toml)",
        examples=[["priors/"]],
    )
    learning: Learning = Learning()
    signals: Signals = Signals()
    cold_start: ColdStart = ColdStart()
    affinity: Affinity = Affinity()
    speech: SpeechPolicy = SpeechPolicy()
    judge: JudgeSettings = JudgeSettings()

    @field_validator("stand_ins")
    @classmethod
    def _of_one_model(cls, stand_ins: dict[str, str]) -> dict[str, str]:
        for pattern, target in stand_ins.items():
            check_stand_in(pattern, target)
        return stand_ins
