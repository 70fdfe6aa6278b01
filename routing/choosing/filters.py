"""The rules that exclude models from a request, with the reasons of the exclusions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from catalog.errors import InvalidRequest, PriceUnknown
from catalog.index import LAST_DAYS, Bools, Floats, Index, Ints
from catalog.model import Capability, Model
from routing.accounts.costs import longest_prompt
from routing.beliefs.estimator import Estimator
from routing.choosing.world import World
from routing.facts import Facts, Intent, Mode
from routing.plan import OVER_BUDGET, Exclusion
from routing.settings import RoutingSettings

SPEECH = frozenset(
    {Capability.SPEAK, Capability.TRANSCRIBE, Capability.TRANSLATE, Capability.DIARIZE, Capability.REALTIME}
)
"""Capabilities to which the speech policy applies."""
HEARS = frozenset({Capability.TRANSCRIBE, Capability.TRANSLATE})
"""Capabilities whose input is speech in some language."""
GENERATES = frozenset({Capability.CHAT, Capability.COMPLETION})
"""Capabilities whose answers are text, as long as the model likes or a bound says."""
_LIMITS = frozenset({"privacy", "tags", "speech_policy", "excluded", "cost", PriceUnknown.code})
"""Codes of the rules that hold for a model asked for by name, too. Caps are left to the reservation, which says
when they end."""
SPOKEN = "spoken"
"""The tag of a chat model whose server refuses chats without sound on either side."""
_RESERVED_OUTPUT = 256
"""Tokens of answer that must fit in the context window when the caller set no bound."""


class Filter(NamedTuple):
    """One rule: the rows that pass, shape (n,), and the reason for a row that does not."""

    code: str
    passing: Bools
    reason: Callable[[int], str]


def broken_limit(facts: Facts, world: World, settings: RoutingSettings, model: Model) -> Exclusion | None:
    """The caller's limit (on privacy, tags, exclusions, cost) that one model does not keep, if there is one."""
    intent, bound = facts.intent, cost_bound(facts, world, named=True)
    speech = _has_sound(facts) and not settings.speech.allow_remote
    limited = intent.local_only or intent.mode is Mode.LOCAL or intent.tags or intent.exclude or speech
    row = world.index.rows[model.id]
    if not limited and (bound is None or bound[row] <= _cost_limit(facts, world)):
        return None
    rules = admit(facts, world, settings, bound).rules
    broken = next((rule for rule in rules if rule.code in _LIMITS and not rule.passing[row]), None)
    return None if broken is None else Exclusion(model.id, broken.code, broken.reason(row))


def check_exclusions(facts: Facts, world: World) -> None:
    """Raises InvalidRequest for an excluded name that means no model, endpoint or provider."""
    for name in sorted(facts.intent.exclude):
        if world.index.meant(name) is None:
            raise InvalidRequest(
                f"'routing.exclude': there is no model, endpoint or provider '{name[:100]}'. GET /v1/models lists "
                "the models with their ids, aliases and endpoints.",
                param="routing.exclude",
            )


class Filtered(NamedTuple):
    """The result of all rules. ``admitted`` is their conjunction, shape (n,)."""

    admitted: Bools
    rules: tuple[Filter, ...]

    def admitted_but_for(self, codes: frozenset[str]) -> Bools:
        """Rows, shape (n,), that pass every rule except those of these codes."""
        admitted = np.ones_like(self.admitted)
        for rule in self.rules:
            if rule.code not in codes:
                admitted &= rule.passing
        return admitted

    def exclusions(self, world: World) -> list[Exclusion]:
        """Each excluded row with the first rule that it fails."""
        index = world.index
        found: list[Exclusion] = []
        for row in np.flatnonzero(~self.admitted):
            rule = next(rule for rule in self.rules if not rule.passing[row])
            code, reason, rest = rule.code, rule.reason(int(row)), None
            if code == "blocked":
                block = world.blocked[index.models[row].id]
                code, rest = block.code, block.rest
            found.append(Exclusion(index.models[row].id, code, reason, rest))
        return found


def admitted_rows(facts: Facts, world: World, settings: RoutingSettings, bound: Floats | None) -> Ints:
    """The rows that pass every rule. Read-only.

    Except for the bound on cost, the result is cached in the index by what the rules depend on. Requests with tags
    or exclusions are never cached: caller-supplied names are unbounded.
    """
    index, intent = world.index, facts.intent
    if intent.tags or intent.exclude:
        return np.flatnonzero(admit(facts, world, settings, bound).admitted)
    rows = _cached_rows(facts, world, settings, index, intent)
    if narrow := _narrow(facts, world):
        rows = rows[~np.isin(rows, list(narrow))]
    if bound is None:
        return rows
    limit = _cost_limit(facts, world)
    costs = bound[rows]
    affordable: Ints = rows[(costs <= limit) if _price_needed(facts, world) else ~(costs > limit)]  # NaN: unknown
    return affordable


