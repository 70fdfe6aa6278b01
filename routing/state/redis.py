"""The state in Redis, shared by gateways on several machines.

Holds and charges are decided in the store by Lua scripts (:mod:`routing.state.redis_scripts`). Other writes are
sent in the background, in order and in pipelines, by one task; while Redis is unreachable they wait, outcomes
within a bound, and the log says so once.

All names begin with ``{prefix}``, in braces, so that a Redis Cluster keeps them in one slot::

    {rh}:c:NAME                 a counter, with its expiry
    {rh}:names:FAMILY           sorted set by expiry: the counters whose names begin with FAMILY and a slash
    {rh}:holds                  hash: hold id -> JSON
    {rh}:usage:DAY              hash: JSON [model, endpoint, key, field] -> number
    {rh}:d:KIND                 hash: name -> JSON [expires_at, document]
    {rh}:outcomes, :trace:ID    sorted set by time; list, with an expiry
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from catalog.errors import ConfigurationError
from catalog.installing import install_command
from routing.outcomes import Outcome
from routing.state.protocol import (
    EXTRA_SHARE,
    ONCE,
    USAGE_SUMS,
    Charge,
    Claim,
    Claimed,
    Counter,
    Hold,
    OutcomeQuery,
    UsageRow,
    decode,
    encode,
)
from routing.state.redis_clients import parse_address, redis_client
from routing.state.redis_records import RedisRecords
from routing.state.redis_scripts import ABANDON, CHARGE, CLAIM, COUNT, HOLD, ScriptBatcher, resolves_within

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import Pipeline

_MIN_RETRY_DELAY, _MAX_RETRY_DELAY = 0.05, 2.0
Send = Callable[["Pipeline"], Any]


@dataclass(slots=True)
class _PipelineJob:
    send: Send
    future: asyncio.Future[None] | None = None
    droppable: bool = False


class RedisState:
    """:class:`routing.state.protocol.State` on a Redis server, by its URL."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "rh",
        password_file: Path | None = None,
        batch: int = 500,
        backlog: int = 100_000,
        keep_outcomes: float = 30 * 86_400.0,
        max_outcomes: int = 1_000_000,
    ) -> None:
        self._url = url
        self._prefix = prefix
        self._password_file = password_file
        self._name = "{" + prefix + "}:"
        self.records = RedisRecords(self._run_script, self._name)
        self._batch = batch
        self._backlog = backlog
        self._keep_outcomes = int(keep_outcomes)
        self._max_outcomes = max_outcomes
        self._jobs: deque[_PipelineJob] = deque()
        self._pending = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None
        self._client: Redis | None = None
        self._scripts: ScriptBatcher | None = None
        self._errors: tuple[type[Exception], ...] = (OSError,)
        self._failing_since: float | None = None
        self._charges = 0
        self._session = f"{time.time_ns():x}-{id(self):x}"
        self._log = structlog.get_logger("roundhouse.state")

    @property
    def generation(self) -> int:
        return 0

    @property
    def lag(self) -> float:
        since = self._failing_since
        return 0.0 if since is None else max(time.monotonic() - since, 0.001)

    async def start(self) -> None:
        try:
            from redis.exceptions import AuthenticationError, RedisError
        except ImportError:
            raise ConfigurationError(
                f"State in Redis needs one more package: {install_command('redis')}"
            ) from None
        self._errors = (RedisError, OSError)
        client = redis_client(
            self._url,
            prefix=self._prefix,
            password_file=self._password_file,
            socket_connect_timeout=2.0,
            socket_timeout=5.0,
        )
        try:
            await client.ping()
        except self._errors as error:
            await client.aclose()
            # The URL may hold a password, and so may the client's own message; neither is shown.
            place = parse_address(self._url).place
            refused = isinstance(error, AuthenticationError)
            said = "refuses the user or password" if refused else "does not answer"
            raise ConfigurationError(
                f"The state's Redis server at {place} {said} ({type(error).__name__}). Start it, or correct "
                "state.url, or the variable that state.url_env names."
            ) from None
        self._client = client
        await self._make_indexes()
        self._scripts = ScriptBatcher(client, self._errors)
        self._sender = asyncio.get_running_loop().create_task(self._send_all(), name="state-redis")

    async def close(self) -> None:
        if self._client is None:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.flush(), timeout=5.0)
        if self._scripts is not None:
            await self._scripts.close()
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait((self._sender,))
        if self._jobs:
            self._log.error("state.lost", jobs=len(self._jobs))
        for job in self._jobs:
            if job.future is not None and not job.future.done():
                job.future.cancel()
        self._jobs.clear()
        await self._client.aclose()

    async def flush(self) -> None:
        await self._append_awaited(lambda pipe: pipe.ping())

    # ---- documents and counters

    def put(self, kind: str, name: str, document: Any, *, expires_at: float | None = None) -> None:
        where = f"{self._name}d:{kind}"
        if document is None:
            self._append(_PipelineJob(lambda pipe: pipe.hdel(where, name)))
            return
        body = encode([expires_at, document])
        self._append(_PipelineJob(lambda pipe: pipe.hset(where, name, body)))

    async def document(self, kind: str, name: str) -> Any:
        body = await self._execute("HGET", f"{self._name}d:{kind}", name)
        try:
            expires_at, document = decode(body) if body is not None else (None, None)
        except (ValueError, TypeError):
            return None
        return document if expires_at is None or expires_at >= time.time() else None

    async def documents(self, kind: str) -> dict[str, Any]:
        stored = await self._execute("HGETALL", f"{self._name}d:{kind}")
        now, found = time.time(), {}
        for name, body in stored.items():
            try:
                expires_at, document = decode(body)
            except (ValueError, TypeError):
                continue
            if expires_at is None or expires_at >= now:
                found[name.decode()] = document
        return found

    def count(self, counters: Sequence[Counter], amount: int, *, urgent: bool = False) -> None:
        del urgent  # a round trip is begun at once in any case

        def send(pipe: Pipeline) -> None:
            for counter in counters:
                pipe.eval(COUNT, 1, self._counter(counter), str(amount), _expiry(counter))

        self._append(_PipelineJob(send))

    async def claim(self, claims: Sequence[Claim], timeout: float) -> Claimed:
        keys = [self._counter(claim.counter) for claim in claims]
        arguments = [str(EXTRA_SHARE)]
        for claim in claims:
            limit = claim.counter.limit
            bound = "" if limit is None else str(limit)
            amounts = (str(claim.amount), str(claim.extra), str(claim.optional))
            arguments += [bound, _expiry(claim.counter), *amounts]
        assert self._scripts is not None, "the state was not started"
        decision = self._scripts.submit(CLAIM, keys, arguments)
        try:
            if not await resolves_within(decision, timeout):
                raise TimeoutError
            refused, *numbers = decision.result()
        except self._errors as error:
            self._log_failure(error)
            raise ConnectionError(f"the state's Redis server does not answer ({type(error).__name__})") from None
        finally:
            decision.cancel()
        return Claimed(refused - 1 if refused else None, tuple(numbers[::2]), tuple(numbers[1::2]))

    async def counts(self, prefix: str) -> dict[str, int]:
        start = f"{self._name}c:"
        index = f"{self._name}names:{prefix.partition('/')[0]}"
        found = [name.decode() for name in await self._execute("ZRANGEBYSCORE", index, int(time.time()), "+inf")]
        names = sorted(name for name in found if name.startswith(prefix))
        values = await self._execute("MGET", *(start + name for name in names)) if names else ()
        pairs = zip(names, values, strict=True)
        return {name: int(value) for name, value in pairs if value is not None}

    # ---- money

    async def hold(self, hold: Hold, timeout: float) -> Counter | None:
        body = encode(asdict(hold))
        keys = [
            f"{self._name}holds",
            f"{self._name}charged:{hold.id}",
            *(self._counter(counter) for counter in hold.counters),
        ]
        bounds: list[str] = []
        for counter in hold.counters:
            bounds += ["" if counter.limit is None else str(counter.limit), _expiry(counter)]

        def arguments(forced: bool) -> list[Any]:
            return [hold.id, body, str(hold.amount), "1" if forced else "0", *bounds]

        assert self._scripts is not None, "the state was not started"
        decision = self._scripts.submit(HOLD, keys, arguments(forced=False))
        try:
            refused = decision.result() if await resolves_within(decision, timeout) else None
        except self._errors as error:
            self._log_failure(error)
            refused = None
        else:
            if refused is None:
                self._log_failure(TimeoutError())
        finally:
            decision.cancel()
        if refused is None:
            self._append(_PipelineJob(lambda pipe: pipe.eval(HOLD, len(keys), *keys, *arguments(forced=True))))
            return None
        return hold.counters[refused - 1] if refused else None

    def charge(self, charge: Charge) -> asyncio.Future[None]:
        self._charges += 1
        identity = charge.hold or charge.once or f"{self._session}-{self._charges}"
        usage = charge.usage
        keys = [
            f"{self._name}holds",
            f"{self._name}charged:{identity}",
            f"{self._name}usage:{usage.day}",
            *(self._counter(counter) for counter in charge.counters),
        ]
        sums = _sums(usage)
        arguments = [
            charge.hold or "",
            str(charge.amount),
            str(len(sums) // 2),
            *sums,
            *(_expiry(counter) for counter in charge.counters),
            str(3600 if charge.once is None else ONCE),
        ]
        return self._append_awaited(lambda pipe: pipe.eval(CHARGE, len(keys), *keys, *arguments))

    async def recover(self, abandoned: Callable[[str, float], bool]) -> int:
        holds = await self._execute("HGETALL", f"{self._name}holds")
        recovered = 0
        for identity, body in holds.items():
            hold = decode(body)
            if not abandoned(hold["owner"], hold["at"]):
                continue
            usage = UsageRow(
                hold["day"],
                hold["model"],
                hold["endpoint"],
                hold["key"],
                calls=1,
                unknown=1,
                estimated=hold["amount"],
            )
            keys, sums = [f"{self._name}holds", f"{self._name}usage:{usage.day}"], _sums(usage)
            script = (ABANDON, len(keys), *keys, identity, str(len(sums) // 2), *sums)
            recovered += await self._execute("EVAL", *script)
        return recovered

    async def usage(self, first_day: str, last_day: str) -> list[UsageRow]:
        start = f"{self._name}usage:"
        names = await self._names(f"{start}*")
        rows: list[UsageRow] = []
        for name in names:
            day = name[len(start) :]
            if not first_day <= day <= last_day:
                continue
            sums: dict[tuple[str, str, str], dict[str, Any]] = {}
            for field, value in (await self._execute("HGETALL", name)).items():
                model, endpoint, key, what = decode(field)
                number = float(value) if what == "units" else int(Decimal(value.decode()))
                sums.setdefault((model, endpoint, key), {})[what] = number
            rows.extend(UsageRow(day, *identity, **figures) for identity, figures in sorted(sums.items()))
        return rows

    # ---- outcomes

    def add_outcome(self, outcome: Outcome) -> None:
        body = encode(outcome)

        def send(pipe: Pipeline) -> None:
            trace = f"{self._name}trace:{outcome.trace}"
            pipe.zadd(f"{self._name}outcomes", {body: outcome.at})
            pipe.zremrangebyrank(f"{self._name}outcomes", 0, -self._max_outcomes - 1)
            pipe.rpush(trace, body)
            pipe.expire(trace, self._keep_outcomes)

        self._append(_PipelineJob(send, droppable=True))

    async def outcomes(self, query: OutcomeQuery) -> list[dict[str, Any]]:
        if query.trace is not None:
            name = f"{self._name}trace:{query.trace}"
            bodies = await self._execute("LRANGE", name, 0, -1)
            found = [one for one in map(decode, reversed(bodies)) if query.since <= one["at"] < query.until]
            return found[: query.limit]
        window = (f"{self._name}outcomes", f"({query.until}", query.since)
        bodies = await self._execute("ZREVRANGEBYSCORE", *window, "LIMIT", 0, query.limit)
        return [decode(body) for body in bodies]

    async def prune(self, *, outcomes_before: float, now: float) -> None:
        await self._execute("ZREMRANGEBYSCORE", f"{self._name}outcomes", "-inf", f"({outcomes_before}")
        for name in await self._names(f"{self._name}d:*"):
            for field, body in (await self._execute("HGETALL", name)).items():
                with contextlib.suppress(ValueError, TypeError):
                    expires_at, _ = decode(body)
                    if expires_at is not None and expires_at < now:
                        await self._execute("HDEL", name, field)
        await self.records.prune(now)

    # ---- sending

    async def _make_indexes(self) -> None:
        """Index the counters of a state that an earlier version wrote, once."""
        assert self._client is not None
        done = f"{self._name}indexed"
        if await self._client.exists(done):
            return
        start = f"{self._name}c:"
        async for key in self._client.scan_iter(match=f"{_literal(start)}*", count=1000):
            left = await self._client.ttl(key)
            name = key.decode()[len(start) :]
            score = float("inf") if left < 0 else time.time() + left
            await self._client.zadd(f"{self._name}names:{name.partition('/')[0]}", {name: score})
        await self._client.set(done, "1")

    def _counter(self, counter: Counter) -> str:
        return f"{self._name}c:{counter.name}"

    def _append_awaited(self, send: Send) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._append(_PipelineJob(send, future))
        return future

    def _append(self, job: _PipelineJob) -> None:
        if job.droppable and len(self._jobs) >= self._backlog:
            return
        self._jobs.append(job)
        self._pending.set()

    async def _execute(self, *command: Any) -> Any:
        """Run a command after all pending writes. Raises ConnectionError when Redis is unreachable."""
        assert self._client is not None, "the state was not started"
        try:
            async with asyncio.timeout(5.0):
                if self._jobs:  # a job stays among them until it was sent
                    await self.flush()
                return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except self._errors as error:
            self._log_failure(error)
            raise ConnectionError(f"the state's Redis server does not answer ({type(error).__name__})") from None

    async def _run_script(self, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """The result of a script. Raises ConnectionError when Redis is unreachable."""
        assert self._scripts is not None, "the state was not started"
        running = self._scripts.submit(script, keys, arguments)
        try:
            return await running
        except self._errors as error:
            self._log_failure(error)
            raise ConnectionError(f"the state's Redis server does not answer ({type(error).__name__})") from None
        finally:
            running.cancel()

    async def _names(self, pattern: str) -> list[str]:
        """The Redis keys that match a pattern."""
        cursor = 0
        names: set[str] = set()
        while True:
            cursor, found = await self._execute("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            names.update(name.decode() for name in found)
            if cursor == 0:
                return sorted(names)

    async def _send_all(self) -> None:
        delay = _MIN_RETRY_DELAY
        while True:
            await self._pending.wait()
            jobs = [self._jobs[index] for index in range(min(self._batch, len(self._jobs)))]
            try:
                await self._send(jobs)
            except self._errors as error:
                self._log_failure(error)
                await asyncio.sleep(delay)
                delay = min(_MAX_RETRY_DELAY, delay * 2)
                continue
            delay = _MIN_RETRY_DELAY
            if self._failing_since is not None:
                self._failing_since = None
                self._log.warning("state.written_again", home="redis")
            for job in jobs:
                self._jobs.popleft()
                if job.future is not None and not job.future.done():
                    job.future.set_result(None)
            if not self._jobs:
                self._pending.clear()

    async def _send(self, jobs: list[_PipelineJob]) -> None:
        """Send a batch in one MULTI, so that it is applied as a whole or not at all."""
        assert self._client is not None
        async with self._client.pipeline(transaction=True) as pipe:
            for job in jobs:
                job.send(pipe)
            await pipe.execute()

    def _log_failure(self, error: BaseException) -> None:
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            self._log.error("state.not_written", home="redis", error=type(error).__name__, will="try again")


def _literal(text: str) -> str:
    """A pattern of Redis that matches this text alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def _expiry(counter: Counter) -> str:
    return "" if counter.expires_at is None else str(int(counter.expires_at))


def _sums(row: UsageRow) -> list[Any]:
    """Hash field and value of each sum of a usage row that is not zero, alternating."""
    pairs: list[Any] = []
    for name in USAGE_SUMS:
        value = getattr(row, name)
        if value:
            pairs += [encode([row.model, row.endpoint, row.key, name]), repr(value)]
    return pairs
