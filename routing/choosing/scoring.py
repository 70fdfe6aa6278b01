"""Scores the models that can answer: quality, less penalties for seconds and dollars, plus preferences.

The weights are those of the caller's mode. Exploration is a form of Thompson sampling (1933): randomised upper
confidence bounds with coupled draws (Vaswani et al., 2020). Each request draws one optimism, and every model's
quality is taken that far above its mean. With a draw per model, some inferior model would win every few requests
for ever; a shared draw explores a model only where its upper bound exceeds that of the best. Replicas of one name
have a draw each: any of them is good enough, and each must be tried now and then.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from catalog.index import Bools, Floats, Ints
from catalog.model import Capability
from routing.choosing.affinity import Savings, savings
from routing.choosing.filters import HEARS, SPEECH
from routing.choosing.world import World
from routing.facts import Facts, Mode, Workload
from routing.settings import RoutingSettings, Weights

_TIER = 10.0
"""Added by a preference that is an order and not a weight: more than any difference of other scores."""
_TOY = 1.5 * _TIER
"""Deducted from a toy: more than a preference of a kind adds, less than that of one model by its name."""
_FREE = 1e-6
"""Dollars of a call that count as nothing."""
_RELIABLE = 0.99
"""Expected share of answered attempts from which a replica needs no retrial."""


class Scores(NamedTuple):
    """Scores of the m admitted rows of the index, ``rows``. Arrays have shape (m,).

    ``expected`` is the score at the mean quality; ``final`` is what the order follows: at the sampled quality, or
    at a lower bound of it under high stakes. ``latency`` and ``cost`` are without what caches save, ``saved``.
    """

    rows: Ints
    mean: Floats
    latency: Floats
    cost: Floats
    expected: Floats
    final: Floats
    saved: Savings | None = None


def score(
    facts: Facts,
    world: World,
    settings: RoutingSettings,
    rng: np.random.Generator,
    rows: Ints,
    *,
    replicas: bool = False,
) -> Scores:
    """The scores of these rows; ``replicas``: all of them are replicas of one name."""
    estimator = world.estimator
    weights = _weights(facts, settings)
    all_rows = len(rows) == len(world.index)
    means, strengths = estimator.quality(facts.task, facts.complexity)
    latencies, costs = estimator.latency(facts, world.pool, world.now, world.queued_ahead), estimator.cost(facts)
    # A copy in either case: the plan's figures must not change with the next outcome.
    mean = means.copy() if all_rows else means[rows]
    latency = latencies if all_rows else latencies[rows]
    cost = costs if all_rows else costs[rows]

    saved = savings(facts, world, settings.affinity, rows) if len(rows) > 1 else None
    able = _able(facts, world, settings, rng, rows, mean) if _counts_cents(facts) else None
    base = _penalties(latency, cost, able, weights, facts, world, settings, saved)
    np.negative(base, out=base)
    _add_preferences(base, facts, world, settings, rng, rows, mean, explore=saved is None)
    if saved is not None and saved.latest is not None:
        base[saved.latest] += settings.affinity.stay
    reliability = estimator.reliability(world.wall)
    weight: Floats | float = weights.quality
    if reliability is not None:
        reliability = reliability[rows]
        weight = weights.quality * reliability
    # Replicas are one model: in mid-conversation, differences of what was observed of each are noise.
    expected = weight * (mean.max() if replicas and saved is not None else mean) + base

    final = expected
    if facts.intent.high_stakes:
        # A lower bound: one standard deviation of the Beta posterior below the mean.
        strength = strengths if all_rows else strengths[rows]
        final = expected - weight * np.sqrt(mean * (1 - mean) / (strength + 1))
    elif (
        facts.capability is not Capability.EMBED
        and saved is None
        and (replicas or _explores(facts, settings, rng))
    ):
        bonuses = estimator.exploration_bonus(facts.task, facts.complexity)
        bonus = bonuses if all_rows else bonuses[rows]
        final = _sample(expected, mean, bonus, weight, settings, rng, independent=replicas)
        if replicas and reliability is not None:
            _retry_failed(final, reliability, settings, rng)
    return Scores(rows, mean, latency, cost, expected, final, saved)


def _weights(facts: Facts, settings: RoutingSettings) -> Weights:
    return settings.stakes if facts.intent.high_stakes else settings.weights[_mode(facts)]


def _mode(facts: Facts) -> Mode:
    """The mode that a request is weighed in: its own, or that of its preference."""
    intent = facts.intent
    if intent.mode in (Mode.AUTO, Mode.LOCAL):
        if intent.prefer_quality:
            return Mode.BEST
        if intent.prefer_fast:
            return Mode.FAST
    return intent.mode


# ---- exploration


def _explores(facts: Facts, settings: RoutingSettings, rng: np.random.Generator) -> bool:
    """Whether a request may try a model that is only perhaps the best: one for the best model seldom does."""
    return _mode(facts) is not Mode.BEST or rng.random() < settings.best_explores


def _sample(
    expected: Floats,
    mean: Floats,
    bonus: Floats,
    weight: Floats | float,
    settings: RoutingSettings,
    rng: np.random.Generator,
    *,
    independent: bool,
) -> Floats:
    """Scores with each quality raised by ``optimism`` times its exploration bonus, but never above 1.

    ``spread`` varies the optimism at random: by one draw for all rows, or with ``independent`` one draw per row.
    """
    rules = settings.learning
    optimism = rules.optimism * rng.uniform(1 - rules.spread, 1 + rules.spread, len(mean) if independent else None)
    sampled: Floats = expected + weight * np.minimum(optimism * bonus, 1 - mean)
    return sampled


def _retry_failed(final: Floats, reliability: Floats, settings: RoutingSettings, rng: np.random.Generator) -> None:
    """For a share of requests (``retrial``), put a replica that failed lately first within its preference tier.

    Only an attempt can show that it has recovered.
    """
    if rng.random() >= settings.learning.retrial:
        return
    failed = np.flatnonzero((reliability < _RELIABLE) & (final > final.max() - _TIER / 2))
    if len(failed):
        final[rng.choice(failed)] += _TIER / 2


# ---- penalties


def _penalties(
    latency: Floats,
    cost: Floats,
    able: Bools | None,
    weights: Weights,
    facts: Facts,
    world: World,
    settings: RoutingSettings,
    saved: Savings | None,
) -> Floats:
    """The penalties of each row for its seconds and dollars, a new array of shape (m,).

    ``able``: costs are relative to that of the cheapest of these rows.
    """
    interactive = facts.intent.workload is Workload.INTERACTIVE
    scale = settings.latency_scale * (1.0 if interactive else settings.batch_latency_factor)
    seconds = _noticeable(latency, facts, world, settings)
    if saved is not None:
        seconds, cost = np.maximum(seconds - saved.seconds, 0.0), np.maximum(cost - saved.dollars, 0.0)
    penalties = _penalty(seconds, scale, weights.latency)
    if able is not None:
        penalties += _relative_cost_penalty(cost, able, weights.cost)
    elif weights.cost:
        penalties += _cost_penalty(cost, settings.cost_scale, weights.cost)
    return penalties


def _counts_cents(facts: Facts) -> bool:
    return facts.intent.mode is Mode.CHEAP and not facts.intent.high_stakes


def _able(
    facts: Facts,
    world: World,
    settings: RoutingSettings,
    rng: np.random.Generator,
    rows: Ints,
    mean: Floats,
) -> Bools:
    """The rows that count as able to do the request, shape (m,).

    Where outcomes of the task are reported, a row counts as able also at an optimistic quality, so that a cheap
    model which is better at it than expected is found. Without reports nothing would be learned from a try.
    """
    if world.estimator.observations(facts.task)[rows].max(initial=0.0) < 1.0:
        return mean >= settings.able
    bonus = world.estimator.exploration_bonus(facts.task, facts.complexity)[rows]
    rules = settings.learning
    optimism = rules.optimism * rng.uniform(1 - rules.spread, 1 + rules.spread)
    able: Bools = mean + optimism * bonus >= settings.able
    return able


def _noticeable(latency: Floats, facts: Facts, world: World, settings: RoutingSettings) -> Floats:
    """Latencies in which those within ``unnoticed`` seconds of the fastest are equal.

    Each call updates the measured speed of its model. Between models of equal quality, differences of
    milliseconds would otherwise move the choice to and fro. Callers who prefer speed get the exact latencies.
    """
    if facts.intent.mode is Mode.FAST or facts.intent.prefer_fast or not len(latency):
        return latency
    slack = settings.unnoticed + settings.unnoticed_per_token * world.estimator.output_tokens(facts)
    noticeable: Floats = np.maximum(latency, latency.min() + slack)
    return noticeable


def _penalty(amount: Floats, scale: float, weight: float) -> Floats:
    """``weight`` times ``amount / scale``: linear up to 1, then flattening towards 2.

    The bound keeps one very slow row from hiding the differences between the others.
    """
    if amount.max(initial=0.0) <= scale:
        return amount * (weight / scale)
    ratio = amount / scale
    return weight * np.where(ratio <= 1.0, ratio, 2.0 - 1.0 / np.maximum(ratio, 1.0))


def _cost_penalty(cost: Floats, scale: float, weight: float) -> Floats:
    """Like :func:`_penalty`; an unknown cost (NaN) counts as the highest, so that it never wins by cost."""
    if cost.max(initial=0.0) <= scale:
        return cost * (weight / scale)  # an unknown price would make the maximum NaN
    unknown = np.isnan(cost)
    if not unknown.any():
        return _penalty(cost, scale, weight)
    known = _penalty(cost[~unknown], scale, weight)
    penalty = np.full(cost.shape, max(weight, float(known.max(initial=0.0))))
    penalty[~unknown] = known
    return penalty


def _relative_cost_penalty(cost: Floats, able: Bools, weight: float) -> Floats:
    """``weight`` times the share of a cost that the cheapest able model would save; unknown costs count as
    highest.

    Differences in the scale of the settings vanish between calls of a hundredth of a cent, of which a bulk job
    makes a million.
    """
    known = np.where(np.isnan(cost), np.inf, cost)
    candidates = known[able] if able.any() else known
    cheapest = max(float(candidates.min(initial=np.inf)), _FREE)
    if cheapest == np.inf:
        return np.full(cost.shape, weight)
    return weight * (1 - np.minimum(cheapest / np.maximum(known, _FREE), 1.0))


# ---- preferences


def _add_preferences(
    base: Floats,
    facts: Facts,
    world: World,
    settings: RoutingSettings,
    rng: np.random.Generator,
    rows: Ints,
    mean: Floats,
    *,
    explore: bool,
) -> None:
    """Add the caller's and the settings' preferences, and the rules of toys and of a cold start, to ``base``.

    ``explore``: the share of requests that skips the rule may include this one.
    """
    index, intent = world.index, facts.intent
    if intent.prefer_local and not intent.high_stakes:
        base += settings.local_bonus * index.private[rows]
    if facts.capability in SPEECH:
        if settings.speech.prefer_local:
            base += _TIER * index.private[rows]
        for place, name in enumerate(settings.speech.preferred):
            base += 10 * _TIER / (place + 1) * (rows == _row_of(world, name))
        if facts.capability in HEARS and not facts.languages:
            # A model of one language writes its words for any other's. It stays before a remote model, though.
            base -= _TIER / 2 * index.one_language[rows]
    elif facts.capability in settings.preferred and intent.mode is Mode.AUTO and not intent.high_stakes:
        base += 2 * _TIER * (rows == _row_of(world, settings.preferred[facts.capability]))
    base -= _TOY * index.toys[rows]
    always = intent.high_stakes or not explore
    if _distrusts(facts, settings) and (always or rng.random() >= settings.cold_start.explore):
        unproven = _unproven(facts, world, settings, rows, mean)
        if unproven is not None:
            base -= _TIER * unproven


def _row_of(world: World, name: str) -> int:
    row = world.index.row_of(name)
    return -1 if row is None else row


def _distrusts(facts: Facts, settings: RoutingSettings) -> bool:
    """Whether the cold-start rule applies to a request."""
    if facts.capability is not Capability.CHAT:
        return False
    if facts.intent.high_stakes or facts.task in settings.cold_start.always:
        return True
    return facts.task in settings.cold_start.interactive and facts.intent.workload is Workload.INTERACTIVE


def _unproven(facts: Facts, world: World, settings: RoutingSettings, rows: Ints, mean: Floats) -> Bools | None:
    """Rows that come after the others, shape (m,): without enough good observations of the task, and private
    beside a trusted remote one, or small under high stakes. ``None`` where that holds for none or for all.
    """
    cold = settings.cold_start
    index = world.index
    trusted = index.trusted(cold.trusted)[rows]
    doubted: Bools = index.private[rows] & ~trusted if trusted.any() else np.zeros(len(rows), dtype=bool)
    if facts.intent.high_stakes:
        doubted |= index.small[rows]
    if not doubted.any():
        return None
    observed = world.estimator.observations(facts.task)[rows]
    unproven: Bools = doubted & ((observed < cold.observations) | (mean < cold.floor))
    return None if unproven.all() else unproven