def _cached_rows(facts: Facts, world: World, settings: RoutingSettings, index: Index, intent: Intent) -> Ints:
    cache_key = (
        facts.capability,
        facts.features,
        intent.require,
        index.too_small(context_needed(facts)),
        index.too_short(_answer(facts)),
        facts.allowed,
        intent.local_only or intent.mode is Mode.LOCAL,
        settings.speech.allow_remote,
        tuple([(device.id, device.budget) for device in world.pool.devices]),
        index.retired(world.wall),
        _spoken(facts),
        facts.tokens_only,
        facts.languages & index.listed_languages,
        facts.languages <= index.listed_languages,
    )
    cache = index.admitted(world.blocked)
    rows = cache.get(cache_key)
    if rows is None:
        rows = cache[cache_key] = np.flatnonzero(admit(facts, world, settings, None).admitted)
    return rows


def cost_bound(facts: Facts, world: World, *, named: bool = False) -> Floats | None:
    """The most each row may cost in dollars, shape (n,); ``None`` without a limit on cost.

    NaN when unknown, infinite for an answer that cannot be bounded. Without the caller's bound of the answer it is
    the expected cost, for a model asked for by name that of one token: the attempt bounds the answer by
    ``max_cost`` (:mod:`routing.calling.bounds`).
    """
    if facts.intent.max_cost is None and world.headroom is None:
        return None
    most = None if facts.output_tokens is None else float(facts.output_tokens)
    if most is None and named and facts.capability in GENERATES:
        most = 1.0
    if facts.intent.max_cost is None:
        return world.estimator.cost(facts, output=most)
    return most_dollars(facts, world.estimator, most)


def most_dollars(facts: Facts, estimator: Estimator, output: float | None) -> Floats:
    """The most each row may cost in dollars for an answer of ``output`` tokens (``None``: the usual length),
    shape (n,); see :func:`cost_bound`.
    """
    with_margin = replace(facts, prompt_tokens=longest_prompt(facts.prompt_tokens))
    cost = estimator.cost(with_margin, output=output)
    if facts.capability in GENERATES:
        endless = estimator.index.endless
        cost[endless] = np.where(cost[endless] > 0, np.inf, cost[endless])
    return cost


def context_needed(facts: Facts) -> int:
    """Tokens that the context window must hold; 0 for capabilities without one."""
    if facts.capability not in GENERATES:
        return 0
    if facts.tokens_only:
        return facts.prompt_tokens
    return facts.prompt_tokens + (_RESERVED_OUTPUT if facts.output_tokens is None else facts.output_tokens)


def _narrow(facts: Facts, world: World) -> dict[int, int]:
    """The context window by row of loaded models that hold less than the request needs.

    A worker may be loaded with a smaller context than its row says.
    """
    size, index = context_needed(facts), world.index
    return {
        row: view.context
        for view in world.pool.workers
        if view.context is not None and view.context < size and (row := index.rows.get(view.model)) is not None
    }


def _answer(facts: Facts) -> int | None:
    """The most tokens that the request lets a choice have; ``None`` if it says nothing."""
    return facts.output_tokens if facts.capability in GENERATES and not facts.tokens_only else None


