"""Priors of quality: what is believed of each row before any observation, how firmly, and why.

A row's general quality comes from the first of these that is known:

1. its own figures, ``benchmarks`` or ``published`` (:mod:`catalog.benchmarks` makes both comparable);
2. the figures of the same model at its maker, for a row of another server;
3. its size, as the row or its name tells, if it is a language model;
4. the figures of a row that it succeeds, and a little more: ``successor`` means better at the same work;
5. its price and its version, by a line through the measured rows of its provider: within one provider both rise
   with quality, across providers neither does;
6. a guess: 0.5 on own hardware, where small models are usual, else 0.7.

Each is worth a number of virtual observations, the fewer the less it says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from catalog.benchmarks import OVERALL, qualities
from catalog.discovery import undated
from catalog.index import Floats
from catalog.model import Capability, Model, UpstreamSource
from catalog.names.sizes import weights_of
from routing.beliefs.posterior import TASKS
from routing.settings import Learning

_STEP = 0.02
"""Quality by which a model is above what it succeeds, if nothing else is known. No figure is above ``_MOST``."""
_MOST = 0.92
_LEAST_BY_PRICE = 0.5
_FEWEST_PEERS = 4
"""Measured rows that a line by price and version needs: it has three coefficients."""
_UNKNOWN, _UNKNOWN_PRIVATE = 0.7, 0.5
_PER_DECADE, _RANGE_BY_PRICE = 0.1, 0.05
"""Quality per factor of ten in price, and at most, in a provider without measured rows."""
_VERSION = re.compile(r"(?<![0-9.])(\d{1,2})(?:[.-](\d)(?![0-9a-z]))?")
_TALKS = frozenset({Capability.CHAT, Capability.COMPLETION})


class Source(StrEnum):
    """Origin of a prior."""

    BENCHMARKS = "benchmarks"
    SAME_MODEL = "same_model"
    SUCCESSION = "succession"
    PRICE = "price"
    SIZE = "size"
    GUESS = "guess"
    FILE = "file"
    IMPORTED = "imported"


@dataclass(frozen=True, slots=True)
class Prior:
    """Mean per task, shape (tasks,), worth ``strength`` virtual observations; ``reason`` says why in words."""

    mean: Floats
    strength: float
    source: Source
    reason: str


@dataclass(frozen=True, slots=True)
class Given:
    """Qualities in [0, 1] of one model by task or ``overall``, given by an operator.

    They are used as they are, without regression to the mean.
    """

    scores: Mapping[str, float]
    strength: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class _General:
    quality: float
    strength: float
    source: Source
    reason: str


def priors_of(
    models: Sequence[Model],
    private: Iterable[bool],
    rules: Learning,
    given: Mapping[str, Given] | None = None,
) -> list[Prior]:
    """The priors of all rows of a catalogue; ``private``: the row runs on the user's own hardware.

    Benchmarks are noisy, so the best of many is likely too high and the worst too low. Only ``benchmark_trust`` of
    the distance from the mean of the rows of the same kind is kept: regression to the mean. Benchmarks of some
    tasks do not carry over to others: without a general figure the strength is that of the rule which gives one,
    and a row judged by its size is regressed to that, as it is no random one of its kind.
    """
    generals = _Generals(models, private, rules)
    kinds: dict[Capability, list[Floats]] = {}
    for model in models:
        if generals.of(model).source is Source.BENCHMARKS:
            kinds.setdefault(kind_of(model), []).append(_by_task(model, generals.of(model).quality))
    means = {kind: np.mean(rows, axis=0) for kind, rows in kinds.items()}
    found = []
    for model in models:
        general = generals.of(model)
        mean = np.full(len(TASKS), general.quality)
        if general.source in _COMPARED:
            mean = means.get(kind_of(model), mean)
        by_task = mean + rules.benchmark_trust * (_by_task(model, general.quality) - mean)
        prior = Prior(by_task, general.strength, general.source, general.reason)
        found.append(_with_given(prior, (given or {}).get(model.id), rules))
    return found


_COMPARED = frozenset({Source.BENCHMARKS, Source.SAME_MODEL, Source.SUCCESSION, Source.PRICE})
"""Sources that are figures or follow those of other rows, and are regressed to the mean."""


def _with_given(prior: Prior, given: Given | None, rules: Learning) -> Prior:
    if given is None:
        return prior
    mean = prior.mean.copy()
    if OVERALL in given.scores:
        mean[:] = given.scores[OVERALL]
    for place, task in enumerate(TASKS):
        mean[place] = given.scores.get(task.value, mean[place])
    certain = rules.prior_strength if OVERALL in given.scores else max(prior.strength, rules.guess_strength)
    return Prior(mean, given.strength or certain, Source.FILE, given.reason)


def kind_of(model: Model) -> Capability:
    """A model's main capability: benchmarks of chat and of embedding models have no common mean."""
    return next((kind for kind in Capability if kind in model.capabilities), Capability.CHAT)


