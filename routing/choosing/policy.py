"""Which model answers: filter, score, choose. A pure function of facts, world, settings and a generator.

The score of a model is what its quality is worth less what its seconds and dollars cost, in the weights of
the caller's mode. Choosing is a sparing kind of Thompson sampling (1933), randomised upper confidence with
coupled draws (Vaswani et al., 2020): a request draws one height, and every model's quality is taken at that
height of its posterior. Drawing each model by itself makes some lucky underdog win every few requests, for
ever; a shared draw tries a model only where what it may be worth exceeds what the best is known to be worth.
Replicas of one name are drawn each by itself: an underdog among them costs nothing, and must not be forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from catalog.errors import CapabilityMismatch, NotPermitted
from catalog.index import Bools, Floats, Ints, permits
from catalog.model import Capability, Model
from routing.beliefs.estimator import Expectation
from routing.choosing.filters import Filtered, admit, admitted_rows
from routing.choosing.world import World
from routing.facts import Facts, Mode, Workload
from routing.plan import Candidate, Exclusion, Lazy, Plan, Strategy
from routing.settings import RoutingSettings, Weights

_SPEECH = frozenset({Capability.SPEAK, Capability.TRANSCRIBE, Capability.TRANSLATE})
_TIER = 10.0
"""More than any difference of scores: what a preference that is an order, not a weight, adds."""
_RELIED_ON = 0.99
"""A replica expected to answer this share of attempts needs no retrial."""
_NEED_NAMED = frozenset({Capability.VISION, Capability.AUDIO_INPUT, Capability.TOOLS, Capability.JSON_SCHEMA})
_UPSTREAM_TELLS = frozenset({"context", "memory"})
"""Rules whose breach the model's own server tells a caller who named it better than an empty plan could."""
_LISTED = 5


def is_auto(requested: str) -> bool:
    """Whether the router chooses: ``auto`` or ``auto:<mode>``, in any case."""
    name = requested.casefold()
    return name == "auto" or name.startswith("auto:")


def plan(facts: Facts, world: World, settings: RoutingSettings, rng: np.random.Generator) -> Plan:
    """The candidates for a request in the order to try them.

    Raises ModelNotFound for a name that no model has, CapabilityMismatch for a named model that cannot do
    what is asked, NotPermitted for one that the caller's key may not use. Raises ValueError when the
    estimator is not aligned with the index.
    """
    if world.estimator.index is not world.index:
        raise ValueError("The estimator is not aligned with this index; call estimator.align(index) first.")
    if not is_auto(facts.requested):
        replicas = world.index.replicas(facts.requested)
        if len(replicas) == 1:
            return _single(facts, world, replicas[0], Strategy.EXPLICIT)
        return _pin(facts, world, settings) or _group(facts, world, settings, rng, replicas)
    return _pin(facts, world, settings) or _choose(facts, world, settings, rng)


# ---- one model, by name


def _single(facts: Facts, world: World, model: Model, strategy: Strategy) -> Plan:
    if not permits(facts.allowed, model.id):
        raise NotPermitted(f"This key may not use the model '{model.id}'.")
    _check_can(facts, world, model)
    block = world.blocked.get(model.id)
    named = "asked for by name" if strategy is Strategy.EXPLICIT else f"'{facts.requested}' is pinned to it"
    if block is not None:
        return Plan((), (Exclusion(model.id, block.code, block.reason),), strategy, f"{model.id}: {block.reason}")
    row = world.index.rows[model.id]
    expected = world.estimator.expect(row, facts, world.pool, world.now, world.queued_ahead)
    candidate = Candidate(model, 1.0, *expected, failure_domain=world.index.domains[row], reason=named)
    return Plan((candidate,), (), strategy, f"{model.id}: {named}", considered=(candidate,))


def _pin(facts: Facts, world: World, settings: RoutingSettings) -> Plan | None:
    """The plan for an alias of embeddings that stands for one model already."""
    pinned = world.pins.get(facts.requested.casefold()) if facts.capability is Capability.EMBED else None
    return None if pinned is None else _pinned(facts, world, settings, world.index.resolve(pinned))


def _pinned(facts: Facts, world: World, settings: RoutingSettings, model: Model) -> Plan:
    """The alias's one vector space, or nothing: a caller's limits may forbid it, but never replace it."""
    filtered = admit(facts, world, settings, _bound(facts, world))
    if filtered.admitted[world.index.rows[model.id]]:
        return _single(facts, world, model, Strategy.PINNED)
    broken = [exclusion for exclusion in filtered.exclusions(world) if exclusion.model == model.id]
    return Plan((), broken, Strategy.PINNED, f"'{facts.requested}' is pinned to {model.id}: {broken[0].reason}")


