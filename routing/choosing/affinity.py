"""The worth of staying: seconds and dollars of prefill that a model's cache saves in mid-conversation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from backends.workers.pool import WorkerState
from catalog.index import Floats, Ints
from catalog.model import Model
from routing.beliefs.prefixes import Held
from routing.choosing.world import World
from routing.facts import Facts
from routing.settings import Affinity

LEAST_BILLED = 1024
"""Tokens of prompt from which providers keep it in a cache (prompt caching guides of OpenAI and Anthropic)."""


@dataclass(frozen=True, slots=True)
class Savings:
    """The part of a request that caches save, by admitted row; arrays have shape (m,).

    ``tokens`` of the prompt are expected in the cache; they save ``seconds`` and ``dollars``. ``latest`` is the
    position of the model that answered the last turn, if it still holds it, and ``age`` the seconds since then.
    """

    tokens: Floats
    seconds: Floats
    dollars: Floats
    latest: int | None = None
    age: float = 0.0


def savings(facts: Facts, world: World, settings: Affinity, rows: Ints) -> Savings | None:
    """The savings of a conversation's next turn; None for a request that goes on from no known prompt."""
    if facts.prefix is None or world.prefixes is None:
        return None
    held = world.prefixes.held(facts)
    if not held:
        return None
    place = {row: position for position, row in enumerate(rows.tolist())}
    saved, seconds, dollars = np.zeros((3, len(rows)))
    latest, age, any_held = None, 0.0, False
    for name, part in held.items():
        position = place.get(world.index.rows.get(name, -1))
        if position is None or not _may_hold(name, part, world):
            continue
        model, row = world.index.models[rows[position]], rows.item(position)
        passed = max(0.0, world.now - part.at)
        tokens = facts.prompt_tokens * part.share * part.kept
        tokens *= math.exp(-passed / (settings.local if model.local else settings.remote))
        saved[position] = tokens
        seconds[position] = world.estimator.prefill_seconds(row, facts, tokens)
        dollars[position] = _dollars(model, facts, tokens)
        any_held = True
        if part.latest:
            latest, age = position, passed
    return Savings(saved, seconds, dollars, latest, age) if any_held else None


def _may_hold(name: str, part: Held, world: World) -> bool:
    """Whether a cache can still exist: a worker's ends with its process."""
    model = world.index.models[world.index.rows[name]]
    if not model.local:
        return True
    ready: Mapping[str, float | None] = {
        worker.model: worker.started_at for worker in world.pool.models if worker.state is WorkerState.READY
    }
    return name in ready and (ready[name] or 0.0) <= part.at


def _dollars(model: Model, facts: Facts, tokens: float) -> float:
    if facts.prompt_tokens < LEAST_BILLED:
        return 0.0
    rates, _ = model.price.rates.of(facts.tiers, facts.prompt_tokens)
    if rates.input is None or rates.cache_read is None:
        return 0.0
    return max(0.0, float(rates.input - rates.cache_read) * tokens * 1e-9)