def _figures(model: Model) -> dict[str, float]:
    """The row's qualities by task or ``overall``; benchmarks outside [0, 1], such as percentages, are ignored."""
    given = {name: score for name, score in model.benchmarks.items() if 0 <= score <= 1}
    return {**qualities(model.published), **given}


def _by_task(model: Model, overall: float) -> Floats:
    """The row's qualities, shape (tasks,), the general one where nothing better is known.

    A published benchmark of one task counts half beside the general quality of a chat model: such benchmarks are
    soon saturated, and then tell models apart less than an index over many does.
    """
    figures = _figures(model)
    published = qualities(model.published)
    talks = bool(model.capabilities & _TALKS)
    found = np.full(len(TASKS), overall)
    for place, task in enumerate(TASKS):
        name = task.value
        if name in figures:
            pooled = talks and name in published and name not in model.benchmarks
            found[place] = (figures[name] + overall) / 2 if pooled else figures[name]
    return found


class _Generals:
    """The general quality of each row, by the rules above."""

    def __init__(self, models: Sequence[Model], private: Iterable[bool], rules: Learning) -> None:
        self._rules = rules
        self._rows = {model.id: model for model in models}
        self._private = dict(zip(self._rows, private, strict=True))
        self._known = {model.id: overall for model in models if (overall := _overall(model)) is not None}
        self._before: dict[str, list[str]] = {}
        for model in models:
            if model.successor is not None and model.id in self._known:
                self._before.setdefault(model.successor, []).append(model.id)
        self._makers = {
            _plain(model.source.model): model.id
            for model in reversed(models)
            if model.id in self._known and model.origin == "builtin" and isinstance(model.source, UpstreamSource)
        }
        self._groups: dict[tuple[str, Capability], list[Model]] = {}
        for model in models:
            self._groups.setdefault(_group(model), []).append(model)
        self._lines: dict[tuple[str, Capability], Floats | None] = {}
        self._best: dict[tuple[str, Capability], float] = {}
        self._medians: dict[tuple[str, Capability], float] = {}
        self._found: dict[str, _General] = {}
        self._asked: set[str] = set()

    def of(self, model: Model) -> _General:
        found = self._found.get(model.id)
        if found is None:
            found = self._found[model.id] = self._rule(model)
        return found

    def _rule(self, model: Model) -> _General:
        rules = self._rules
        if model.id in self._known:
            return _General(self._known[model.id], rules.prior_strength, Source.BENCHMARKS, _told(model))
        same = None if self._private[model.id] else self._same(model)
        if same is not None:
            return _General(
                self._known[same], rules.relative_strength, Source.SAME_MODEL, f"the figures of {same}"
            )
        weights = weights_of(model) if model.capabilities & _TALKS else None
        if weights is not None:
            quality = float(np.clip(0.3 + 0.11 * np.log10(weights / 1e8), 0.2, 0.75))
            return _General(quality, rules.guess_strength, Source.SIZE, f"about {weights:.2g} weights")
        return self._relative(model) or self._priced(model) or self._guess(model)

    def _same(self, model: Model) -> str | None:
        if not isinstance(model.source, UpstreamSource) or model.origin == "builtin":
            return None
        return self._makers.get(_plain(model.source.model))

    def _relative(self, model: Model) -> _General | None:
        """By a measured row that this one succeeds; its price may tell more, but never less than that."""
        before = self._before.get(model.id)
        if not before:
            return None
        best = max(before, key=self._known.__getitem__)
        quality = min(self._known[best] + _STEP, _MOST)
        priced = self._on_line(model)
        if priced is not None:
            quality = max(quality, priced)
        return _General(
            quality, self._rules.relative_strength, Source.SUCCESSION, f"it succeeds {best}, which is measured"
        )

    def _priced(self, model: Model) -> _General | None:
        price = _price(model)
        if price is None or self._private[model.id]:
            return None
        line = self._on_line(model)
        if line is not None:
            quality = min(line, self._below_successor(model))
            return _General(
                quality,
                self._rules.price_strength,
                Source.PRICE,
                f"price and version among the measured models of {model.provider}",
            )
        decades = float(np.log10(price / self._median_price(_group(model))))
        quality = _UNKNOWN + float(np.clip(_PER_DECADE * decades, -_RANGE_BY_PRICE, _RANGE_BY_PRICE))
        quality = min(quality, self._below_successor(model))
        reason = f"price among the models of {model.provider}, none of which is measured"
        return _General(quality, self._rules.guess_strength, Source.PRICE, reason)

    def _below_successor(self, model: Model) -> float:
        successor = self._rows.get(model.successor or "")
        if successor is None or model.id in self._asked:
            return _MOST
        self._asked.add(model.id)  # a circle of successors ends here
        above = self.of(successor)
        return above.quality - _STEP if above.source is not Source.SIZE else _MOST

    def _guess(self, model: Model) -> _General:
        private = self._private[model.id]
        quality = _UNKNOWN_PRIVATE if private else _UNKNOWN
        where = "on own hardware" if private else "remote"
        return _General(
            quality, self._rules.guess_strength, Source.GUESS, f"nothing is known of it; it is {where}"
        )

    # ---- price and version

    def _median_price(self, group: tuple[str, Capability]) -> float:
        if group not in self._medians:
            prices = [price for row in self._groups[group] if (price := _price(row)) is not None]
            self._medians[group] = float(np.median(prices))
        return self._medians[group]

    def _on_line(self, model: Model) -> float | None:
        """The quality at the row's price and version on its provider's line, ``None`` without one.

        A price alone puts no row above the best measured one.
        """
        signals = _signals(model)
        if signals is None:
            return None
        group = _group(model)
        if group not in self._lines:
            self._lines[group] = self._line(self._groups[group])
            known = [self._known[row.id] for row in self._groups[group] if row.id in self._known]
            self._best[group] = max(known, default=_MOST)
        line = self._lines[group]
        if line is None:
            return None
        return float(np.clip(line @ signals, _LEAST_BY_PRICE, self._best[group] - _STEP))

    def _line(self, peers: list[Model]) -> Floats | None:
        """Coefficients, shape (3,), of (1, log10 price, version) by least squares; none of the latter falls."""
        pairs = [
            (signals, self._known[row.id])
            for row in peers
            if row.id in self._known and (signals := _signals(row)) is not None
        ]
        if len(pairs) < _FEWEST_PEERS:
            return None
        signals, known = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
        used = [0, 1, 2]
        while True:
            fitted = np.linalg.lstsq(signals[:, used], known, rcond=None)[0]
            falling = [at for at, value in zip(used, fitted, strict=True) if at and value < 0]
            if not falling:
                break
            used.remove(min(falling, key=lambda at: fitted[used.index(at)]))
        line = np.zeros(3)
        line[used] = fitted
        return line