def _check_can(facts: Facts, world: World, model: Model) -> None:
    needs = {facts.capability, *facts.intent.require}
    if model.origin != "discovered":
        needs |= facts.features & _NEED_NAMED
    lacks = needs - model.capabilities
    if not lacks:
        return
    can = world.index.names_capable(needs)
    others = ", ".join(f"'{name}'" for name in can[:_LISTED])
    advice = f"These can: {others}{' and others' if len(can) > _LISTED else ''}." if can else "No model here can."
    raise CapabilityMismatch(
        f"The model '{model.id}' cannot do this request: it lacks {', '.join(sorted(lacks))}. {advice}",
        param="model",
    )


# ---- one name, several replicas


def _group(
    facts: Facts, world: World, settings: RoutingSettings, rng: np.random.Generator, replicas: Sequence[Model]
) -> Plan:
    """The replicas of one name, scored among themselves as under ``auto``, other failure domains first.

    It is a choice, so the caller's limits hold, unlike for a single model that is honoured as it is. Embeddings
    are pinned to the one chosen first: that two replicas share a vector space is more than their name promises.
    """
    index = world.index
    ids = frozenset(model.id for model in replicas)
    mask = np.zeros(len(index), dtype=bool)
    mask[[index.rows[name] for name in ids]] = True
    needs = facts
    if all(model.origin == "discovered" for model in replicas):
        needs = replace(facts, features=facts.features - _NEED_NAMED)
    filtered = admit(needs, world, settings, _bound(facts, world))
    rows = np.flatnonzero(filtered.admitted & mask)
    excluded: Lazy[Exclusion] = Lazy(
        len(ids) - len(rows), lambda: [e for e in filtered.exclusions(world) if e.model in ids]
    )
    if len(rows):
        scores = _score(facts, world, settings, rng, rows, alike=True)
        return _plan(facts, world, settings, scores, excluded, strategy=Strategy.EXPLICIT)
    if not (index.capable((facts.capability, *needs.features, *facts.intent.require)) & mask).any():
        _check_can(facts, world, replicas[0])
    told_better = np.flatnonzero(filtered.admitted_but_for(_UPSTREAM_TELLS) & mask)
    if len(told_better):
        return _single(facts, world, index.models[told_better[0]], Strategy.EXPLICIT)
    return Plan((), excluded, Strategy.EXPLICIT, f"'{facts.requested}': {excluded[0].reason}")


# ---- the router's choice


class Scores(NamedTuple):
    """What the choice is made of. Arrays of shape (m,), ``rows`` being the m admitted rows of the index."""

    rows: Ints
    mean: Floats
    strength: Floats
    latency: Floats
    cost: Floats
    rest: Floats
    weight: Floats | float
    expected: Floats
    drawn: Floats
    weights: Weights


def _choose(facts: Facts, world: World, settings: RoutingSettings, rng: np.random.Generator) -> Plan:
    bound = _bound(facts, world)
    rows = admitted_rows(facts, world, settings, bound)
    excluded: Lazy[Exclusion] = Lazy(
        len(world.index) - len(rows), lambda: admit(facts, world, settings, bound).exclusions(world)
    )
    if not len(rows):
        return Plan((), excluded, Strategy.SCHEMA, _nothing(facts, admit(facts, world, settings, bound)))
    if len(rows) == 1:
        return _only(facts, world, settings, rows.item(0), excluded)
    scores = _score(facts, world, settings, rng, rows)
    return _plan(facts, world, settings, scores, excluded)


def _only(facts: Facts, world: World, settings: RoutingSettings, row: int, excluded: Lazy[Exclusion]) -> Plan:
    """The one model that can answer: nothing is weighed, so it costs little, and its score is 1."""
    expected = world.estimator.expect(row, facts, world.pool, world.now, world.queued_ahead)
    seen = world.estimator.observations(facts.task).item(row)
    strategy, pin = _strategy(facts, world, settings, row, seen)
    reason = f"{_expected(facts, world, row, expected, strategy, seen)}; 1 could answer, {len(excluded)} could not"
    candidate = Candidate(
        world.index.models[row], 1.0, *expected, failure_domain=world.index.domains[row], reason=reason
    )
    return Plan((candidate,), excluded, strategy, reason, considered=(candidate,), pin=pin)


