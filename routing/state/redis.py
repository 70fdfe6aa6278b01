"""The router's memory in Redis: the home that several gateways share.

Counters change in the store, atomically: a hold is decided and taken by one Lua script, a charge by another,
so two gateways can never have the same money. What is written behind is sent in order, in pipelines, by one
task; while Redis is away it is kept, within a bound, and the log says so once.

All names begin with ``{prefix}``, in braces, so that on a Redis Cluster they lie in one slot::

    {rh}:c:NAME                 a counter, with its expiry
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
from typing import TYPE_CHECKING, Any

import structlog

from catalog.errors import ConfigurationError
from catalog.installing import install_command
from routing.outcomes import Outcome
from routing.state.protocol import USAGE_SUMS, Charge, Counter, Hold, OutcomeQuery, UsageRow, decode, encode
from routing.state.redis_holds import Decisions, answered

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import Pipeline

# KEYS: holds, charged, counters...   ARGV: id, body, amount, forced, then limit ('' is none) and expiry of each
# counter. A hold that was sent twice counts once, also when its charge has overtaken it on another connection.
_HOLD = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 or redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
if ARGV[4] == '0' then
  for i = 3, #KEYS do
    local limit = ARGV[i * 2 - 1]
    if limit ~= '' and tonumber(redis.call('GET', KEYS[i]) or '0') + tonumber(ARGV[3]) > tonumber(limit) then
      return i - 2
    end
  end
end
for i = 3, #KEYS do
  redis.call('INCRBY', KEYS[i], ARGV[3])
  local expiry = ARGV[i * 2]
  if expiry ~= '' then redis.call('EXPIREAT', KEYS[i], expiry) end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 0
"""

# KEYS: holds, charged, usage, counters...   ARGV: id, amount, number of sums, field and value of each,
# then the expiry of each counter. A charge that was sent twice, because its answer was lost, counts once.
_CHARGE = """
if redis.call('SET', KEYS[2], '1', 'NX', 'EX', 3600) == false then return 0 end
local held = 0
local body = redis.call('HGET', KEYS[1], ARGV[1])
if body then
  held = cjson.decode(body)['amount']
  redis.call('HDEL', KEYS[1], ARGV[1])
end
local sums = tonumber(ARGV[3])
for i = 0, sums - 1 do
  redis.call('HINCRBYFLOAT', KEYS[3], ARGV[4 + i * 2], ARGV[5 + i * 2])
end
local change = string.format('%.0f', tonumber(ARGV[2]) - held)
for i = 4, #KEYS do
  redis.call('INCRBY', KEYS[i], change)
  local expiry = ARGV[4 + sums * 2 + i - 4]
  if expiry ~= '' then redis.call('EXPIREAT', KEYS[i], expiry) end
end
return 1
"""

# KEYS: holds, usage   ARGV: id, number of sums, field and value of each
_ABANDON = """
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
for i = 0, tonumber(ARGV[2]) - 1 do
  redis.call('HINCRBYFLOAT', KEYS[2], ARGV[3 + i * 2], ARGV[4 + i * 2])
end
return 1
"""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
Send = Callable[["Pipeline"], Any]