def _overall(model: Model) -> float | None:
    """The measured general quality; that of a model of one kind of work is the figure of its work."""
    figures = _figures(model)
    if OVERALL in figures or model.capabilities & _TALKS or not figures:
        return figures.get(OVERALL)
    return sum(figures.values()) / len(figures)


def _told(model: Model) -> str:
    return "public benchmarks" if model.published else "benchmarks of its row"


def _group(model: Model) -> tuple[str, Capability]:
    return model.provider, kind_of(model)


def _signals(model: Model) -> Floats | None:
    """(1, log10 of the price, version), shape (3,); ``None`` without a price or a version."""
    price, version = _price(model), _version(model)
    return None if price is None or version is None else np.array([1.0, np.log10(price), version])


def _price(model: Model) -> float | None:
    """The lasting cost of a unit of the row's work: an introductory price is no signal."""
    prices = model.price.at(float("inf"))
    work = {
        Capability.TRANSCRIBE: (prices.minute,),
        Capability.SPEAK: (prices.character, prices.audio_output),
        Capability.IMAGE: (prices.image, prices.image_output),
        Capability.VIDEO: (prices.video,),
        Capability.EMBED: (prices.input,),
    }.get(kind_of(model), (prices.output,))
    return next((price for price in work if price), None)


def _version(model: Model) -> float | None:
    found = _VERSION.search(model.version or undated(model.id))
    return None if found is None else float(f"{found[1]}.{found[2] or 0}")


def _plain(name: str) -> str:
    """A model's name without its maker, date and punctuation: ``anthropic/claude-opus-5.5`` is
    ``claude-opus-5-5``."""
    return undated(name.rsplit("/", 1)[-1].lower()).replace(".", "-")