def _bound(facts: Facts, world: World) -> Floats | None:
    """The most that each row may cost, shape (n,), when somebody limits it."""
    if facts.intent.max_cost is None and world.headroom is None:
        return None
    most = None if facts.output_tokens is None else float(facts.output_tokens)
    return world.estimator.cost(facts, output=most)


def _score(
    facts: Facts,
    world: World,
    settings: RoutingSettings,
    rng: np.random.Generator,
    rows: Ints,
    *,
    alike: bool = False,
) -> Scores:
    """The scores of these rows; ``alike`` says that they are replicas of one name."""
    estimator, intent = world.estimator, facts.intent
    weights = _weights(facts, settings)
    every = len(rows) == len(world.index)
    means, strengths = estimator.quality(facts.task, facts.complexity)
    latencies, costs = estimator.latency(facts, world.pool, world.now, world.queued_ahead), estimator.cost(facts)
    # A copy in either case: what the plan shows later must not change with the next outcome.
    mean = means.copy() if every else means[rows]
    strength = strengths if every else strengths[rows]
    latency = latencies if every else latencies[rows]
    cost = costs if every else costs[rows]

    waits = intent.workload is Workload.INTERACTIVE
    scale = settings.latency_scale * (1.0 if waits else settings.patience)
    rest = _penalty(_felt(latency, facts, world, settings), scale, weights.latency)
    if weights.cost:
        rest += _cost_penalty(cost, settings.cost_scale, weights.cost)
    np.negative(rest, out=rest)
    _prefer(rest, facts, world, settings, rng, rows, mean)
    reliability = estimator.reliability(world.wall)
    weight: Floats | float = weights.quality
    if reliability is not None:
        weight = weights.quality * reliability[rows]

    expected = weight * mean + rest
    drawn = expected
    if not intent.high_stakes and facts.capability is not Capability.EMBED:
        doubt = estimator.doubt(facts.task, facts.complexity)
        drawn = _draw(expected, mean, doubt if every else doubt[rows], weight, settings, rng, apart=alike)
        if alike and reliability is not None and rng.random() < settings.learning.retrial:
            # Only an attempt can tell that what failed has healed; preferences that are an order still hold.
            doubted = np.flatnonzero((reliability[rows] < _RELIED_ON) & (drawn > drawn.max() - _TIER / 2))
            if len(doubted):
                drawn[rng.choice(doubted)] += _TIER / 2
    elif intent.high_stakes:
        # What can be relied on: one standard deviation below what is expected.
        drawn = expected - weight * np.sqrt(mean * (1 - mean) / (strength + 1))
    return Scores(rows, mean, strength, latency, cost, rest, weight, expected, drawn, weights)


def _draw(
    expected: Floats,
    mean: Floats,
    doubt: Floats,
    weight: Floats | float,
    settings: RoutingSettings,
    rng: np.random.Generator,
    *,
    apart: bool,
) -> Floats:
    """Scores with each quality at one and the same drawn height of its posterior, never above certainty.

    The height above the mean is ``optimism`` times the doubt, varied by the draw: high where little is known,
    fading as strength grows. ``apart``, every row has a draw of its own.
    """
    rules = settings.learning
    height = rules.optimism * rng.uniform(1 - rules.spread, 1 + rules.spread, len(mean) if apart else None)
    drawn: Floats = expected + weight * np.minimum(height * doubt, 1 - mean)
    return drawn


def _weights(facts: Facts, settings: RoutingSettings) -> Weights:
    intent = facts.intent
    if intent.high_stakes:
        return settings.stakes
    mode = intent.mode
    if mode in (Mode.AUTO, Mode.LOCAL):
        if intent.prefer_quality:
            mode = Mode.BEST
        elif intent.prefer_fast:
            mode = Mode.FAST
    return settings.weights[mode]


def _felt(latency: Floats, facts: Facts, world: World, settings: RoutingSettings) -> Floats:
    """Latencies, of which those that nobody could tell from the fastest are alike.

    Else whatever is called teaches its own speed, and between models that are as good as each other a few
    milliseconds would move the choice to and fro, of every task. Not for a caller who wants speed.
    """
    if facts.intent.mode is Mode.FAST or facts.intent.prefer_fast or not len(latency):
        return latency
    slack = settings.unnoticed + settings.unnoticed_per_token * world.estimator.output_tokens(facts)
    felt: Floats = np.maximum(latency, latency.min() + slack)
    return felt


