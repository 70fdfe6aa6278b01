"""The catalogue: all known models (built-in, configured, pulled, discovered) at one moment."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from catalog import toml_rows
from catalog.discovery import by_undated_name, informed, undated
from catalog.errors import ConfigurationError, ModelNotFound, NotFound
from catalog.hardware import on_apple_silicon
from catalog.model import FREE, Capability, Endpoint, Model, Price, UpstreamSource
from catalog.names.ollama import hub_address, of_address, untagged
from catalog.toml_rows import Table

Discovered = Mapping[str, tuple[Model, ...]]


def _none_found() -> Discovered:
    return MappingProxyType({})


@dataclass(frozen=True)
class Catalog:
    """An immutable snapshot; methods that change it return a new one with the next ``version``.

    Of rows with the same id, the user's wins over a pulled, a built-in and a discovered one, in this order.

    Rows with the same name or alias are replicas of one another, but only within one of three groups: the user's
    rows, built-in and pulled rows, discovered rows. An earlier group hides the later ones.

    ``apple_silicon`` makes a name resolve to a model's MLX twin if there is one. ``listed`` has the rows of each
    source as they were given, ``discovered`` those made of them. ``completed`` adds to a row what its engine can
    do.
    """

    own: tuple[Model, ...]
    servers: tuple[Endpoint, ...] = ()
    version: int = 1
    apple_silicon: bool = False
    discovered: Discovered = field(default_factory=_none_found)
    listed: Discovered = field(default_factory=_none_found)
    completed: Callable[[Model], Model] = field(default=lambda row: row, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = {server.id for server in self.servers}
        for row in self.own:
            if isinstance(row.source, UpstreamSource) and row.source.endpoint not in known:
                raise ConfigurationError(
                    f"[[model]] '{row.id}': source.endpoint: there is no [[endpoint]] '{row.source.endpoint}'",
                    param="source.endpoint",
                )
        everything: dict[str, Model] = {}
        found = (row for rows in self.discovered.values() for row in rows)
        for row in (*self.own, *found):
            if row.id.lower() not in everything:
                everything[row.id.lower()] = self.completed(row)
        object.__setattr__(self, "_by_id", everything)
        object.__setattr__(self, "_by_name", _groups(everything.values()))
        object.__setattr__(self, "_endpoints", {server.id: server for server in self.servers})
        object.__setattr__(self, "_named", {})
        object.__setattr__(self, "_undated", by_undated_name(everything.values()))

    _by_id: dict[str, Model] = field(init=False, repr=False, compare=False)
    _by_name: dict[str, tuple[Model, ...]] = field(init=False, repr=False, compare=False)
    _endpoints: dict[str, Endpoint] = field(init=False, repr=False, compare=False)
    _undated: dict[str, tuple[Model, ...]] = field(init=False, repr=False, compare=False)
    _named: dict[tuple[str, ...], tuple[str, ...]] = field(init=False, repr=False, compare=False)

    # ---- building

    @classmethod
    def builtin(cls) -> Catalog:
        """Make a catalogue of the built-in rows only."""
        models, endpoints = toml_rows.builtin_rows()
        return cls(own=models, servers=endpoints, apple_silicon=on_apple_silicon())

    @classmethod
    def load(
        cls,
        *,
        user_models: Sequence[Table | Model] = (),
        user_endpoints: Sequence[Table | Endpoint] = (),
        pulled: Iterable[Model] = (),
        builtin: bool = True,
        completed: Callable[[Model], Model] = lambda row: row,
    ) -> Catalog:
        """Make a catalogue of built-in rows, models pulled by address (``Store.rows()``), and the user's
        ``[[model]]`` and ``[[endpoint]]`` tables. Raises ConfigurationError that names the row and the field.
        """
        models, servers = toml_rows.builtin_rows() if builtin else ((), ())
        merged = {row.id.lower(): row for row in (*models, *pulled)}
        known_servers = {server.id: server for server in servers}
        for row in toml_rows.user_models(user_models, merged):
            merged.pop(row.id.lower(), None)
            merged[row.id.lower()] = row
        for server in toml_rows.user_endpoints(user_endpoints, known_servers):
            known_servers[server.id] = server
        return cls(
            own=tuple(_priced(row, known_servers) for row in merged.values()),
            servers=tuple(known_servers.values()),
            apple_silicon=on_apple_silicon(),
            completed=completed,
        )

    def with_discovered(self, source: str, found: Iterable[Model]) -> Catalog:
        """Return the catalogue with ``found`` in place of the former rows of ``source`` (an endpoint, a folder).

        Returns the same snapshot if nothing has changed, so that a refresh does not invalidate caches.
        """
        listed = tuple(found)
        if listed == self.listed.get(source, ()):
            return self
        rows_found = informed(listed, self.own, self._endpoints)
        if any(row.origin != "discovered" for row in rows_found):
            rows_found = tuple(row.model_copy(update={"origin": "discovered"}) for row in rows_found)
        if rows_found == self.discovered.get(source, ()):
            return self
        discovered = {name: kept for name, kept in self.discovered.items() if name != source}
        if rows_found:
            discovered[source] = rows_found
        return replace(
            self,
            discovered=MappingProxyType(discovered),
            listed=MappingProxyType({**self.listed, source: listed}),
            version=self.version + 1,
        )

    # ---- looking up

    def resolve(self, name: str) -> Model:
        """Find a model by id, then name, then alias, ignoring case; ``provider/model`` looks among one provider's
        only. A name that is none of these may have Ollama's tag. Of several replicas, returns the first. Raises
        ModelNotFound with the nearest names.
        """
        return self.replicas(name)[0]

    def replicas(self, name: str) -> tuple[Model, ...]:
        """Find all models of a name, in the catalogue's order: one for an id, else every replica.

        Raises ModelNotFound with the nearest names.
        """
        found = self._find(name.strip())
        if not found:
            raise ModelNotFound(name, nearest=self.nearest(name))
        if self.apple_silicon:
            return tuple({row.id: row for row in map(self._twin, found)}.values())
        return found

    def remarks(self) -> tuple[str, ...]:
        """Sentences about the user's rows that are valid and perhaps a mistake."""
        return tuple(toml_rows.remarks(self.own, self._by_id))

    def knows(self, name: str) -> bool:
        """Return whether :meth:`resolve` finds a model of this name."""
        return bool(self._find(name.strip()))

    def get(self, model_id: str) -> Model | None:
        """Return the row with this id, ignoring case, or ``None``."""
        return self._by_id.get(model_id.lower())

    def window(self, model_id: str) -> int | None:
        """Return the context window that a model's own row names, which a worker's may be smaller than here."""
        rows = (*self.own, *(row for rows in self.discovered.values() for row in rows))
        return next((row.limits.context_window for row in rows if row.id == model_id), None)

    def with_aliases(self, patterns: tuple[str, ...]) -> tuple[str, ...]:
        """Return the patterns of a key, and the ids of the models that one of them means by name or alias."""
        known = self._named.get(patterns)
        if known is None:
            found = [row.id for pattern in patterns for row in self._find(pattern.strip())]
            known = self._named[patterns] = tuple(dict.fromkeys((*patterns, *found)))
        return known

    def nearest(self, name: str, count: int = 3) -> tuple[str, ...]:
        """Return the ids of models whose id, name or alias resembles ``name``, the nearest first."""
        wanted = name.strip().lower()[:200]
        names = {**self._by_name, **{name: (row,) for name, row in self._by_id.items()}}
        close = difflib.get_close_matches(wanted, list(names), n=count * 3, cutoff=0.5)
        return tuple(dict.fromkeys(row.id for match in close for row in names[match]))[:count]

    def models(
        self,
        *,
        capabilities: Iterable[Capability] = (),
        local: bool | None = None,
        provider: str | None = None,
        tags: Iterable[str] = (),
        max_disk: int | None = None,
        max_memory: int | None = None,
        max_input_price: float | None = None,
        max_output_price: float | None = None,
        max_latency_ms: float | None = None,
        available: Callable[[Model], bool] | None = None,
    ) -> tuple[Model, ...]:
        """Return the rows that pass every given filter, in the catalogue's order.

        Sizes are in bytes, prices in dollars per million tokens; the latency is the median. A row with an unknown
        figure fails a filter on it. ``available`` tells whether a model can answer now (its files exist, its key
        is set), which only the caller knows.
        """
        needed, labels = frozenset(capabilities), frozenset(tags)

        def passes(row: Model) -> bool:
            return (
                needed <= row.capabilities
                and (local is None or row.local == local)
                and (provider is None or row.provider.lower() == provider.lower())
                and labels <= row.tags
                and _at_most(row.size.disk, max_disk)
                and _at_most(row.size.memory, max_memory)
                and _at_most(row.price.input, max_input_price)
                and _at_most(row.price.output, max_output_price)
                and _at_most(row.performance.latency_p50_ms, max_latency_ms)
                and (available is None or available(row))
            )

        return tuple(row for row in self._by_id.values() if passes(row))

    def endpoint(self, endpoint_id: str) -> Endpoint:
        """Return the server with this id. Raises NotFound."""
        try:
            return self._endpoints[endpoint_id]
        except KeyError:
            raise NotFound(f"There is no endpoint {endpoint_id[:200]!r}.") from None

    def __iter__(self) -> Iterator[Model]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    # ---- name resolution

    def _find(self, name: str) -> tuple[Model, ...]:
        lowered = name.lower()
        row = self._by_id.get(lowered)
        found = self._by_name.get(lowered, ())
        # The user's own name for a model wins over the id of a row that came with the program.
        if row is not None and (row.origin == "user" or not any(each.origin == "user" for each in found)):
            return (row,)
        if found:
            return found
        provider, separator, rest = lowered.partition("/")
        if separator:
            among = [row for row in self._by_id.values() if row.provider.lower() == provider]
            by_id = tuple(row for row in among if row.id.lower() == rest)
            if by_id or (found := _groups(among).get(rest, ())):
                return by_id or found
        return self._snapshot(lowered) or self._as_ollamas(lowered)

    def _snapshot(self, name: str) -> tuple[Model, ...]:
        """The model of a dated name whose row has no date, or of an undated one whose rows have: the newest.

        A row of another date is another model. The user's rows come first, as in every lookup.
        """
        provider, separator, rest = name.partition("/")
        for wanted, home in ((name, ""), (rest, provider) if separator else (name, "")):
            base = undated(wanted)
            rows = [
                row
                for row in self._undated.get(base, ())
                if row.provider.lower() == (home or row.provider.lower())
                and (base == wanted or base in _all_names(row) or wanted in _all_names(row))
            ]
            if rows:
                return (min(rows, key=lambda row: (row.origin != "user", row.origin == "discovered")),)
        return ()

    def _as_ollamas(self, name: str) -> tuple[Model, ...]:
        """The models of a name that only a client of Ollama writes so (:mod:`catalog.names.ollama`)."""
        address = hub_address(name)
        if address is not None:
            row = of_address(address, self)
            return () if row is None else (row,)
        base = untagged(name)
        return () if base == name else self._find(base)

    def _twin(self, row: Model) -> Model:
        """Return the MLX model of the same weights: the row's ``mlx_twin``, or the only match by family, version
        and size; else the row itself.
        """
        if row.engine != "llamacpp":
            return row
        if row.mlx_twin is not None:
            return self._by_id.get(row.mlx_twin.lower(), row)
        twins = [
            other
            for other in self._by_id.values()
            if other.engine == "mlx"
            and row.family is not None
            and (other.family, other.version, other.size.parameters)
            == (row.family, row.version, row.size.parameters)
            and row.capabilities <= other.capabilities
        ]
        return twins[0] if len(twins) == 1 else row


