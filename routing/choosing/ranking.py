"""Turns scores into a plan: the choice, its fallbacks, and the reasons in words."""

from __future__ import annotations

import math

import numpy as np

from catalog.index import Floats, Ints
from catalog.model import Capability
from routing.beliefs.expectations import Expectation
from routing.choosing.affinity import Savings
from routing.choosing.effort import effort_of
from routing.choosing.filters import GENERATES
from routing.choosing.pins import may_pin, pin_of
from routing.choosing.scoring import Scores
from routing.choosing.world import World
from routing.facts import Facts
from routing.plan import Candidate, Exclusion, Lazy, Plan, Strategy
from routing.settings import RoutingSettings

_STRATEGY_TEXTS = {
    Strategy.EXPLICIT: "a replica of the model asked for by name",
    Strategy.SCHEMA: "by its prior, nothing observed yet",
    Strategy.PROFILE: "by what was observed",
    Strategy.EXPLORATION: "tried because it may be better than the best known",
    Strategy.PREFERRED: "preferred by the settings",
    Strategy.PINNED: "from now on the one vector space of this name",
}
_UNABLE = 4.0
"""Deducted from a fallback that is not able: more than any difference of scores within a tier of preferences."""
_SEEN = 0.005
"""Distance of two qualities that can be seen with two digits."""


def rank(
    facts: Facts,
    world: World,
    settings: RoutingSettings,
    scores: Scores,
    excluded: Lazy[Exclusion],
    *,
    strategy: Strategy | None = None,
) -> Plan:
    """The plan of the best scores; without ``strategy`` it follows from the choice (:func:`choice_of`)."""
    order = _order(scores.final, settings.candidates * 3)
    first = order.item(0)
    row = scores.rows.item(first)
    observed = world.estimator.observations(facts.task).item(row)
    pin = None
    if strategy is None:
        explores = scores.final is not scores.expected and scores.expected.item(first) < scores.expected.max()
        strategy, pin = choice_of(facts, world, settings, row, observed, explores=bool(explores))
    elif (pin := pin_of(facts, world)) is not None:
        strategy = Strategy.PINNED
    # Another embedding model is another vector space, so a pin has no fallback.
    chosen = [first] if pin is not None else _with_fallbacks(facts, world, scores, order, settings)
    reason = _reason(facts, world, scores, order, strategy, observed, len(excluded))
    return Plan(
        candidates=tuple(_candidates(facts, world, settings, scores, np.array(chosen), reason)),
        excluded=excluded,
        strategy=strategy,
        reason=reason,
        considered=Lazy(
            len(scores.rows),
            lambda: _candidates(facts, world, settings, scores, _order(scores.final, len(scores.rows)), reason),
        ),
        pin=pin,
    )


def comparable(facts: Facts, world: World, settings: RoutingSettings, rows: Ints) -> Ints:
    """The rows to choose from: all, or the first alone for an embedding request that makes no common pin.

    Vectors of two models do not compare, so there the catalogue's order decides, which does not change
    from one call to the next as scores do. A chat model moderates only where no model made for it can. For
    classification see :func:`_classifiers`.
    """
    if facts.capability is Capability.CLASSIFY:
        return _classifiers(facts, world, settings, rows)
    if facts.capability is Capability.MODERATE:
        made_for_it = rows[~world.index.capable((Capability.CHAT,))[rows]]
        return made_for_it if len(made_for_it) else rows
    return rows[:1] if facts.capability is Capability.EMBED and not may_pin(facts, world) else rows


def _classifiers(facts: Facts, world: World, settings: RoutingSettings, rows: Ints) -> Ints:
    """The rows that classify best by their kind.

    An embedding model classifies by similarity, which is blind to negation: "not positive at all" resembles
    "positive". A chat model classifies by the likelihood of each label as its answer. It takes the place of
    similarity where its quality is above ``classify_floor`` one standard deviation below its mean, which a guess
    from its size is not; else it leaves classification to similarity.
    """
    index = world.index
    chats, embeds = index.capable((Capability.CHAT,))[rows], index.capable((Capability.EMBED,))[rows]
    if not chats.any() or not embeds.any():
        return rows
    means, strengths = (each[rows] for each in world.estimator.quality(facts.task, facts.complexity))
    proven = chats & (means - np.sqrt(means * (1 - means) / (strengths + 1)) >= settings.classify_floor)
    kept: Ints = rows[proven | ~(chats | embeds)] if proven.any() else rows[~chats]
    return kept


def choice_of(
    facts: Facts, world: World, settings: RoutingSettings, row: int, observed: float, *, explores: bool = False
) -> tuple[Strategy, str | None]:
    """The strategy by which the router chose this row, and the alias to pin to it, if any."""
    if (pin := pin_of(facts, world)) is not None:
        return Strategy.PINNED, pin
    if world.index.models[row].id == settings.preferred.get(facts.capability):
        return Strategy.PREFERRED, None
    if explores:
        return Strategy.EXPLORATION, None
    known = observed > 0 or world.estimator.hints(facts.task).item(row) > 0
    return (Strategy.PROFILE if known else Strategy.SCHEMA), None


