"""Plans for a model asked for by name: one model, a group of replicas, or the model that an alias is pinned to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from catalog.errors import CapabilityMismatch, ContextLengthExceeded, NotPermitted
from catalog.index import permits
from catalog.model import Capability, Model
from routing.choosing.filters import admit, broken_limit, context_needed, cost_bound
from routing.choosing.pins import pinned_model
from routing.choosing.ranking import comparable, rank
from routing.choosing.scoring import score
from routing.choosing.world import World
from routing.facts import Facts
from routing.plan import Candidate, Exclusion, Lazy, Plan, Strategy
from routing.settings import RoutingSettings

_CHECKED_FEATURES = frozenset(
    {
        Capability.VISION,
        Capability.VIDEO_INPUT,
        Capability.AUDIO_INPUT,
        Capability.CLONE,
        Capability.DOCUMENTS,
        Capability.TOOLS,
        Capability.JSON_SCHEMA,
        Capability.WEB_SEARCH,
        Capability.IMAGE_EDIT,
    }
)
"""Features that a named model's row must list. Discovered rows are exempt: their features are unknown."""
_LEFT_TO_UPSTREAM = frozenset({"context", "max_tokens", "memory", "breaker_cannot", "ends", "spoken"})
"""Codes of rules that are skipped for a named model: its own server's refusal is clearer."""
_NOT_OF_PINS = frozenset({"ends"})
"""Codes of rules that are skipped for a pinned model: another one has another vector space."""
_MAX_LISTED = 5
_FAR_TOO_LONG = 2
"""Times a local model's context window that an estimated prompt may have: the estimate may be wrong by less, and
tokenising megabytes would keep the worker from others."""


def plan_named(facts: Facts, world: World, settings: RoutingSettings, rng: np.random.Generator) -> Plan:
    """The plan for a name. Raises ModelNotFound, CapabilityMismatch, NotPermitted, ContextLengthExceeded."""
    replicas = world.index.replicas(facts.requested)
    if len(replicas) == 1:
        return _plan_single(facts, world, settings, replicas[0], Strategy.EXPLICIT)
    return plan_pinned(facts, world, settings) or _plan_replicas(facts, world, settings, rng, replicas)


def plan_pinned(facts: Facts, world: World, settings: RoutingSettings) -> Plan | None:
    """The plan for an embedding alias that is pinned to a model; ``None`` for any other name.

    A pin names one vector space, so a model that the request's limits exclude is never replaced by another.
    """
    pinned = pinned_model(facts, world)
    if pinned is None:
        return None
    model = world.index.resolve(pinned)
    filtered = admit(facts, world, settings, cost_bound(facts, world))
    if filtered.admitted_but_for(_NOT_OF_PINS)[world.index.rows[model.id]]:
        return _plan_single(facts, world, settings, model, Strategy.PINNED)
    broken = [exclusion for exclusion in filtered.exclusions(world) if exclusion.model == model.id]
    why = f"'{facts.requested}' is pinned to {model.id}, whose vectors compare with no other model's"
    return Plan((), broken, Strategy.PINNED, f"{why}: {broken[0].reason}")


def _plan_single(facts: Facts, world: World, settings: RoutingSettings, model: Model, strategy: Strategy) -> Plan:
    if not permits(facts.allowed, model.id):
        raise NotPermitted.of_model(model.id)
    _check_capabilities(facts, world, model)
    block = world.blocked.get(model.id)
    named = "asked for by name" if strategy is Strategy.EXPLICIT else f"'{facts.requested}' is pinned to it"
    if block is not None and block.code not in _LEFT_TO_UPSTREAM:
        excluded: Exclusion | None = Exclusion(model.id, block.code, block.reason, block.rest)
    else:
        excluded = broken_limit(facts, world, settings, model)
    if excluded is not None:
        return Plan((), (excluded,), strategy, f"{model.id}: {excluded.reason}")
    row = world.index.rows[model.id]
    prompt = context_needed(facts) and facts.prompt_tokens  # a list of texts is bounded by the longest of them
    if model.local and not facts.tokens_only and prompt > _FAR_TOO_LONG * world.index.context[row]:
        window = int(world.index.context[row])
        error = ContextLengthExceeded(model=model.id, limit=window, requested=facts.prompt_tokens)
        error.add_advice()
        raise error
    expected = world.estimator.expect(row, facts, world.pool, world.now, world.queued_ahead)
    candidate = Candidate(model, 1.0, *expected, failure_domain=world.index.domains[row], reason=named)
    return Plan((candidate,), (), strategy, f"{model.id}: {named}", considered=(candidate,))