def _penalty(amount: Floats, scale: float, weight: float) -> Floats:
    """``weight`` times the amount in units of ``scale``: proportional up to 1, then ever flatter towards 2.

    So one slow row does not hide the differences of others.
    """
    if amount.max(initial=0.0) <= scale:
        return amount * (weight / scale)
    ratio = amount / scale
    return weight * np.where(ratio <= 1.0, ratio, 2.0 - 1.0 / np.maximum(ratio, 1.0))


def _cost_penalty(cost: Floats, scale: float, weight: float) -> Floats:
    """Like :func:`_penalty`; an unknown price counts as the highest, so that it never wins by cost."""
    if cost.max(initial=0.0) <= scale:
        return cost * (weight / scale)  # an unknown price would make the maximum NaN
    unknown = np.isnan(cost)
    if not unknown.any():
        return _penalty(cost, scale, weight)
    known = _penalty(cost[~unknown], scale, weight)
    penalty = np.full(cost.shape, max(weight, float(known.max(initial=0.0))))
    penalty[~unknown] = known
    return penalty


def _prefer(
    rest: Floats,
    facts: Facts,
    world: World,
    settings: RoutingSettings,
    rng: np.random.Generator,
    rows: Ints,
    mean: Floats,
) -> None:
    """Add to ``rest`` what is an order of preference: the settings', the caller's, and cold start."""
    index, intent = world.index, facts.intent
    if intent.prefer_local and not intent.high_stakes:
        rest += settings.local_bonus * index.private[rows]
    if facts.capability in _SPEECH:
        if settings.speech.prefer_local:
            rest += _TIER * index.private[rows]
        for place, name in enumerate(settings.speech.preferred):
            rest += 10 * _TIER / (place + 1) * (rows == _row(world, name))
    elif facts.capability in settings.preferred and intent.mode is Mode.AUTO and not intent.high_stakes:
        rest += 2 * _TIER * (rows == _row(world, settings.preferred[facts.capability]))
    if _quality_first(facts, settings) and (intent.high_stakes or rng.random() >= settings.cold_start.explore):
        unproven = _unproven(facts, world, settings, rows, mean)
        if unproven is not None:
            rest -= _TIER * unproven


def _row(world: World, name: str) -> int:
    row = world.index.row_of(name)
    return -1 if row is None else row


def _quality_first(facts: Facts, settings: RoutingSettings) -> bool:
    if facts.capability is not Capability.CHAT:
        return False
    if facts.intent.high_stakes or facts.task in settings.cold_start.always:
        return True
    return facts.task in settings.cold_start.interactive and facts.intent.workload is Workload.INTERACTIVE


def _unproven(facts: Facts, world: World, settings: RoutingSettings, rows: Ints, mean: Floats) -> Bools | None:
    """Local rows that have yet to prove themselves, shape (m,); ``None`` when no trusted remote is there."""
    cold = settings.cold_start
    index = world.index
    trusted = index.trusted(cold.trusted)[rows]
    if not trusted.any():
        return None
    observed = world.estimator.observations(facts.task)[rows]
    unproven: Bools = index.local[rows] & ((observed < cold.observations) | (mean < cold.floor))
    return unproven


# ---- from scores to a plan


def _plan(
    facts: Facts,
    world: World,
    settings: RoutingSettings,
    scores: Scores,
    excluded: Lazy[Exclusion],
    *,
    strategy: Strategy | None = None,
) -> Plan:
    order = _order(scores.drawn, settings.candidates * 3)
    first = order.item(0)
    row = scores.rows.item(first)
    seen = world.estimator.observations(facts.task).item(row)
    pin = None
    if strategy is None:
        explores = scores.drawn is not scores.expected and scores.expected.item(first) < scores.expected.max()
        strategy, pin = _strategy(facts, world, settings, row, seen, explores=bool(explores))
    elif facts.capability is Capability.EMBED:
        strategy, pin = Strategy.PINNED, facts.requested.casefold()
    # Another model of embeddings is another vector space: there is no falling back.
    chosen = [first] if pin is not None else _diverse(world, scores, order, settings)
    reason = _reason(facts, world, scores, order, strategy, seen, len(excluded))
    return Plan(
        candidates=tuple(_candidates(world, scores, np.array(chosen), reason)),
        excluded=excluded,
        strategy=strategy,
        reason=reason,
        considered=Lazy(
            len(scores.rows),
            lambda: _candidates(world, scores, _order(scores.drawn, len(scores.rows)), reason),
        ),
        pin=pin,
    )


