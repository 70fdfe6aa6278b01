"""Expected seconds and dollars of a call, for one row or for all rows at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from backends.workers.pool import WorkerState, WorkerView
from catalog.index import Index
from catalog.model import UNITS, Capability
from routing.beliefs.columns import Columns
from routing.beliefs.speed import size_class
from routing.facts import Facts

_DECODES = frozenset({Capability.CHAT, Capability.COMPLETION})
_UNIT_SECONDS = {
    Capability.TRANSCRIBE: 10.0,
    Capability.DIARIZE: 3.0,
    Capability.TRANSLATE: 10.0,
    Capability.SPEAK: 0.01,
    Capability.IMAGE: 10.0,
    Capability.VIDEO: 60.0,
}
_MIN_LOAD_SECONDS = 0.2
"""The least that a worker still takes to load, however long it has been loading."""

Rows = int | slice
"""One row, or ``slice(None)`` for all of them: both are computed by the same expressions."""


class Expectation(NamedTuple):
    """Expectation for one model: quality in [0, 1], seconds to the whole answer, dollars (``None``: unknown)."""

    quality: float
    latency: float
    cost: float | None


def decodes(facts: Facts) -> bool:
    """Whether the answer is decoded token by token."""
    return facts.capability in _DECODES and not facts.tokens_only


def catalogue_first_seconds(index: Index, row: int, facts: Facts, cached: float = 0.0) -> float:
    """Seconds to the first token of a loaded, idle model that has a share of the prompt in its cache.

    By the catalogue's figures.
    """
    return index.base_seconds.item(row) + facts.prompt_tokens * (1 - cached) / index.prefill.item(row)


def unit_seconds(facts: Facts) -> float:
    """Seconds for the units of a request whose answer is not decoded, before any was observed."""
    return 0.0 if facts.capability in _DECODES else facts.units * _UNIT_SECONDS.get(facts.capability, 0.0)


def service_seconds(columns: Columns, facts: Facts, output_tokens: float, rows: Rows) -> Any:
    """Seconds from the start of service to the whole answer: a new array of shape (n,), or one row's number."""
    size = size_class(facts.prompt_tokens)
    seconds = columns.fixed_seconds[size, rows] + facts.prompt_tokens * columns.prompt_seconds[size, rows]
    if output_tokens:
        seconds += output_tokens * columns.token_seconds[size, rows]
    elif unit := _UNIT_SECONDS.get(facts.capability):
        seconds += facts.units * unit * columns.first_ratio[size, rows]
    return seconds


def wait_seconds(worker: WorkerView, load_seconds: float, busy_seconds: float, now: float) -> float:
    """Seconds until a worker can start a new call: the rest of its load, or its queue.

    ``load_seconds`` is used unless the worker reports its own; ``busy_seconds`` is the mean time a call takes a
    slot.
    """
    load = load_seconds if worker.load_seconds is None else worker.load_seconds
    if worker.state is WorkerState.READY:
        queued = worker.queued - worker.queued_batch
        ahead = max(0, worker.busy + queued + 1 - worker.slots) / max(1, worker.slots)
        return ahead * busy_seconds
    if worker.state is WorkerState.STARTING and worker.started_at is not None:
        return max(_MIN_LOAD_SECONDS, load - (now - worker.started_at))
    return load


def dollars(index: Index, facts: Facts, output_tokens: float, rows: Rows) -> Any:
    """Cost of a call, NaN when a needed price is unknown: a new array of shape (n,), or one row's number."""
    prices = index.prices
    unit = UNITS.get(facts.capability)
    if facts.capability is Capability.IMAGE:
        return _picture_dollars(index, facts, rows)
    if unit is not None and facts.capability is not Capability.RERANK:
        return prices[unit.field][rows] * (facts.units / unit.per)
    input_price, output_price = index.token_prices(facts.prompt_tokens, facts.tiers)
    cost = input_price[rows] * (facts.prompt_tokens * 1e-6)
    if output_tokens:
        cost = cost + output_price[rows] * (output_tokens * facts.choices * 1e-6)
    if unit is not None:
        per_search = prices[unit.field][rows] * (facts.units / unit.per)
        cost = np.where(np.isnan(per_search), cost, per_search)
    return cost


def _picture_dollars(index: Index, facts: Facts, rows: Rows) -> Any:
    each = index.prices["image"][rows]
    drawn = index.prices["image_output"][rows] * (index.picture_tokens(*facts.picture)[rows] * 1e-6)
    text = np.nan_to_num(index.prices["input"][rows]) * (facts.prompt_tokens * 1e-6)
    return np.where(np.isnan(each), drawn * facts.units + text, each * facts.units)
