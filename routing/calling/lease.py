"""The resources of one call: money, and a worker, or a turn and a key.

A local model needs a ready worker with a free slot. A remote one needs a key, and a turn where its endpoint
limits concurrent calls. Both may need money, which comes first: a caller whose budget is spent does not wait.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from backends.asking import AskedForms
from backends.base import Timeouts, Upstream
from backends.queueing import Need, Priority
from backends.workers.pool import WorkerPool
from catalog.discovery import undated
from catalog.errors import ModelTemporarilyUnavailable
from catalog.model import Capability, Endpoint, Model, UpstreamSource
from routing.accounts.spend import Reservation, Spend
from routing.calling.hops import Hops
from routing.facts import Facts, Workload
from routing.plan import Candidate
from routing.upstreams.concurrency import ConcurrencyLimits
from routing.upstreams.provider_keys import KeyPools, needs_key, source_of


@dataclass(slots=True)
class Lease:
    """Where a call goes, which of the endpoint's keys it carries, and the money set aside for it.

    ``provider_key`` is the key's position in its pool, never the key. ``waits`` says whether giving everything
    back may suspend: a worker is returned, or the books are awaited.
    """

    upstream: Upstream
    provider_key: int | None
    reservation: Reservation
    waits: bool


@dataclass(slots=True)
class _Addresses:
    """A remote row's upstreams, one per key; valid for the row and endpoint that they were made from."""

    model: Model
    endpoint: Endpoint
    by_key: dict[str | None, Upstream] = field(default_factory=dict, repr=False)
    asked: AskedForms = field(default_factory=AskedForms, repr=False)


def _snapshot(requested: str, model: str) -> str | None:
    """The name that the caller gave, if it is the model's own with the date of a snapshot."""
    name = requested.rpartition("/")[2]
    return name if name.lower() != model.lower() and undated(name.lower()) == model.lower() else None


def of_snapshot(upstream: Upstream, facts: Facts) -> Upstream:
    """The upstream with the dated name of the model, if the caller asked for it."""
    dated = _snapshot(facts.requested, upstream.model) if len(facts.requested) > len(upstream.model) else None
    return upstream if dated is None else replace(upstream, model=dated)