def _strategy(
    facts: Facts, world: World, settings: RoutingSettings, row: int, seen: float, *, explores: bool = False
) -> tuple[Strategy, str | None]:
    """How the router came to choose this row, and the alias that is pinned by it from now on."""
    if facts.capability is Capability.EMBED:
        return Strategy.PINNED, facts.requested.casefold()
    if world.index.models[row].id == settings.preferred.get(facts.capability):
        return Strategy.PREFERRED, None
    if explores:
        return Strategy.EXPLORATION, None
    return (Strategy.PROFILE if seen > 0 else Strategy.SCHEMA), None


def _order(scores: Floats, limit: int) -> Ints:
    """Positions of the highest scores, the highest first."""
    if len(scores) <= limit:
        return np.argsort(-scores, kind="stable")
    places: Ints = np.argpartition(scores, -limit)[-limit:]
    return places[np.argsort(-scores[places], kind="stable")]


def _diverse(world: World, scores: Scores, order: Ints, settings: RoutingSettings) -> list[int]:
    """The choice, then fallbacks: by score, less for each candidate before in the same failure domain."""
    domains = world.index.domains
    drawn, rows = scores.drawn[order].tolist(), scores.rows[order].tolist()
    left = [(at, score, domains[row]) for at, score, row in zip(order.tolist(), drawn, rows, strict=True)]
    chosen: list[int] = []
    used: dict[str, int] = {}
    while left and len(chosen) < settings.candidates:
        place, best = 0, -math.inf
        for i, (_, score, domain) in enumerate(left):
            if score <= best:
                break  # they are in order: no later one can be better
            less = score - settings.diversity * used.get(domain, 0)
            if less > best:
                place, best = i, less
        at, _, domain = left.pop(place)
        chosen.append(at)
        used[domain] = used.get(domain, 0) + 1
    return chosen


def _candidates(world: World, scores: Scores, chosen: Ints, reason: str) -> list[Candidate]:
    """Candidates of these positions; ``reason`` is of the first, the others have none of their own."""
    models, domains = world.index.models, world.index.domains
    numbers = (scores.rows, scores.drawn, scores.mean, scores.latency, scores.cost)
    made = []
    for row, score, quality, latency, cost in zip(*(column[chosen].tolist() for column in numbers), strict=True):
        known = None if math.isnan(cost) else cost
        made.append(Candidate(models[row], score, quality, latency, known, domains[row], reason))
        reason = ""
    return made


def _expectation(scores: Scores, at: int) -> Expectation:
    cost = scores.cost.item(at)
    return Expectation(scores.mean.item(at), scores.latency.item(at), None if math.isnan(cost) else cost)


_HOW = {
    Strategy.EXPLICIT: "a replica of the model asked for by name",
    Strategy.SCHEMA: "by its catalogue row, nothing observed yet",
    Strategy.PROFILE: "by what was observed",
    Strategy.EXPLORATION: "tried because it may be better than the best known",
    Strategy.PREFERRED: "preferred by the settings",
    Strategy.PINNED: "from now on the one vector space of this alias",
}


def _reason(
    facts: Facts, world: World, scores: Scores, order: Ints, strategy: Strategy, seen: float, excluded: int
) -> str:
    at = order.item(0)
    text = _expected(facts, world, scores.rows.item(at), _expectation(scores, at), strategy, seen)
    if len(order) > 1:
        second = order.item(1)
        name = world.index.models[scores.rows.item(second)].id
        text += f"; ahead of {name} by {scores.drawn.item(at) - scores.drawn.item(second):.3f}"
    return f"{text}; {len(scores.rows)} could answer, {excluded} could not"


def _expected(facts: Facts, world: World, row: int, expected: Expectation, strategy: Strategy, seen: float) -> str:
    """Which model, for what, why, and what is expected of it."""
    quality, latency, cost = expected
    price = "price unknown" if cost is None else "free" if cost == 0 else f"${cost:.6f}"
    return (
        f"{world.index.models[row].id} for {facts.task.value} ({facts.complexity.value}), "
        f"mode {facts.intent.mode.value}: {_HOW[strategy]}; expected quality {quality:.2f} "
        f"({seen:.0f} observations), {latency:.2f} s, {price}"
    )


def _nothing(facts: Facts, filtered: Filtered) -> str:
    tally = {rule.code: int((~rule.passing).sum()) for rule in filtered.rules}
    most = ", ".join(f"{code} ({count})" for code, count in tally.items() if count)
    return f"no model can answer this {facts.capability.value} request: excluded by {most or 'an empty catalogue'}"
