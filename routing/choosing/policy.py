"""The routing policy: filter, score, rank. A pure function of facts, world, settings and a random generator.

A model asked for by name, or by the name of several replicas, is handled in :mod:`routing.choosing.named`. Under
``auto`` every model of the catalogue is filtered (:mod:`routing.choosing.filters`), the rest are scored
(:mod:`routing.choosing.scoring`) and ranked into a plan (:mod:`routing.choosing.ranking`).
"""

from __future__ import annotations

import numpy as np

from routing.choosing.effort import effort_of
from routing.choosing.filters import Filtered, admit, admitted_rows, check_exclusions, cost_bound
from routing.choosing.named import plan_named, plan_pinned
from routing.choosing.ranking import choice_of, comparable, describe, rank
from routing.choosing.scoring import score
from routing.choosing.world import World
from routing.facts import Facts
from routing.plan import Candidate, Exclusion, Lazy, Plan, Strategy
from routing.reading.intent import is_auto
from routing.settings import RoutingSettings


def plan(facts: Facts, world: World, settings: RoutingSettings, rng: np.random.Generator) -> Plan:
    """The candidates for a request in the order to try them.

    Raises ModelNotFound for an unknown name, CapabilityMismatch for a named model that cannot do what is asked,
    NotPermitted for one that the caller's key may not use, InvalidRequest for an unknown exclusion. Raises
    ValueError when the estimator is not aligned with the index.
    """
    if world.estimator.index is not world.index:
        raise ValueError("The estimator is not aligned with this index; call estimator.align(index) first.")
    if facts.intent.exclude:
        check_exclusions(facts, world)
    if not is_auto(facts.requested):
        return plan_named(facts, world, settings, rng)
    return plan_pinned(facts, world, settings) or _plan_auto(facts, world, settings, rng)


def _plan_auto(facts: Facts, world: World, settings: RoutingSettings, rng: np.random.Generator) -> Plan:
    bound = cost_bound(facts, world)
    rows = admitted_rows(facts, world, settings, bound)
    excluded: Lazy[Exclusion] = Lazy(
        len(world.index) - len(rows), lambda: admit(facts, world, settings, bound).exclusions(world)
    )
    if not len(rows):
        filtered = admit(facts, world, settings, bound)
        return Plan((), excluded, Strategy.SCHEMA, _why_empty(facts, filtered))
    rows = comparable(facts, world, settings, rows)
    if len(rows) == 1:
        return _plan_only(facts, world, settings, rows.item(0), excluded)
    return rank(facts, world, settings, score(facts, world, settings, rng, rows), excluded)


def _plan_only(facts: Facts, world: World, settings: RoutingSettings, row: int, excluded: Lazy[Exclusion]) -> Plan:
    """The plan for the only model that can answer. It needs no scores, which saves most of the time."""
    expected = world.estimator.expect(row, facts, world.pool, world.now, world.queued_ahead)
    observed = world.estimator.observations(facts.task).item(row)
    strategy, pin = choice_of(facts, world, settings, row, observed)
    text = describe(facts, world, row, expected, strategy, observed)
    reason = f"{text}; 1 could answer, {len(excluded)} could not"
    model = world.index.models[row]
    candidate = Candidate(
        model, 1.0, *expected, world.index.domains[row], reason, effort_of(facts, model, settings)
    )
    return Plan((candidate,), excluded, strategy, reason, considered=(candidate,), pin=pin)


def _why_empty(facts: Facts, filtered: Filtered) -> str:
    counts = {rule.code: int((~rule.passing).sum()) for rule in filtered.rules}
    broken = ", ".join(f"{code} ({count})" for code, count in counts.items() if count)
    return (
        f"no model can answer this {facts.capability.value} request: excluded by {broken or 'an empty catalogue'}"
    )