def admit(facts: Facts, world: World, settings: RoutingSettings, bound: Floats | None) -> Filtered:
    """Apply every rule that concerns this request.

    ``bound`` is :func:`cost_bound`.
    """
    index, intent = world.index, facts.intent
    needs = (facts.capability, *facts.features, *intent.require)
    rules = [Filter("capability", index.capable(needs), lambda row: _missing_capabilities(facts, world, row))]
    size, narrow = context_needed(facts), _narrow(facts, world)
    if narrow or index.too_small(size):
        wide = index.context >= size
        wide[list(narrow)] = False
        rules.append(Filter("context", wide, lambda row: _too_narrow(size, narrow.get(row, index.context[row]))))
    if index.too_short(answer := _answer(facts)):
        rules.append(
            Filter(
                "max_tokens",
                index.longest >= (answer or 0),
                lambda row: f"the request asks for {answer} tokens, and it gives {index.longest[row]:.0f} at most",
            )
        )
    if facts.allowed:
        rules.append(Filter("key", index.allowed(facts.allowed), lambda _: "the caller's key may not use it"))
    if intent.local_only or intent.mode is Mode.LOCAL:
        rules.append(Filter("privacy", index.private, lambda _: "it is remote, and the request must stay local"))
    rules += [Filter("tags", index.tagged(tag), _lacks_tag(tag)) for tag in sorted(intent.tags)]
    if _has_sound(facts) and not settings.speech.allow_remote:
        rules.append(Filter("speech_policy", index.private, lambda _: "the speech policy keeps speech local"))
    if facts.languages and facts.capability in HEARS:
        rules.append(
            Filter("language", index.knowing(facts.languages), lambda row: _other_languages(facts, index, row))
        )
    if intent.exclude:
        rules.append(Filter("excluded", _not_excluded(facts, world), lambda _: "the caller excluded it"))
    if world.blocked:
        rules.append(
            Filter("blocked", _not_blocked(world), lambda row: world.blocked[index.models[row].id].reason)
        )
    rules += _of_auto(facts, world)
    if bound is not None:
        rules += _budget(facts, world, bound)
    if world.pool.devices:
        fits = _fits(world)
        rules.append(Filter("memory", fits, lambda row: _too_large(world, row)))

    admitted = rules[0].passing
    for rule in rules[1:]:
        admitted = admitted & rule.passing
    return Filtered(admitted, tuple(rules))


def _too_narrow(size: int, window: float) -> str:
    return f"the request needs {size} tokens, the context window holds {window:.0f}"


def _of_auto(facts: Facts, world: World) -> list[Filter]:
    """The rules that keep ``auto`` from models which a caller may still name."""
    index = world.index
    rules: list[Filter] = []
    if facts.tokens_only:
        rules.append(Filter("tokenizer", index.tokenizing, lambda _: "it has no tokenizer here"))
    if facts.capability is Capability.CHAT and not _spoken(facts) and (heard := index.tagged(SPOKEN)).any():
        rules.append(Filter(SPOKEN, ~heard, lambda _: "it answers only chats with sound"))
    if world.wall is not None and index.retired(world.wall):
        rules.append(Filter("ends", index.retires > world.wall, lambda row: _ends(index, row)))
    return rules


def _has_sound(facts: Facts) -> bool:
    """Whether the speech policy applies to a request: a chat with sound in it is speech, too."""
    return facts.capability in SPEECH or Capability.AUDIO_INPUT in facts.features


def _spoken(facts: Facts) -> bool:
    return Capability.AUDIO_INPUT in facts.features or "audio" in facts.parameters


def _ends(index: Index, row: int) -> str:
    return f"it ends on {index.models[row].ends}, and auto leaves it {LAST_DAYS} days before"


def _missing_capabilities(facts: Facts, world: World, row: int) -> str:
    has = world.index.models[row].capabilities
    lacks = sorted({facts.capability, *facts.features, *facts.intent.require} - has)
    return f"it cannot do: {', '.join(lacks)}"


def _other_languages(facts: Facts, index: Index, row: int) -> str:
    lacks = sorted(facts.languages - set(index.models[row].languages))
    return f"it does not know the language {', '.join(lacks)[:100]}"


def _lacks_tag(tag: str) -> Callable[[int], str]:
    return lambda _: f"it lacks the tag '{tag}'"


def _not_excluded(facts: Facts, world: World) -> Bools:
    passing: Bools = np.ones(len(world.index), dtype=bool)
    for name in facts.intent.exclude:
        passing[list(world.index.meant(name) or ())] = False
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
    limit = _cost_limit(facts, world)
    code = "cost" if limit == facts.intent.max_cost else OVER_BUDGET
    over = Filter(code, ~(bound > limit), lambda row: _too_dear(facts, bound[row], limit))
    if not _price_needed(facts, world):
        return [over]
    return [Filter(PriceUnknown.code, ~np.isnan(bound), lambda _: PriceUnknown.reason), over]


def _too_dear(facts: Facts, most: float, limit: float) -> str:
    if math.isinf(most):
        return f"it does not take max_tokens, so its answer cannot be held to the ${limit:.6f} allowed"
    told = f"it may cost ${most:.6f}, more than the ${limit:.6f} allowed"
    if facts.output_tokens is None and facts.capability in GENERATES:
        told += "; a bound on the answer (max_tokens) makes it less"
    return told


def _price_needed(facts: Facts, world: World) -> bool:
    """Whether the limit on cost excludes models of unknown price. There must be a limit."""
    return facts.intent.max_cost is not None or not world.unknown_price_allowed


def _cost_limit(facts: Facts, world: World) -> float:
    """The lowest limit in dollars on this request. There must be one."""
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
