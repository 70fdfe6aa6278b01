"""The control socket: gateways' pools in front of a real supervisor of fake workers."""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from backends.base import Upstream
from backends.queueing import Need, Priority
from backends.workers.control.channel import Channel
from backends.workers.control.codec import (
    dumps,
    error_from_json,
    error_to_json,
    upstream_from_json,
    upstream_to_json,
)
from backends.workers.control.remote_pool import RemotePool
from backends.workers.control.service import PoolService
from backends.workers.pool import WorkerState
from catalog import errors
from catalog.catalog import Catalog
from catalog.errors import (
    ContextLengthExceeded,
    EngineMissing,
    ModelNotFound,
    ModelUnavailable,
    QueueFull,
    RoundhouseError,
    Unavailable,
    UpstreamError,
    UpstreamUnreachable,
    WorkerFailed,
)
from catalog.model import Model
from tests.backends.workers.conftest import OpenPool, PoolHarness, client, model
from tests.work import counted_calls


class Owner:
    """The parent's side: a supervisor with a channel for each gateway."""

    def __init__(self, harness: PoolHarness) -> None:
        self.harness = harness
        self.service = PoolService(harness.pool)
        self.channels: list[Channel] = []

    async def gateway(self) -> tuple[RemotePool, Channel]:
        """Connect a new gateway; return its pool and its end of the channel."""
        ours, theirs = socket.socketpair()
        owner, channel = Channel(), Channel()
        self.service.offer(owner)
        pool = RemotePool(channel)
        await owner.open(ours)
        await channel.open(theirs)
        await pool.start()
        self.channels += [owner, channel]
        return pool, channel


@asynccontextmanager
async def owned(open_pool: OpenPool, **settings: Any) -> AsyncIterator[Owner]:
    async with open_pool(**settings) as opened:
        owner = Owner(opened)
        pushing = asyncio.create_task(owner.service.run())
        try:
            yield owner
        finally:
            pushing.cancel()
            for channel in owner.channels:
                channel.close()
            async with asyncio.timeout(30):
                for channel in owner.channels:
                    await channel.closed.wait()


