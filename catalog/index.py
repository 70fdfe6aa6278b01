"""Compiles the catalogue into columns: one array per property, for vectorised filters.

An index is immutable; a changed catalogue is compiled anew. Row ``i`` of every array belongs to ``models[i]``.
"""

from __future__ import annotations

import contextlib
import difflib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, time
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from catalog.errors import ModelNotFound
from catalog.model import LOCAL_ENDPOINT, Capability, Endpoint, Model, UpstreamSource
from catalog.names.sizes import weights_of
from catalog.prices.price import PRICES, Price

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_BIT = {capability: 1 << position for position, capability in enumerate(Capability)}
_KEPT_MASKS = 512
TOY = "toy"
"""Tag of a row that ``auto`` takes only where no other can answer."""
SMALL_WEIGHTS = 2e10
"""Weights below which a model counts as small."""
LAST_DAYS = 7
"""Days before a model's end in which ``auto`` no longer chooses it."""


class Index:
    """Compiled rows. ``version`` is the version of the catalogue that they were compiled from.

    Arrays have shape (n,): ``context`` and ``longest`` (the most of an answer) in tokens, infinite when unknown;
    ``memory`` in bytes (0 when unknown); ``prices`` at ``wall`` by number of a price (NaN when unknown, 0 for
    local models); ``load_seconds``, ``base_seconds``, ``prefill`` and ``decode`` (tokens per second) from the
    catalogue, else estimated from the model's size or price; ``small`` are models known to have few weights,
    ``superseded`` those whose endpoint also serves their successor; ``retires`` in seconds of wall-clock time from
    which ``auto`` leaves a model (infinite without an announced end). ``one_language`` are models known to have no
    other; ``listed_languages`` are all that rows name. ``toys`` have the tag :data:`TOY`. ``endless`` are
    the rows, shape (m,), whose answers cannot be bounded. ``resolver`` replaces the index's own lookup by name
    (:meth:`replicas`).
    """

    def __init__(
        self,
        models: Iterable[Model],
        endpoints: Mapping[str, Endpoint] | None = None,
        *,
        version: int = 0,
        resolver: Callable[[str], Sequence[Model]] | None = None,
        wall: float = 0.0,
    ) -> None:
        self._resolver = resolver
        self.models: tuple[Model, ...] = tuple(models)
        self.version = version
        self.endpoints: Mapping[str, Endpoint] = dict(endpoints or {})
        self.rows: dict[str, int] = {model.id: row for row, model in enumerate(self.models)}
        if len(self.rows) != len(self.models):
            raise ValueError("Two models of the catalogue have the same id.")
        self._names = self._compile_names()
        self._meant: dict[str, list[int]] | None = None

        rows = self.models
        prices = [m.price.at(wall) for m in rows]
        homes = [self._endpoint(model) for model in rows]
        self.local: Bools = np.array([model.local for model in rows], dtype=bool)
        self.tokenizing: Bools = np.array([model.tokenizes for model in rows], dtype=bool)
        self.private: Bools = np.array(
            [m.local or (e is not None and e.private) for m, e in zip(rows, homes, strict=True)], dtype=bool
        )
        self.small: Bools = np.array([(weights_of(m) or np.inf) < SMALL_WEIGHTS for m in rows], dtype=bool)
        self.superseded: Bools = np.array([self._is_superseded(m) for m in rows], dtype=bool)
        self.domains: tuple[str, ...] = tuple(
            f"worker/{m.id}" if m.local else _failure_domain(m, e) for m, e in zip(rows, homes, strict=True)
        )
        self._tags = [m.tags | (e.tags if e else frozenset()) for m, e in zip(rows, homes, strict=True)]
        self.toys: Bools = np.array([TOY in tags for tags in self._tags], dtype=bool)
        self.capabilities: Ints = np.array([_bits(model.capabilities) for model in rows], dtype=np.int64)
        self.context = _column((m.limits.context_window for m in rows), np.inf)
        self.memory = _column((m.size.memory or m.size.disk if m.local else 0 for m in rows), 0.0)
        self.devices: tuple[str | None, ...] = tuple(m.device for m in rows)
        self.pinned: tuple[int, ...] = tuple(i for i, m in enumerate(rows) if m.local and m.device is not None)
        self.endless: Ints = np.array([i for i, m in enumerate(rows) if not m.bounds_answers], dtype=np.int64)
        self.prices: dict[str, Floats] = {name: self._price(name, prices) for name in PRICES}
        self.load_seconds = _column((_load_seconds(m) for m in rows), 0.0)
        self.base_seconds = _column((_base_seconds(m) for m in rows), 0.0)
        self.prefill = _column((m.performance.prefill_tokens_per_second or _prefill(m) for m in rows), 1.0)
        self.decode = _column((m.performance.tokens_per_second or _decode(m) for m in rows), 1.0)
        self._long_above = _column((p.long.above if p.long else None for p in prices), np.inf)
        self._shortest_long = float(self._long_above.min(initial=np.inf))
        self._long_prices = {
            name: _column((p.if_long[name] if p.long else None for p in prices), np.nan)
            for name in ("input", "output")
        }
        self.prices_until = min((m.price.changes for m in rows if m.price.changes > wall), default=np.inf)
        self.retires = _column((_retires(m) for m in rows), np.inf)
        self._languages = [frozenset(map(_language, m.languages)) for m in rows]
        self.listed_languages: frozenset[str] = frozenset().union(*self._languages)
        self.one_language: Bools = np.array([len(known) == 1 for known in self._languages], dtype=bool)
        self._capable: dict[int, Bools] = {}
        self._tagged: dict[str, Bools] = {}
        self._allowed: dict[tuple[str, ...], Bools] = {}
        self._trusted: dict[frozenset[str], Bools] = {}
        self.longest = _column((m.limits.max_output_tokens for m in rows), np.inf)
        self._longest = sorted(set(self.longest.tolist()))
        self._contexts = sorted(set(self.context.tolist()))
        self._retirements = sorted(self.retires[np.isfinite(self.retires)].tolist())
        self._blocked: Mapping[str, object] | None = None
        self._admitted: dict[Hashable, Ints] = {}

    def __len__(self) -> int:
        return len(self.models)

    def too_short(self, answer: int | None) -> int:
        """Count the distinct longest answers that are below ``answer`` tokens; 0 for most requests."""
        return 0 if answer is None else bisect_left(self._longest, answer)

    def too_small(self, size: float) -> int:
        """Count the distinct context windows that are smaller than ``size`` tokens; 0 for most requests."""
        return bisect_left(self._contexts, size)

    def token_prices(self, prompt: float, tiers: tuple[str, ...]) -> tuple[Floats, Floats]:
        """Dollars per million tokens of the input and the output, each of shape (n,), NaN when unknown.

        They are those of a prompt of so many tokens, and of the dearest service that may answer ``tiers``.
        """
        found = self.prices["input"], self.prices["output"]
        if prompt > self._shortest_long:
            is_long = self._long_above < prompt
            long = self._long_prices["input"], self._long_prices["output"]
            found = np.where(is_long, long[0], found[0]), np.where(is_long, long[1], found[1])
        if tiers:
            factor = np.array([model.price.rates.dearest(tiers) for model in self.models])
            found = found[0] * factor, found[1] * factor
        return found

    def picture_tokens(self, size: str, quality: str) -> Floats:
        """Tokens of a picture to be drawn by each row, shape (n,); see :meth:`Price.tokens_of_picture`."""
        return np.array([model.price.tokens_of_picture(size, quality) for model in self.models], dtype=float)

    def retired(self, wall: float | None) -> int:
        """Count the rows that ``auto`` has left by this wall-clock time in seconds; 0 for ``None``."""
        return 0 if wall is None else bisect_right(self._retirements, wall)

    def admitted(self, blocked: Mapping[str, object]) -> dict[Hashable, Ints]:
        """Return a cache for the caller's filter results (rows by a key of its own), valid for this ``blocked``.

        Another ``blocked`` mapping (by identity) empties the cache, and so do 512 entries.
        """
        if blocked is not self._blocked or len(self._admitted) >= _KEPT_MASKS:
            self._blocked, self._admitted = blocked, {}
        return self._admitted

    def capable(self, needs: Iterable[Capability]) -> Bools:
        """Mask, shape (n,), of the rows with all of these capabilities. It is shared: do not write to it."""
        bits = _bits(needs)
        mask = self._capable.get(bits)
        if mask is None:
            mask = (self.capabilities & bits) == bits
            if len(self._capable) < _KEPT_MASKS:
                self._capable[bits] = mask
        return mask

    def tagged(self, tag: str) -> Bools:
        """Mask, shape (n,), of the rows with this tag, their own or their endpoint's. Do not write to it."""
        mask = self._tagged.get(tag)
        if mask is None:
            mask = np.array([tag in tags for tags in self._tags], dtype=bool)
            if mask.any():
                self._tagged[tag] = mask
        return mask

    def knowing(self, languages: frozenset[str]) -> Bools:
        """Mask, shape (n,), of the rows that know all of these languages, or of which it is not known."""
        return np.array([not known or languages <= known for known in self._languages], dtype=bool)

    def allowed(self, patterns: tuple[str, ...]) -> Bools:
        """Mask, shape (n,), of the rows that a key with these patterns may use. Do not write to it."""
        mask = self._allowed.get(patterns)
        if mask is None:
            mask = np.array([permits(patterns, model.id) for model in self.models], dtype=bool)
            if len(self._allowed) < _KEPT_MASKS:
                self._allowed[patterns] = mask
        return mask

    def trusted(self, providers: frozenset[str]) -> Bools:
        """Mask, shape (n,), of remote rows of these providers or tagged ``trusted``. Do not write to it."""
        mask = self._trusted.get(providers)
        if mask is None:
            of_provider = np.array([model.provider in providers for model in self.models], dtype=bool)
            mask = self._trusted[providers] = ~self.local & (of_provider | self.tagged("trusted"))
        return mask

    def resolve(self, name: str) -> Model:
        """Return the first of :meth:`replicas`."""
        return self.replicas(name)[0]

    def replicas(self, name: str) -> Sequence[Model]:
        """Find the models of an id, ``provider/id``, name or alias, in that order, ignoring case. Never empty.

        A ``resolver`` replaces this lookup: the catalogue's knows replicas of one name and MLX twins. Raises
        ModelNotFound with the nearest names.
        """
        if self._resolver is not None:
            return self._resolver(name)
        row = self.row_of(name)
        if row is None:
            raise ModelNotFound(name, nearest=self.nearest(name))
        return (self.models[row],)

    def row_of(self, name: str) -> int | None:
        """Return the row number of an id, name or alias, or ``None``."""
        row = self.rows.get(name)
        return self._names.get(name.casefold()) if row is None else row

    def meant(self, name: str) -> Sequence[int] | None:
        """Return the rows with this id, name or alias, and those of an endpoint or provider of this id.

        Case is ignored. ``None`` for an unknown name; a discovering endpoint may list any model, so that its
        ``endpoint/name`` is never unknown.
        """
        if self._meant is None:
            self._meant = self._compile_meanings()
        rows = self._meant.get(name.casefold())
        if rows is None:
            if self._resolver is not None:  # it knows snapshots by their dates
                with contextlib.suppress(ModelNotFound):
                    return [self.rows[model.id] for model in self._resolver(name)]
            home = self.endpoints.get(name.partition("/")[0])
            return () if home is not None and (home.discover or home.id == name) else None
        if self._resolver is not None:
            # A name may stand for a model that does not carry it: an MLX twin. An endpoint's id names none.
            with contextlib.suppress(ModelNotFound):
                return [*rows, *(self.rows[model.id] for model in self._resolver(name))]
        return rows

    def nearest(self, name: str, *, limit: int = 3) -> tuple[str, ...]:
        """Return the ids of models with a similar id, name or alias, the nearest first."""
        close = difflib.get_close_matches(name[:200].casefold(), self._names, n=limit * 2, cutoff=0.5)
        return tuple(dict.fromkeys(self.models[self._names[c]].id for c in close))[:limit]

    def names_capable(self, needs: Iterable[Capability]) -> list[str]:
        """Return the ids of the models with all of these capabilities."""
        return [self.models[row].id for row in np.flatnonzero(self.capable(needs))]

    def _compile_names(self) -> dict[str, int]:
        names: dict[str, int] = {}
        for of in (_ids, _own_names, _aliases):
            for row, model in enumerate(self.models):
                for name in of(model):
                    names.setdefault(name.casefold(), row)
        return names

    def _compile_meanings(self) -> dict[str, list[int]]:
        meanings: dict[str, list[int]] = {}
        for row, model in enumerate(self.models):
            aliases = (*model.aliases, *(f"{model.provider}/{alias}" for alias in model.aliases))
            # A row of an endpoint whose provider was not set has the default, which means this machine.
            homes = {model.endpoint_name, model.provider} - (set() if model.local else {LOCAL_ENDPOINT})
            names = (*_ids(model), *_own_names(model), *aliases, *homes)
            for name in {name.casefold() for name in names}:
                meanings.setdefault(name, []).append(row)
        return meanings

    def _is_superseded(self, model: Model) -> bool:
        """Whether the model's endpoint also serves its successor."""
        row = None if model.successor is None else self.rows.get(model.successor)
        return row is not None and self.models[row].endpoint_name == model.endpoint_name

    def _endpoint(self, model: Model) -> Endpoint | None:
        return self.endpoints.get(model.source.endpoint) if isinstance(model.source, UpstreamSource) else None

    def _price(self, name: str, prices: Sequence[Price]) -> Floats:
        known = (getattr(price, name) for price in prices)
        pairs = zip(known, self.models, strict=True)
        return _column((0.0 if given is None and model.local else given for given, model in pairs), np.nan)