def _check_capabilities(facts: Facts, world: World, model: Model) -> None:
    if facts.tokens_only and model.tokenizes:
        return
    needs = {facts.capability, *facts.intent.require}
    if model.origin != "discovered":
        needs |= facts.features & _CHECKED_FEATURES
    lacks = needs - model.capabilities
    if not lacks:
        return
    if facts.tokens_only:
        having = [
            f"'{other.id}'"
            for other in world.index.models
            if other.tokenizes and other.id not in world.blocked and permits(facts.allowed, other.id)
        ]
        advice = f"These have: {', '.join(having[:_MAX_LISTED])}." if having else "No model here has."
        raise CapabilityMismatch(f"The model '{model.id}' has no tokenizer here. {advice}", param="model")
    capable = [name for name in world.index.names_capable(needs) if permits(facts.allowed, name)]
    ready = [name for name in capable if name not in world.blocked]
    listed = ", ".join(f"'{name}'" for name in ready[:_MAX_LISTED])
    more = " and others" if len(ready) > _MAX_LISTED else ""
    advice = f"These can: {listed}{more}." if ready else "No model that is ready here can."
    if capable and not ready:
        advice += f" '{capable[0]}' could, but: {world.blocked[capable[0]].reason}"
    elif not capable and Capability.CLONE in lacks:
        advice += " One that speaks with voices of recordings: roundhouse pull pocket-tts (extra clone)."
    error = CapabilityMismatch(
        f"The model '{model.id}' cannot do this request: it lacks {', '.join(sorted(lacks))}. {advice}",
        param="model",
    )
    error.lacks = frozenset(lacks)
    raise error


def _plan_replicas(
    facts: Facts, world: World, settings: RoutingSettings, rng: np.random.Generator, replicas: Sequence[Model]
) -> Plan:
    """The replicas of one name, scored as under ``auto``, other failure domains first among the fallbacks.

    Embeddings are pinned to the first choice, because replicas of one name need not share a vector space.
    """
    index = world.index
    ids = frozenset(model.id for model in replicas)
    in_group = np.zeros(len(index), dtype=bool)
    in_group[[index.rows[name] for name in ids]] = True
    needed = facts
    if all(model.origin == "discovered" for model in replicas):
        needed = replace(facts, features=facts.features - _CHECKED_FEATURES)
    filtered = admit(needed, world, settings, cost_bound(facts, world, named=True))
    rows = np.flatnonzero(filtered.admitted & in_group)
    excluded: Lazy[Exclusion] = Lazy(
        len(ids) - len(rows), lambda: [e for e in filtered.exclusions(world) if e.model in ids]
    )
    if len(rows):
        scores = score(facts, world, settings, rng, comparable(facts, world, settings, rows), replicas=True)
        return rank(facts, world, settings, scores, excluded, strategy=Strategy.EXPLICIT)
    if not (index.capable((facts.capability, *needed.features, *facts.intent.require)) & in_group).any():
        _check_capabilities(facts, world, replicas[0])
    left_to_upstream = np.flatnonzero(filtered.admitted_but_for(_LEFT_TO_UPSTREAM) & in_group)
    if len(left_to_upstream):
        return _plan_single(facts, world, settings, index.models[left_to_upstream[0]], Strategy.EXPLICIT)
    return Plan((), excluded, Strategy.EXPLICIT, f"'{facts.requested}': {excluded[0].reason}")