class Leases:
    """Acquires what a candidate's call needs."""

    def __init__(
        self,
        *,
        pool: WorkerPool,
        endpoint: Callable[[str], Endpoint],
        keys: KeyPools,
        spend: Spend,
        concurrency: ConcurrencyLimits,
        timeouts: Timeouts,
    ) -> None:
        self._pool = pool
        self._concurrency = concurrency
        self._endpoint = endpoint
        self._keys = keys
        self._spend = spend
        self._timeouts = timeouts
        self._addresses: dict[str, _Addresses] = {}
        self.hops = Hops()

    def configure(self, timeouts: Timeouts) -> None:
        """Use other timeouts from the next call on."""
        self._timeouts = timeouts
        self._addresses.clear()

    async def acquire(
        self,
        held: AsyncExitStack,
        facts: Facts,
        candidate: Candidate,
        now: float,
        *,
        longest: int | None = None,
        spent: float = 0.0,
        provider_key: str | None = None,
    ) -> Lease:
        """Take money, then a worker or a turn and a key; ``held`` gives them back in the opposite order.

        ``longest`` bounds the tokens of the answer, ``spent`` are the dollars of earlier attempts. With
        ``provider_key``, a digest, it is that key and no other. Raises BudgetExceeded, QueueFull,
        ModelTemporarilyUnavailable (no usable key), and the pool's errors.
        """
        model = candidate.model
        reservation = await held.enter_async_context(
            self._spend.reserve(
                key=facts.key,
                model=model.id,
                endpoint=model.endpoint_name,
                amount=0.0 if facts.tokens_only else self._spend.estimate(model.price, facts, longest),
                before=spent,
            )
        )
        if model.local:
            worker = await held.enter_async_context(self._pool.lease(model, need_of(facts)))
            return Lease(self.for_row(model, worker), None, reservation, waits=True)
        assert isinstance(model.source, UpstreamSource)
        queue = self._concurrency.at(self._endpoint(model.source.endpoint))
        if queue is not None:
            held.callback(queue.release, await queue.acquire(need_of(facts)))
        position: int | None = None
        if provider_key is None:
            upstream, position = self.address(model, now)
        else:
            upstream = self.address_of_key(model, provider_key)
        upstream = self.hops.marked(of_snapshot(upstream, facts))
        return Lease(upstream, position, reservation, waits=reservation.waits)

    def for_row(self, model: Model, upstream: Upstream) -> Upstream:
        """A worker's upstream with the row's parameters and limits and the settings' timeouts."""
        return replace(
            upstream,
            timeouts=self._timeouts,
            parameters=model.parameters,
            max_output_tokens=model.limits.max_output_tokens,
            family=model.family,
            prompts=model.options.get("prompts", {}),
            voices=model.voice_map,
            moderation=model.moderation,
        )

    def address(self, model: Model, now: float) -> tuple[Upstream, int | None]:
        """The upstream of a remote row with the next of its keys, and that key's position.

        Raises ModelTemporarilyUnavailable when the endpoint wants a key and has none to use.
        """
        assert isinstance(model.source, UpstreamSource)
        secret, position = _next_key(self._endpoint(model.source.endpoint), self._keys, now, model.id)
        return self._with_key(model, secret), position

    def address_of_key(self, model: Model, digest: str | None) -> Upstream:
        """The upstream of a remote row with a certain key, by its digest, or without one.

        Raises ModelTemporarilyUnavailable when the endpoint has that key no more.
        """
        secret = None if digest is None else self._keys.secret_of(model.endpoint_name, digest)
        if digest is not None and secret is None:
            raise ModelTemporarilyUnavailable(f"The endpoint '{model.endpoint_name}' has lost the key in use.")
        return self._with_key(model, secret)

    def _with_key(self, model: Model, secret: str | None) -> Upstream:
        assert isinstance(model.source, UpstreamSource)
        endpoint = self._endpoint(model.source.endpoint)
        known = self._addresses.get(model.id)
        if known is None or known.model is not model or known.endpoint is not endpoint:
            known = self._addresses[model.id] = _Addresses(model, endpoint)
        upstream = known.by_key.get(secret)
        if upstream is None:
            upstream = known.by_key[secret] = replace(
                _upstream(endpoint, model.source.model, secret, self._timeouts),
                headers=self.hops.headers_of(endpoint),
                parameters=model.parameters,
                max_output_tokens=model.limits.max_output_tokens,
                wire=model.wire or endpoint.wire,
                reasons=Capability.REASONING in model.capabilities,
                family=model.family,
                options=model.options,
                moderation=model.moderation,
                voices={**endpoint.voice_map, **model.voice_map},
                asked=known.asked,
            )
        return upstream

    def target(self, model: Model) -> Upstream | None:
        """The address of a remote row, without a key; None for a local one."""
        return self._with_key(model, None) if isinstance(model.source, UpstreamSource) else None

    def has_key(self, candidate: Candidate, now: float) -> bool:
        """Whether the candidate's endpoint has another key that the model can use."""
        model = candidate.model
        if not isinstance(model.source, UpstreamSource) or not needs_key(self._endpoint(model.source.endpoint)):
            return False
        return self._keys.block_of(model.endpoint_name, model.id, now) is None

    def rest_of_keys(self, candidate: Candidate, now: float) -> float | None:
        """Seconds until the candidate has a key to use; None if it has one, or needs none."""
        model = candidate.model
        block = None if model.local else self._keys.block_of(model.endpoint_name, model.id, now)
        return None if block is None else block.rest

    def key_source(self, model: Model) -> str:
        """The place that the keys of a model's endpoint are read from; empty without keys."""
        return source_of(self._endpoint(model.source.endpoint)) if isinstance(model.source, UpstreamSource) else ""


def upstream_of(
    endpoint: Endpoint, model: str, keys: KeyPools, now: float, default: Timeouts
) -> tuple[Upstream, int | None]:
    """The address of an endpoint with the next of its keys, and that key's position.

    Raises ModelTemporarilyUnavailable when the endpoint wants a key and has none to use.
    """
    secret, position = _next_key(endpoint, keys, now)
    return _upstream(endpoint, model, secret, default), position


def _next_key(endpoint: Endpoint, keys: KeyPools, now: float, model: str = "") -> tuple[str | None, int | None]:
    if not (endpoint.key_env or endpoint.key_keyring):
        return None, None
    key = keys.take(endpoint.id, now, model)
    if key is None:
        raise ModelTemporarilyUnavailable(
            f"No key of the endpoint '{endpoint.id}' can be used at present. "
            f"Set one in {source_of(endpoint)}, or wait for the end of its rest.",
            retry_after=1,
        )
    return key.secret, key.position


def _upstream(endpoint: Endpoint, model: str, secret: str | None, default: Timeouts) -> Upstream:
    return Upstream(
        endpoint=endpoint.id,
        protocol=endpoint.protocol,
        base_url=endpoint.base_url,
        model=model,
        api_key=secret,
        headers=endpoint.headers,
        query=endpoint.query,
        timeouts=timeouts_of(endpoint, default),
        cloud=endpoint.cloud,
    )


def need_of(facts: Facts) -> Need:
    """The call's slots, flow and priority in a queue. Tokenising takes no slot."""
    batch = facts.intent.workload is not Workload.INTERACTIVE
    return Need(
        slots=0 if facts.tokens_only else 1,
        flow=facts.key,
        priority=Priority.BATCH if batch else Priority.INTERACTIVE,
    )


def timeouts_of(endpoint: Endpoint, default: Timeouts) -> Timeouts:
    """The endpoint's own timeouts, or the default for those it does not set."""
    return Timeouts(
        connect=endpoint.connect_timeout or default.connect,
        first_byte=endpoint.first_byte_timeout or default.first_byte,
        idle=endpoint.idle_timeout or default.idle,
        total=endpoint.total_timeout or default.total,
    )