def permits(patterns: tuple[str, ...], model: str) -> bool:
    """Whether a key restricted to these patterns may use ``model``; no pattern means no restriction."""
    return not patterns or any(fnmatchcase(model, pattern) for pattern in patterns)


def _ids(model: Model) -> tuple[str, ...]:
    return (model.id, f"{model.provider}/{model.id}")


def _own_names(model: Model) -> tuple[str, ...]:
    return () if model.name is None else (model.name, f"{model.provider}/{model.name}")


def _aliases(model: Model) -> tuple[str, ...]:
    return model.aliases


def _bits(capabilities: Iterable[Capability]) -> int:
    bits = 0
    for capability in capabilities:
        bits |= _BIT[capability]
    return bits


def _language(tag: str) -> str:
    return tag.split("-")[0].lower()


def _column(values: Iterable[float | None], missing: float) -> Floats:
    return np.array([missing if value is None else value for value in values], dtype=np.float64)


def _retires(model: Model) -> float | None:
    if model.ends is None:
        return None
    midnight = datetime.combine(model.ends, time(), UTC)
    return midnight.timestamp() - LAST_DAYS * 86_400


def _failure_domain(model: Model, endpoint: Endpoint | None) -> str:
    if endpoint is not None:
        return endpoint.failure_domain or endpoint.id
    return model.source.endpoint if isinstance(model.source, UpstreamSource) else model.id


# ---- estimates for models without measurements


def _parameters(model: Model) -> float:
    return float(model.size.parameters or 1_000_000_000)


def _load_seconds(model: Model) -> float:
    if not model.local:
        return 0.0
    known = model.performance.load_seconds
    return known if known is not None else 0.5 + (model.size.disk or _parameters(model)) / 5e8


def _base_seconds(model: Model) -> float:
    known = model.performance.latency_p50_ms
    if known is not None:
        return known / 1000
    return 0.02 if model.local else 0.5


def _decode(model: Model) -> float:
    """Tokens per second. Remote models without a figure: the cheaper the quicker, as published figures show."""
    if model.local:
        return min(60.0, 1e10 / _parameters(model))
    price = model.price.output
    return min(max(125 * price**-0.15, 40.0), 140.0) if price else 60.0


def _prefill(model: Model) -> float:
    return min(2000.0, 1e11 / _parameters(model)) if model.local else 5000.0


__all__: Sequence[str] = ("Bools", "Floats", "Index", "Ints")
