"""What one call needs before it can be made, taken and given back as one thing.

A local model needs a ready worker with a free slot; a remote one needs a key, and a turn where its endpoint
takes only so many calls at a time; both may need money. The order is money, then turn and key, or worker: the
cheap refusals come first, and nobody waits only to be told that the day's budget is spent.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Self

from backends.base import Timeouts, Upstream
from backends.workers.pool import Need, Priority, WorkerPool
from backends.workers.queue import Grant, Slots
from catalog.errors import ModelUnavailable
from catalog.model import Endpoint, Model, UpstreamSource
from routing.accounts.spend import Reservation, Spend
from routing.facts import Facts, Workload
from routing.plan import Candidate
from routing.upstreams.concurrency import ConcurrencyLimits
from routing.upstreams.provider_keys import KeyPools


class Lease:
    """What a call is given while the block lasts: where to send it, which key it carries, and the money set aside.

    Entering raises BudgetExceeded, QueueFull, ModelUnavailable (no usable key), and what the worker pool raises.
    """

    __slots__ = (
        "_facts",
        "_leases",
        "_model",
        "_now",
        "_turn",
        "_worker",
        "provider_key",
        "reservation",
        "upstream",
    )

    upstream: Upstream
    """Where the call goes, once the lease was entered."""

    def __init__(self, leases: Leases, facts: Facts, model: Model, now: float, reservation: Reservation) -> None:
        self.reservation = reservation
        self.provider_key: int | None = None
        self._leases = leases
        self._facts = facts
        self._model = model
        self._now = now
        self._worker: AbstractAsyncContextManager[Upstream] | None = None
        self._turn: tuple[Slots, Grant] | None = None

    @property
    def waits(self) -> bool:
        """Whether leaving may wait for somebody: for a worker to be given back, or for the books."""
        return self._worker is not None or self.reservation.waits

    async def __aenter__(self) -> Self:
        await self.reservation.__aenter__()
        try:
            if self._model.local:
                worker = self._leases.worker(self._model, self._facts)
                self.upstream = self._leases.for_row(self._model, await worker.__aenter__())
                self._worker = worker
            else:
                queue = self._leases.queue(self._model)
                if queue is not None:
                    self._turn = queue, await queue.acquire(need_of(self._facts))
                self.upstream, self.provider_key = self._leases.address(self._model, self._now)
        except BaseException as error:
            self._end_turn()
            await self.reservation.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(self, *exception: Any) -> None:
        try:
            if self._worker is not None:
                await self._worker.__aexit__(*exception)
        finally:
            self._end_turn()
            await self.reservation.__aexit__(*exception)

    def _end_turn(self) -> None:
        if self._turn is not None:
            queue, grant = self._turn
            self._turn = None
            queue.release(grant)


@dataclass(slots=True)
class _Addresses:
    """A remote row's upstreams, one per key, as long as row and endpoint are the ones they were made from."""

    model: Model
    endpoint: Endpoint
    by_key: dict[str | None, Upstream] = field(default_factory=dict, repr=False)


class Leases:
    """Takes what a candidate's call needs."""

    def __init__(
        self,
        *,
        pool: WorkerPool,
        endpoint: Callable[[str], Endpoint],
        keys: KeyPools,
        spend: Spend,
        turns: ConcurrencyLimits,
        timeouts: Timeouts,
    ) -> None:
        self._pool = pool
        self._turns = turns
        self._endpoint = endpoint
        self._keys = keys
        self._spend = spend
        self._timeouts = timeouts
        self._addresses: dict[str, _Addresses] = {}

    def take(self, facts: Facts, candidate: Candidate, now: float) -> Lease:
        """To be entered: holds money, and a key or a worker, until the block ends."""
        model = candidate.model
        reservation = self._spend.reserve(
            key=facts.key,
            model=model.id,
            endpoint=model.endpoint_name,
            amount=self._spend.estimate(model.price, facts),
        )
        return Lease(self, facts, model, now, reservation)

    def queue(self, model: Model) -> Slots | None:
        """Where a call of a remote row waits for its turn, if it may have to."""
        assert isinstance(model.source, UpstreamSource)
        return self._turns.at(self._endpoint(model.source.endpoint))

    def worker(self, model: Model, facts: Facts) -> AbstractAsyncContextManager[Upstream]:
        """A lease of a worker of this machine."""
        return self._pool.lease(model, need_of(facts))

    def for_row(self, model: Model, upstream: Upstream) -> Upstream:
        """A worker's upstream, with what the row and the settings say."""
        return replace(
            upstream,
            timeouts=self._timeouts,
            parameters=model.parameters,
            max_output_tokens=model.limits.max_output_tokens,
        )

    def address(self, model: Model, now: float) -> tuple[Upstream, int | None]:
        """Where a remote row's calls go, with the next of its keys, and that key's position.

        Raises ModelUnavailable when the endpoint wants a key and has none to use.
        """
        assert isinstance(model.source, UpstreamSource)
        endpoint = self._endpoint(model.source.endpoint)
        known = self._addresses.get(model.id)
        if known is None or known.model is not model or known.endpoint is not endpoint:
            known = self._addresses[model.id] = _Addresses(model, endpoint)
        secret, position = _next_key(endpoint, self._keys, now)
        upstream = known.by_key.get(secret)
        if upstream is None:
            upstream = known.by_key[secret] = replace(
                _upstream(endpoint, model.source.model, secret, self._timeouts),
                parameters=model.parameters,
                max_output_tokens=model.limits.max_output_tokens,
            )
        return upstream, position

    def has_key(self, candidate: Candidate, now: float) -> bool:
        """Whether another key of the candidate's endpoint could be tried."""
        endpoint = candidate.model.endpoint_name
        return candidate.model.local is False and endpoint not in self._keys.blocked(now)


def upstream_of(
    endpoint: Endpoint, model: str, keys: KeyPools, now: float, default: Timeouts
) -> tuple[Upstream, int | None]:
    """The address of an endpoint with the next of its keys, and that key's position.

    Raises ModelUnavailable when the endpoint wants a key and has none to use.
    """
    secret, position = _next_key(endpoint, keys, now)
    return _upstream(endpoint, model, secret, default), position


def _next_key(endpoint: Endpoint, keys: KeyPools, now: float) -> tuple[str | None, int | None]:
    if not (endpoint.key_env or endpoint.key_keyring):
        return None, None
    key = keys.take(endpoint.id, now)
    if key is None:
        raise ModelUnavailable(
            f"No key of the endpoint '{endpoint.id}' can be used at present. "
            "Set one, or wait until the limited ones have rested."
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
    )


def need_of(facts: Facts) -> Need:
    """What the call asks of a worker's queue; only tokenising (no capability of its own) takes no slot."""
    batch = facts.intent.workload is not Workload.INTERACTIVE
    return Need(
        slots=0 if facts.tokens_only else 1,
        flow=facts.key,
        priority=Priority.BATCH if batch else Priority.INTERACTIVE,
    )


def timeouts_of(endpoint: Endpoint, default: Timeouts) -> Timeouts:
    """The endpoint's own timeouts where it has them."""
    return Timeouts(
        connect=endpoint.connect_timeout or default.connect,
        first_byte=endpoint.first_byte_timeout or default.first_byte,
        idle=endpoint.idle_timeout or default.idle,
        total=endpoint.total_timeout or default.total,
    )
