"""What one call needs before it can be made, taken and given back as one thing.

A local model needs a ready worker with a free slot; a remote one needs a key; both may need money. The
order is money, then key or worker: the cheap refusals come first, and nobody waits for a worker only to
be told that the day's budget is spent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from backends.base import Timeouts, Upstream
from backends.workers.pool import Need, Priority, WorkerPool
from catalog.errors import ModelUnavailable
from catalog.model import Endpoint, Model, UpstreamSource
from routing.facts import Facts, Workload
from routing.keys import KeyPools
from routing.plan import Candidate
from routing.spend import Reservation, Spend


@dataclass(frozen=True, slots=True)
class Lease:
    """What a call was given: where to send it, which key it carries, and the money set aside."""

    upstream: Upstream
    provider_key: int | None
    reservation: Reservation


class Leases:
    """Takes what a candidate's call needs."""

    def __init__(
        self,
        *,
        pool: WorkerPool,
        endpoint: Callable[[str], Endpoint],
        keys: KeyPools,
        spend: Spend,
        timeouts: Timeouts,
    ) -> None:
        self._pool = pool
        self._endpoint = endpoint
        self._keys = keys
        self._spend = spend
        self._timeouts = timeouts

    @asynccontextmanager
    async def take(self, facts: Facts, candidate: Candidate, now: float) -> AsyncIterator[Lease]:
        """Hold money, and a key or a worker, until the block ends.

        Raises BudgetExceeded, ModelUnavailable (no usable key), and whatever the worker pool raises.
        """
        model = candidate.model
        async with AsyncExitStack() as stack:
            reservation = await stack.enter_async_context(
                self._spend.reserve(
                    key=facts.key,
                    model=model.id,
                    endpoint=endpoint_of(model),
                    amount=self._spend.estimate(model.price, facts),
                )
            )
            if isinstance(model.source, UpstreamSource):
                endpoint = self._endpoint(model.source.endpoint)
                upstream, position = upstream_of(endpoint, model.source.model, self._keys, now, self._timeouts)
            else:
                upstream = await stack.enter_async_context(self._pool.lease(model, need_of(facts)))
                upstream = replace(upstream, timeouts=self._timeouts)
                position = None
            yield Lease(
                upstream=replace(
                    upstream, parameters=model.parameters, max_output_tokens=model.limits.max_output_tokens
                ),
                provider_key=position,
                reservation=reservation,
            )

    def has_key(self, candidate: Candidate, now: float) -> bool:
        """Whether another key of the candidate's endpoint could be tried."""
        endpoint = endpoint_of(candidate.model)
        return candidate.model.local is False and endpoint not in self._keys.blocked(now)


def upstream_of(
    endpoint: Endpoint, model: str, keys: KeyPools, now: float, default: Timeouts
) -> tuple[Upstream, int | None]:
    """The address of an endpoint with the next of its keys, and that key's position.

    Raises ModelUnavailable when the endpoint wants a key and has none to use.
    """
    secret = position = None
    if endpoint.key_env or endpoint.key_keyring:
        key = keys.take(endpoint.id, now)
        if key is None:
            raise ModelUnavailable(
                f"No key of the endpoint '{endpoint.id}' can be used at present. "
                "Set one, or wait until the limited ones have rested."
            )
        secret, position = key.secret, key.position
    upstream = Upstream(
        endpoint=endpoint.id,
        protocol=endpoint.protocol,
        base_url=endpoint.base_url,
        model=model,
        api_key=secret,
        headers=endpoint.headers,
        query=endpoint.query,
        timeouts=timeouts_of(endpoint, default),
    )
    return upstream, position


def endpoint_of(model: Model) -> str:
    """The name that breakers and metrics use: the endpoint's, or ``local`` for a worker."""
    return model.source.endpoint if isinstance(model.source, UpstreamSource) else "local"


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