async def until(condition: Any, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


class Tapped:
    """A transport that keeps what is written to it."""

    def __init__(self, transport: Any, written: list[bytes]) -> None:
        self._transport = transport
        self._written = written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._written.append(data)
        self._transport.write(data)


def state(pool: RemotePool, name: str = "m") -> WorkerState | None:
    return next((worker.state for worker in pool.snapshot().workers if worker.model == name), None)


async def ask(pool: RemotePool, row: Model) -> str:
    async with pool.lease(row, Need()) as upstream, client(upstream) as http:
        answer = (await http.post("/chat/completions", json={"messages": []})).raise_for_status().json()
        return str(answer["choices"][0]["message"]["content"])


async def test_a_lease_through_the_socket_is_a_lease(open_pool: OpenPool) -> None:
    async with owned(open_pool) as owner:
        pool, _ = await owner.gateway()
        async with pool.lease(model(), Need()) as upstream:
            assert owner.harness.view().busy == 1
            assert upstream.endpoint == "worker/m"
            async with client(upstream) as http:
                assert (await http.post("/chat/completions", json={"messages": []})).status_code == 200
        await owner.harness.until(lambda: owner.harness.view().busy == 0)


async def test_the_owner_is_told_why_a_call_failed_and_replaces_a_worker_that_cannot_be_reached(
    open_pool: OpenPool,
) -> None:
    async with owned(open_pool) as owner:
        pool, _ = await owner.gateway()
        async with pool.lease(model(), Need()) as upstream, client(upstream) as http:
            await http.post("/chat/completions", json={"messages": [], "fake": {"unlisten": True}})
        with pytest.raises(UpstreamUnreachable):
            async with pool.lease(model(), Need()):
                raise UpstreamUnreachable("refused")
        assert await ask(pool, model())
        assert owner.harness.view().restarts == 1


async def test_two_gateways_share_one_worker_and_both_see_it(open_pool: OpenPool) -> None:
    async with owned(open_pool) as owner:
        first, _ = await owner.gateway()
        second, _ = await owner.gateway()
        assert await asyncio.gather(ask(first, model()), ask(second, model()))
        assert owner.harness.witness.loads == ["m"]
        for pool in (first, second):
            await until(lambda pool=pool: state(pool) is WorkerState.READY)
            assert pool.snapshot().devices == owner.harness.pool.snapshot().devices
            await until(lambda pool=pool: pool.snapshot() == owner.harness.pool.snapshot())


async def test_a_gateway_that_dies_gives_back_what_it_held_and_waited_for(open_pool: OpenPool) -> None:
    async with owned(open_pool, slots=1) as owner:
        dying, channel = await owner.gateway()
        living, _ = await owner.gateway()
        held = asyncio.Event()

        async def hold() -> None:
            async with dying.lease(model(), Need()):
                held.set()
                await asyncio.Event().wait()

        holders = [asyncio.create_task(hold()) for _ in range(3)]
        await held.wait()
        await owner.harness.until(lambda: owner.harness.view().queued == 2)
        waiting = asyncio.create_task(ask(living, model()))
        await owner.harness.until(lambda: owner.harness.view().queued == 3)
        channel.close()
        async with asyncio.timeout(30):
            assert await waiting
        await owner.harness.until(lambda: owner.harness.view().busy == owner.harness.view().queued == 0)
        waiters = [holder for holder in holders if holder.done()]
        for holder in holders:
            holder.cancel()
        outcomes = await asyncio.gather(*holders, return_exceptions=True)
        assert len(waiters) == 2
        assert sum(isinstance(outcome, Unavailable) for outcome in outcomes) == 2
        with pytest.raises(Unavailable):
            await dying.log("m")


async def test_a_wait_that_is_cancelled_leaves_no_trace(open_pool: OpenPool) -> None:
    async with owned(open_pool, slots=1) as owner:
        pool, channel = await owner.gateway()
        async with pool.lease(model(), Need()):
            waiting = asyncio.create_task(ask(pool, model()))
            await owner.harness.until(lambda: owner.harness.view().queued == 1)
            waiting.cancel()
            await owner.harness.until(lambda: owner.harness.view().queued == 0)
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await owner.harness.until(lambda: owner.harness.view().busy == 0)
        assert not channel._asked
        assert not owner.channels[0]._working


@pytest.mark.parametrize("turns", range(12))
async def test_a_lease_cancelled_at_any_moment_is_given_back(open_pool: OpenPool, turns: int) -> None:
    async with owned(open_pool, slots=1) as owner:
        pool, _ = await owner.gateway()
        await pool.load(model())
        taking = asyncio.create_task(ask(pool, model()))
        for _ in range(turns):
            await asyncio.sleep(0)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        await owner.harness.until(lambda: owner.harness.view().busy == owner.harness.view().queued == 0)
        assert await ask(pool, model())


async def test_a_load_that_nobody_waits_for_any_more_is_cancelled(open_pool: OpenPool) -> None:
    async with owned(open_pool) as owner:
        pool, _ = await owner.gateway()
        loading = asyncio.create_task(pool.load(model(start_delay=30)))
        await until(lambda: state(pool) is WorkerState.STARTING)
        loading.cancel()
        await until(lambda: state(pool) is WorkerState.STOPPED)
        with pytest.raises(asyncio.CancelledError):
            await loading


async def test_load_unload_and_log_and_a_snapshot_that_knows_of_them(open_pool: OpenPool) -> None:
    async with owned(open_pool) as owner:
        pool, _ = await owner.gateway()
        view = await pool.load(model(), keep_alive=7)
        assert view.state is WorkerState.READY
        assert state(pool) is WorkerState.READY, "who asked for a load sees it in the snapshot at once"
        assert owner.harness.view().expires_at is not None
        pool.keep("m", -1)
        await until(lambda: owner.harness.view().expires_at is None)
        assert await pool.log("m", lines=5) == await owner.harness.pool.log("m", lines=5)
        assert await pool.unload("m") is True
        assert state(pool) is WorkerState.STOPPED
        assert await pool.unload("m") is False


async def test_a_changed_row_is_used_from_the_next_call_on(open_pool: OpenPool) -> None:
    async with owned(open_pool) as owner:
        pool, _ = await owner.gateway()
        await pool.load(model())
        await pool.load(model(slots=3))
        await owner.harness.until(lambda: owner.harness.view().slots == 3)


async def test_errors_cross_as_they_are(open_pool: OpenPool) -> None:
    async with owned(open_pool, max_queue=1, slots=1) as owner:
        pool, _ = await owner.gateway()
        with pytest.raises(EngineMissing) as missing:
            await ask(pool, model(engine="absent"))
        assert (missing.value.engine, missing.value.extra, missing.value.status) == ("absent", "nowhere", 404)
        owner.harness.store.absent.add("gone")
        with pytest.raises(ModelUnavailable, match="'gone' is not pulled"):
            await pool.load(model("gone"))
        with pytest.raises(WorkerFailed) as failed:
            await pool.load(model("u", engine="unstartable"))
        assert failed.value.retry_after is not None
        async with pool.lease(model(), Need()):
            waiting = asyncio.create_task(ask(pool, model()))
            await owner.harness.until(lambda: owner.harness.view().queued == 1)
            with pytest.raises(QueueFull) as full:
                await ask(pool, model())
            assert full.value.retry_after is not None
            assert full.value.retry_after >= 1
        await waiting


async def test_drain_waits_for_leases_of_every_gateway(open_pool: OpenPool) -> None:
    async with owned(open_pool) as owner:
        first, _ = await owner.gateway()
        second, _ = await owner.gateway()
        async with second.lease(model(), Need()):
            draining = asyncio.create_task(first.drain(60))
            with pytest.raises(errors.Draining):
                while True:
                    async with first.lease(model(), Need(slots=0)):
                        await asyncio.sleep(0.01)
            assert not draining.done()
        async with asyncio.timeout(30):
            await draining
        assert state(first) is WorkerState.STOPPED


async def test_a_gateway_that_does_not_read_costs_no_memory_and_catches_up(open_pool: OpenPool) -> None:
    async with owned(open_pool) as owner:
        pool, channel = await owner.gateway()
        await pool.load(model())
        transport = channel._transport
        assert transport is not None
        transport.pause_reading()
        ours = owner.channels[0]
        ours.tell("padding", "x" * 3_000_000)
        assert ours.behind
        await owner.harness.pool.unload("m")
        await asyncio.sleep(0)
        transport.resume_reading()
        await until(lambda: state(pool) is WorkerState.STOPPED)


async def test_a_lease_costs_one_small_message_each_way_and_few_calls(
    open_pool: OpenPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ends share this test's one thread, so the calls of both are counted: about 500, some 0.1 ms."""
    async with owned(open_pool) as owner:
        pool, channel = await owner.gateway()
        row, need = model(), Need(slots=0)
        await pool.load(row)
        messages: list[bytes] = []
        fewest = 1_000_000
        for end in (channel, owner.channels[0]):
            monkeypatch.setattr(end, "_transport", Tapped(end._transport, messages))
        for _ in range(20):
            messages.clear()
            with counted_calls() as calls:
                async with pool.lease(row, need):
                    sent = [json.loads(message) for message in messages]
                    sent = [message for message in sent if message.get("note") != "snapshot"]
            fewest = min(fewest, calls.number)
            assert [message.keys() & {"call", "done", "note"} for message in sent] == [{"call"}, {"done"}]
            assert len(json.dumps(sent)) < 1000
        assert fewest < 1000


@pytest.mark.parametrize(
    "error",
    [
        ContextLengthExceeded(model="m", limit=10, requested=20),
        ModelNotFound("x", nearest=("y", "z")),
        UpstreamError("bad", upstream_status=503, retry_after=2.5),
        *(
            kind("why", param="p", retry_after=3.0)
            for kind in vars(errors).values()
            if inspect.isclass(kind)
            and issubclass(kind, RoundhouseError)
            and vars(kind).get("__init__") is None
            and kind.__init__ is RoundhouseError.__init__
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_error_survives_the_crossing(error: RoundhouseError) -> None:
    import orjson

    again = error_from_json(orjson.loads(dumps(error_to_json(error))))
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert (str(again), again.to_body(), again.headers()) == (str(error), error.to_body(), error.headers())


def test_an_error_that_this_version_does_not_know_keeps_its_message() -> None:
    again = error_from_json({"type": "Any", "message": "from the future", "carries": {}})
    assert type(again) is RoundhouseError
    assert again.message == "from the future"


def test_upstreams_and_rows_survive_the_crossing() -> None:
    import orjson

    upstream = Upstream(
        "worker/m",
        "worker",
        "http://worker/v1",
        "m",
        uds="/x",
        api_key="k",
        headers={"a": "b"},
        parameters=frozenset({"seed", "top_p"}),
    )
    assert upstream_from_json(orjson.loads(dumps(upstream_to_json(upstream)))) == upstream
    for row in Catalog.load():
        assert Model.model_validate(orjson.loads(dumps(row.model_dump(mode="json")))) == row


async def test_a_fault_in_an_operation_is_an_answer_not_silence() -> None:
    ours, theirs = socket.socketpair()
    one, other = Channel(), Channel()

    async def broken(_: Any) -> None:
        raise ZeroDivisionError

    one.answer("broken", broken)
    await one.open(ours)
    await other.open(theirs)
    with pytest.raises(RoundhouseError, match="internal"):
        await other.call("broken")
    with pytest.raises(RoundhouseError, match="does not know 'nothing'"):
        await other.call("nothing")
    other.close()
    await one.closed.wait()
    with pytest.raises(Unavailable):
        await other.call("broken")


async def test_priority_and_flow_cross(open_pool: OpenPool) -> None:
    async with owned(open_pool, slots=1) as owner:
        pool, _ = await owner.gateway()
        order: list[str] = []

        async def take(name: str, need: Need) -> None:
            async with pool.lease(model(), need):
                order.append(name)

        async with pool.lease(model(), Need()):
            waiting: list[asyncio.Task[None]] = []
            for name, need in {
                "batch": Need(priority=Priority.BATCH),
                "a1": Need(flow="a"),
                "a2": Need(flow="a"),
                "b1": Need(flow="b"),
            }.items():
                waiting.append(asyncio.create_task(take(name, need)))
                await owner.harness.until(lambda: owner.harness.view().queued == len(waiting))
        await asyncio.gather(*waiting)
        assert order == ["a1", "b1", "a2", "batch"]


async def test_a_lease_of_a_parent_that_does_not_answer_is_refused_until_it_does(open_pool: OpenPool) -> None:
    async with owned(open_pool) as owner:
        pool, _ = await owner.gateway()
        pool.patience = 0.05
        parent = owner.channels[-2]
        hear = parent.data_received
        missed: list[bytes] = []
        parent.data_received = missed.append  # type: ignore[method-assign, assignment]  # stopped
        for _ in range(2):
            with pytest.raises(Unavailable, match="does not answer"):
                async with pool.lease(model(), Need()):
                    pass
        parent.data_received = hear  # type: ignore[method-assign]
        for data in missed:
            hear(data)
        await until(lambda: not pool.silent)
        pool.patience = 30.0
        assert (await ask(pool, model())).startswith("m:0")


async def test_a_lease_may_take_longer_than_the_parent_needs_to_answer(open_pool: OpenPool) -> None:
    async with owned(open_pool) as owner:
        pool, _ = await owner.gateway()
        pool.patience = 1.0
        assert (await ask(pool, model(start_delay=2.5))).startswith("m:0")