@dataclass(slots=True)
class _Job:
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
        batch: int = 500,
        backlog: int = 100_000,
        keep_outcomes: float = 30 * 86_400.0,
        most_outcomes: int = 1_000_000,
    ) -> None:
        self._url = url
        self._name = "{" + prefix + "}:"
        self._batch = batch
        self._backlog = backlog
        self._keep = int(keep_outcomes)
        self._most = most_outcomes
        self._jobs: deque[_Job] = deque()
        self._work = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None
        self._client: Redis | None = None
        self._decisions: Decisions | None = None
        self._errors: tuple[type[Exception], ...] = (OSError,)
        self._troubled = False
        self._charges = 0
        self._session = f"{time.time_ns():x}-{id(self):x}"
        self._log = structlog.get_logger("roundhouse.state")

    @property
    def generation(self) -> int:
        return 0

    async def start(self) -> None:
        try:
            from redis.asyncio import Redis
            from redis.exceptions import RedisError
        except ImportError:
            raise ConfigurationError(
                f"State in Redis needs one more package: {install_command('redis')}"
            ) from None
        self._errors = (RedisError, OSError)
        client = Redis.from_url(self._url, socket_connect_timeout=2.0, socket_timeout=5.0)
        try:
            await client.ping()
        except self._errors as error:
            await client.aclose()
            # The URL may hold a password, and so may the client's own message; neither is shown.
            raise ConfigurationError(
                f"The state's Redis server does not answer ({type(error).__name__})."
            ) from None
        self._client = client
        self._decisions = Decisions(client, self._errors)
        self._sender = asyncio.get_running_loop().create_task(self._send_all(), name="state-redis")

    async def close(self) -> None:
        if self._client is None:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.flush(), timeout=5.0)
        if self._decisions is not None:
            await self._decisions.close()
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
        await self._later(lambda pipe: pipe.ping())

    # ---- documents and counters

    def put(self, kind: str, name: str, document: Any, *, expires_at: float | None = None) -> None:
        where = f"{self._name}d:{kind}"
        if document is None:
            self._append(_Job(lambda pipe: pipe.hdel(where, name)))
            return
        body = encode([expires_at, document])
        self._append(_Job(lambda pipe: pipe.hset(where, name, body)))

    async def document(self, kind: str, name: str) -> Any:
        body = await self._ask("HGET", f"{self._name}d:{kind}", name)
        try:
            expires_at, document = decode(body) if body is not None else (None, None)
        except (ValueError, TypeError):
            return None
        return document if expires_at is None or expires_at >= time.time() else None

    async def documents(self, kind: str) -> dict[str, Any]:
        stored = await self._ask("HGETALL", f"{self._name}d:{kind}")
        now, found = time.time(), {}
        for name, body in stored.items():
            try:
                expires_at, document = decode(body)
            except (ValueError, TypeError):
                continue
            if expires_at is None or expires_at >= now:
                found[name.decode()] = document
        return found

    def count(self, counters: Sequence[Counter], amount: int) -> None:
        def send(pipe: Pipeline) -> None:
            for counter in counters:
                pipe.incrby(self._counter(counter), amount)
                if counter.expires_at is not None:
                    pipe.expireat(self._counter(counter), int(counter.expires_at))

        self._append(_Job(send))

    async def counts(self, prefix: str) -> dict[str, int]:
        start = f"{self._name}c:"
        pattern = "".join(f"[{c}]" if c in "*?[" else c for c in start + prefix) + "*"

        names = await self._names(pattern)
        values = await self._ask("MGET", *names) if names else ()
        pairs = zip(names, values, strict=True)
        return {name[len(start) :]: int(value) for name, value in pairs if value is not None}

    # ---- money

    async def hold(self, hold: Hold, patience: float) -> Counter | None:
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

        assert self._decisions is not None, "the state was not started"
        decision = self._decisions.ask(_HOLD, keys, arguments(forced=False))
        try:
            refused = decision.result() if await answered(decision, patience) else None
        except self._errors as error:
            self._trouble(error)
            refused = None
        else:
            if refused is None:
                self._trouble(TimeoutError())
        finally:
            decision.cancel()
        if refused is None:
            self._append(_Job(lambda pipe: pipe.eval(_HOLD, len(keys), *keys, *arguments(forced=True))))
            return None
        return hold.counters[refused - 1] if refused else None

    def charge(self, charge: Charge) -> asyncio.Future[None]:
        self._charges += 1
        identity = charge.hold or f"{self._session}-{self._charges}"
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
        ]
        return self._later(lambda pipe: pipe.eval(_CHARGE, len(keys), *keys, *arguments))

    async def recover(self, abandoned: Callable[[str, float], bool]) -> int:
        holds = await self._ask("HGETALL", f"{self._name}holds")
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
            script = (_ABANDON, len(keys), *keys, identity, str(len(sums) // 2), *sums)
            recovered += await self._ask("EVAL", *script)
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
            for field, value in (await self._ask("HGETALL", name)).items():
                model, endpoint, key, what = decode(field)
                number = float(value) if what == "units" else int(Decimal(value.decode()))
                sums.setdefault((model, endpoint, key), {})[what] = number
            rows.extend(UsageRow(day, *identity, **figures) for identity, figures in sorted(sums.items()))
        return rows

    # ---- outcomes

    def remember(self, outcome: Outcome) -> None:
        body = encode(outcome)

        def send(pipe: Pipeline) -> None:
            trace = f"{self._name}trace:{outcome.trace}"
            pipe.zadd(f"{self._name}outcomes", {body: outcome.at})
            pipe.zremrangebyrank(f"{self._name}outcomes", 0, -self._most - 1)
            pipe.rpush(trace, body)
            pipe.expire(trace, self._keep)

        self._append(_Job(send, droppable=True))

    async def outcomes(self, query: OutcomeQuery) -> list[dict[str, Any]]:
        if query.trace is not None:
            name = f"{self._name}trace:{query.trace}"
            bodies = await self._ask("LRANGE", name, 0, -1)
            found = [one for one in map(decode, reversed(bodies)) if query.since <= one["at"] < query.until]
            return found[: query.limit]
        window = (f"{self._name}outcomes", f"({query.until}", query.since)
        bodies = await self._ask("ZREVRANGEBYSCORE", *window, "LIMIT", 0, query.limit)
        return [decode(body) for body in bodies]

    async def prune(self, *, outcomes_before: float, now: float) -> None:
        await self._ask("ZREMRANGEBYSCORE", f"{self._name}outcomes", "-inf", f"({outcomes_before}")
        for name in await self._names(f"{self._name}d:*"):
            for field, body in (await self._ask("HGETALL", name)).items():
                with contextlib.suppress(ValueError, TypeError):
                    expires_at, _ = decode(body)
                    if expires_at is not None and expires_at < now:
                        await self._ask("HDEL", name, field)

    # ---- sending

    def _counter(self, counter: Counter) -> str:
        return f"{self._name}c:{counter.name}"

    def _later(self, send: Send) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._append(_Job(send, future))
        return future

    def _append(self, job: _Job) -> None:
        if job.droppable and len(self._jobs) >= self._backlog:
            return
        self._jobs.append(job)
        self._work.set()

    async def _ask(self, *command: Any) -> Any:
        """A command, after what was handed over before. Raises ConnectionError when Redis is away."""
        assert self._client is not None, "the state was not started"
        try:
            async with asyncio.timeout(5.0):
                await self.flush()
                return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except self._errors as error:
            self._trouble(error)
            raise ConnectionError(f"the state's Redis server does not answer ({type(error).__name__})") from None

    async def _names(self, pattern: str) -> list[str]:
        """The names of keys that match a pattern."""
        cursor = 0
        names: set[str] = set()
        while True:
            cursor, found = await self._ask("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            names.update(name.decode() for name in found)
            if cursor == 0:
                return sorted(names)

    async def _send_all(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            await self._work.wait()
            jobs = [self._jobs[index] for index in range(min(self._batch, len(self._jobs)))]
            try:
                await self._send(jobs)
            except self._errors as error:
                self._trouble(error)
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE, pause * 2)
                continue
            pause = _FIRST_PAUSE
            if self._troubled:
                self._troubled = False
                self._log.warning("state.written_again", home="redis")
            for job in jobs:
                self._jobs.popleft()
                if job.future is not None and not job.future.done():
                    job.future.set_result(None)
            if not self._jobs:
                self._work.clear()

    async def _send(self, jobs: list[_Job]) -> None:
        """All of a batch in one MULTI: it is applied whole or not at all, as far as the answer tells."""
        assert self._client is not None
        async with self._client.pipeline(transaction=True) as pipe:
            for job in jobs:
                job.send(pipe)
            await pipe.execute()

    def _trouble(self, error: BaseException) -> None:
        if not self._troubled:
            self._troubled = True
            self._log.error("state.not_written", home="redis", error=type(error).__name__, will="try again")


def _expiry(counter: Counter) -> str:
    return "" if counter.expires_at is None else str(int(counter.expires_at))


def _sums(row: UsageRow) -> list[Any]:
    """Field and value of what adds up, one after the other."""
    pairs: list[Any] = []
    for name in USAGE_SUMS:
        value = getattr(row, name)
        if value:
            pairs += [encode([row.model, row.endpoint, row.key, name]), repr(value)]
    return pairs