def _groups(models: Iterable[Model]) -> dict[str, tuple[Model, ...]]:
    """Map lower-case names, then aliases, to replicas; a rank of origin hides the ones after it."""
    ranks: tuple[list[Model], list[Model], list[Model]] = ([], [], [])
    for row in models:
        ranks[_RANK[row.origin]].append(row)
    groups: dict[str, tuple[Model, ...]] = {}
    for rows_of_rank in ranks:
        for names in (_names_of, _aliases_of):
            found: dict[str, list[Model]] = {}
            for row in rows_of_rank:
                for name in names(row):
                    found.setdefault(name.lower(), []).append(row)
            for name, carriers in found.items():
                groups.setdefault(name, tuple(carriers))
    return groups


_RANK = {"user": 0, "pulled": 1, "builtin": 1, "discovered": 2}


def _all_names(row: Model) -> frozenset[str]:
    """A row's names in lower case, its name at the server included."""
    there = (row.source.model,) if isinstance(row.source, UpstreamSource) else ()
    return frozenset(name.lower() for name in (row.id, *row.aliases, *there))


def _names_of(row: Model) -> tuple[str, ...]:
    return (row.name,) if row.name else ()


def _aliases_of(row: Model) -> tuple[str, ...]:
    return tuple(dict.fromkeys(alias.lower() for alias in row.aliases))


def _priced(row: Model, servers: Mapping[str, Endpoint]) -> Model:
    """The row; one without a price at a private endpoint is free, as the rows that are discovered there are."""
    server = servers.get(row.source.endpoint) if isinstance(row.source, UpstreamSource) else None
    if server is None or not server.private or row.price != Price():
        return row
    return row.model_copy(update={"price": FREE})


def _at_most(value: float | None, limit: float | None) -> bool:
    return limit is None or (value is not None and value <= limit)
