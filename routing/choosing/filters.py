"""The first phase: which rows can answer at all, and why the others cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from catalog.index import Bools, Floats, Index, Ints
from catalog.model import Capability
from routing.choosing.world import World
from routing.facts import Facts, Intent, Mode
from routing.plan import Exclusion
from routing.settings import RoutingSettings

_SPEECH = frozenset({Capability.SPEAK, Capability.TRANSCRIBE, Capability.TRANSLATE})
_RESERVED_OUTPUT = 256
"""Tokens of answer that must fit beside the prompt when the caller set no bound."""


class Filter(NamedTuple):
    """One rule: the rows that pass, shape (n,), and what to say about one that does not."""

    code: str
    passing: Bools
    reason: Callable[[int], str]


class Filtered(NamedTuple):
    """What the rules left. ``admitted`` is their conjunction, shape (n,)."""

    admitted: Bools
    rules: tuple[Filter, ...]

    def admitted_but_for(self, codes: frozenset[str]) -> Bools:
        """Rows, shape (n,), that break none but the rules of these codes."""
        admitted = np.ones_like(self.admitted)
        for rule in self.rules:
            if rule.code not in codes:
                admitted &= rule.passing
        return admitted

    def exclusions(self, world: World) -> list[Exclusion]:
        """Each excluded row with the first rule that it broke."""
        index = world.index
        found: list[Exclusion] = []
        for row in np.flatnonzero(~self.admitted):
            rule = next(rule for rule in self.rules if not rule.passing[row])
            code, reason = rule.code, rule.reason(int(row))
            if code == "blocked":
                code = world.blocked[index.models[row].id].code
            found.append(Exclusion(index.models[row].id, code, reason))
        return found


def admitted_rows(facts: Facts, world: World, settings: RoutingSettings, bound: Floats | None) -> Ints:
    """The rows that pass every rule. Do not write.

    But for the bound on cost they depend on little: they are remembered for the next request that asks the same.
    Nothing is remembered by the names that a caller may send, which are as many and as long as it likes.
    """
    index, intent = world.index, facts.intent
    if intent.tags or intent.exclude:
        return np.flatnonzero(admit(facts, world, settings, bound).admitted)
    rows = _remembered_rows(facts, world, settings, index, intent)
    if bound is None:
        return rows
    affordable: Ints = rows[bound[rows] <= _limit(facts, world)]  # an unknown price is not
    return affordable


def _remembered_rows(facts: Facts, world: World, settings: RoutingSettings, index: Index, intent: Intent) -> Ints:
    asked = (
        facts.capability,
        facts.features,
        intent.require,
        index.too_small(_size(facts)),
        facts.allowed,
        intent.local_only or intent.mode is Mode.LOCAL,
        settings.speech.allow_remote,
        tuple([(device.id, device.budget) for device in world.pool.devices]),
    )
    kept = index.admitted(world.blocked)
    rows = kept.get(asked)
    if rows is None:
        rows = kept[asked] = np.flatnonzero(admit(facts, world, settings, None).admitted)
    return rows


def _size(facts: Facts) -> int:
    """Tokens that a context window must hold, 0 for what has none."""
    if facts.capability not in (Capability.CHAT, Capability.COMPLETION):
        return 0
    if facts.tokens_only:
        return facts.prompt_tokens
    return facts.prompt_tokens + (_RESERVED_OUTPUT if facts.output_tokens is None else facts.output_tokens)


def admit(facts: Facts, world: World, settings: RoutingSettings, bound: Floats | None) -> Filtered:
    """Apply every rule that this request calls for.

    ``bound`` is the most each row may cost in dollars, NaN when unknown; ``None`` when nobody set a limit.
    """
    index, intent = world.index, facts.intent
    needs = (facts.capability, *facts.features, *intent.require)
    rules = [Filter("capability", index.capable(needs), lambda row: _missing(facts, world, row))]
    size = _size(facts)
    if index.too_small(size):
        rules.append(
            Filter(
                "context",
                index.context >= size,
                lambda row: f"the request needs {size} tokens, the context window holds {index.context[row]:.0f}",
            )
        )
    if facts.allowed:
        rules.append(Filter("key", index.allowed(facts.allowed), lambda _: "the caller's key may not use it"))
    if intent.local_only or intent.mode is Mode.LOCAL:
        rules.append(Filter("privacy", index.private, lambda _: "it is remote, and the request must stay local"))
    rules += [Filter("tags", index.tagged(tag), _untagged(tag)) for tag in sorted(intent.tags)]
    if facts.capability in _SPEECH and not settings.speech.allow_remote:
        rules.append(Filter("speech_policy", index.private, lambda _: "the speech policy keeps speech local"))
    if intent.exclude:
        rules.append(Filter("excluded", _not_excluded(facts, world), lambda _: "the caller excluded it"))
    if world.blocked:
        rules.append(
            Filter("blocked", _not_blocked(world), lambda row: world.blocked[index.models[row].id].reason)
        )
    if bound is not None:
        rules += _budget(facts, world, bound)
    if world.pool.devices:
        fits = _fits(world)
        rules.append(Filter("memory", fits, lambda row: _too_large(world, row)))

    admitted = rules[0].passing
    for rule in rules[1:]:
        admitted = admitted & rule.passing
    return Filtered(admitted, tuple(rules))


def _missing(facts: Facts, world: World, row: int) -> str:
    has = world.index.models[row].capabilities
    lacks = sorted({facts.capability, *facts.features, *facts.intent.require} - has)
    return f"it cannot do: {', '.join(lacks)}"


def _untagged(tag: str) -> Callable[[int], str]:
    return lambda _: f"it lacks the tag '{tag}'"


def _not_excluded(facts: Facts, world: World) -> Bools:
    passing: Bools = np.ones(len(world.index), dtype=bool)
    for name in facts.intent.exclude:
        row = world.index.row_of(name)
        if row is not None:
            passing[row] = False
    return passing


def _not_blocked(world: World) -> Bools:
    passing: Bools = np.ones(len(world.index), dtype=bool)
    rows = world.index.rows
    for model in world.blocked:
        row = rows.get(model)
        if row is not None:
            passing[row] = False
    return passing


def _budget(facts: Facts, world: World, bound: Floats) -> list[Filter]:
    limit = _limit(facts, world)
    return [
        Filter("price_unknown", ~np.isnan(bound), lambda _: "its price is unknown, and a limit on cost applies"),
        Filter(
            "cost",
            ~(bound > limit),
            lambda row: f"it may cost ${bound[row]:.6f}, more than the ${limit:.6f} allowed",
        ),
    ]


def _limit(facts: Facts, world: World) -> float:
    """Dollars that this request may cost, where somebody limits it."""
    return min(limit for limit in (facts.intent.max_cost, world.headroom) if limit is not None)


def _fits(world: World) -> Bools:
    index, devices = world.index, world.pool.devices
    passing: Bools = index.memory <= max(device.budget for device in devices)
    budgets = {device.id: device.budget for device in devices}
    for row in index.pinned:
        budget = budgets.get(index.devices[row] or "", 0)
        passing[row] = index.memory[row] <= budget
    return passing


def _too_large(world: World, row: int) -> str:
    need = world.index.memory[row] / 2**20
    device = world.index.devices[row]
    if device is None:
        budget = max(d.budget for d in world.pool.devices) / 2**20
        return f"it needs {need:.0f} MiB, and the largest device gives {budget:.0f} MiB"
    return f"it needs {need:.0f} MiB on '{device}', which is absent or gives less"