def _order(scores: Floats, limit: int) -> Ints:
    """Positions of the ``limit`` highest scores, the highest first."""
    if len(scores) <= limit:
        return np.argsort(-scores, kind="stable")
    highest: Ints = np.argpartition(scores, -limit)[-limit:]
    return highest[np.argsort(-scores[highest], kind="stable")]


def _with_fallbacks(
    facts: Facts, world: World, scores: Scores, order: Ints, settings: RoutingSettings
) -> list[int]:
    """Positions of the choice and its fallbacks; each loses ``diversity`` per earlier one of the same domain.

    A fallback of a quality below ``able`` comes after all that are able, also those of the same domain: an outage
    makes no model good enough that was not chosen.
    """
    domains = world.index.domains
    rows = scores.rows[order].tolist()
    final, mean = scores.final[order].tolist(), scores.mean[order].tolist()
    least = settings.able if facts.capability in GENERATES else 0.0
    left = [
        (at, score, domains[row], quality < least)
        for at, score, row, quality in zip(order.tolist(), final, rows, mean, strict=True)
    ]
    chosen: list[int] = []
    used: dict[str, int] = {}
    while left and len(chosen) < settings.candidates:
        best_place, best = 0, -math.inf
        for place, (_, score, domain, unable) in enumerate(left):
            if score <= best:
                break  # the list is sorted: no later one can be better
            reduced = score - settings.diversity * used.get(domain, 0) - (_UNABLE if unable and chosen else 0.0)
            if reduced > best:
                best_place, best = place, reduced
        at, _, domain, _ = left.pop(best_place)
        chosen.append(at)
        used[domain] = used.get(domain, 0) + 1
    return chosen


def _candidates(
    facts: Facts, world: World, settings: RoutingSettings, scores: Scores, chosen: Ints, reason: str
) -> list[Candidate]:
    """The candidates at these positions; ``reason`` belongs to the first, the others have none."""
    models, domains = world.index.models, world.index.domains
    columns = (scores.rows, scores.final, scores.mean, scores.latency, scores.cost)
    candidates = []
    for row, score, quality, latency, cost in zip(*(column[chosen].tolist() for column in columns), strict=True):
        known = None if math.isnan(cost) else cost
        effort = effort_of(facts, models[row], settings)
        candidates.append(Candidate(models[row], score, quality, latency, known, domains[row], reason, effort))
        reason = ""
    return candidates


# ---- reasons


def _reason(
    facts: Facts, world: World, scores: Scores, order: Ints, strategy: Strategy, observed: float, excluded: int
) -> str:
    first = order.item(0)
    cost = scores.cost.item(first)
    expected = Expectation(scores.mean.item(first), scores.latency.item(first), None if math.isnan(cost) else cost)
    text = describe(facts, world, scores.rows.item(first), expected, strategy, observed)
    if scores.saved is not None:
        text += _staying(scores.saved, first)
    if len(order) > 1:
        second = order.item(1)
        name = world.index.models[scores.rows.item(second)].id
        text += f"; ahead of {name} by {scores.final.item(first) - scores.final.item(second):.3f}"
    return f"{text}; {len(scores.rows)} could answer, {excluded} could not"


def _staying(saved: Savings, first: int) -> str:
    """The saving by caches of the conversation's beginning for the choice at this position, in words."""
    tokens, seconds, dollars = (part.item(first) for part in (saved.tokens, saved.seconds, saved.dollars))
    price = f" and ${dollars:.6f}" if dollars else ""
    if first == saved.latest:
        return (
            f"; answered this conversation's last turn {saved.age:.0f} s ago and holds about {tokens:.0f} tokens "
            f"of it, which saves {seconds:.2f} s{price}"
        )
    return "; worth more than the prompt in the cache of the model of this conversation's last turn"


def describe(
    facts: Facts, world: World, row: int, expected: Expectation, strategy: Strategy, observed: float
) -> str:
    """The choice in words: which model, for which task, by which strategy, and what is expected of it."""
    quality, latency, cost = expected
    price = "price unknown" if cost is None else "free" if cost == 0 else f"${cost:.6f}"
    return (
        f"{world.index.models[row].id} for {facts.task.value} ({facts.complexity.value}), "
        f"mode {facts.intent.mode.value}: {_STRATEGY_TEXTS[strategy]}; expected quality {quality:.2f} "
        f"({_evidence(facts, world, row, quality, observed)}), {latency:.2f} s, {price}"
    )


def _evidence(facts: Facts, world: World, row: int, quality: float, observed: float) -> str:
    """The evidence of a quality in words: reports, signs in answers, and the prior that they moved.

    What was observed of other tasks moves it, too.
    """
    signs = world.estimator.hints(facts.task).item(row)
    prior = world.estimator.prior_quality(row, facts.task)
    text = f"{observed:.0f} observations"
    if signs > 0:
        text += f", signs in its answers worth {signs:.1f} more"
    return text if abs(quality - prior) < _SEEN else f"{text}, {prior:.2f} before any"
