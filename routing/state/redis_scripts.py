"""The Lua scripts of the state in Redis, and a batcher that runs many of them in one round trip.

Redis runs a script atomically, so two gateways never spend the same money.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis.asyncio import Redis

# Adds to a counter, and notes the name of a new one in the index of its family, by its expiry. All counters of a
# family are found there: to look for them among all keys of the server takes as long as it has keys.
_ADD = """
local function add(key, amount, expiry)
  local total = redis.call('INCRBY', key, amount)
  if expiry ~= '' then redis.call('EXPIREAT', key, expiry) end
  if total == tonumber(amount) then
    local start, name = string.match(key, '^(.-}:)c:(.*)$')
    local index = start .. 'names:' .. (string.match(name, '^(.-)/') or name)
    redis.call('ZREMRANGEBYSCORE', index, '-inf', '(' .. redis.call('TIME')[1])
    redis.call('ZADD', index, expiry == '' and '+inf' or expiry, name)
  end
  return total
end
"""

# KEYS: a counter   ARGV: amount, expiry ('' is none)
COUNT = _ADD + "return add(KEYS[1], ARGV[1], ARGV[2])"

# KEYS: holds, charged, counters...   ARGV: id, body, amount, forced, then limit ('' is none) and expiry of each
# counter. Returns 0, or the position of the counter that would pass its limit. A hold that was sent twice counts
# once, even if its charge overtook it on another connection.
HOLD = (
    _ADD
    + """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 or redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
if ARGV[4] == '0' then
  for i = 3, #KEYS do
    local limit = ARGV[i * 2 - 1]
    if limit ~= '' and tonumber(redis.call('GET', KEYS[i]) or '0') + tonumber(ARGV[3]) > tonumber(limit) then
      return i - 2
    end
  end
end
for i = 3, #KEYS do add(KEYS[i], ARGV[3], ARGV[i * 2]) end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 0
"""
)

# KEYS: holds, charged, usage, counters...   ARGV: id, amount, number of sums, field and value of each, then the
# expiry of each counter, and the seconds for which the charge is remembered. A charge that was sent twice, because
# its reply was lost, counts once.
CHARGE = (
    _ADD
    + """
if redis.call('SET', KEYS[2], '1', 'NX', 'EX', ARGV[#ARGV]) == false then return 0 end
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
for i = 4, #KEYS do add(KEYS[i], change, ARGV[4 + sums * 2 + i - 4]) end
return 1
"""
)

# KEYS: counters   ARGV: the share of the room that may be taken as extra, then limit ('' is none), expiry, amount,
# extra and optional amount of each. Returns the position of a counter without room, or 0, then the amount added to
# each counter and its total: see routing.state.protocol.Claim, which decides in the same way.
CLAIM = (
    _ADD
    + """
local answer = {0}
for i = 1, #KEYS do
  local limit, amount = ARGV[i * 5 - 3], tonumber(ARGV[i * 5 - 1])
  local extra, optional = tonumber(ARGV[i * 5]), tonumber(ARGV[i * 5 + 1])
  local total = tonumber(redis.call('GET', KEYS[i]) or '0')
  if limit ~= '' then
    local room = tonumber(limit) - total - amount
    if answer[1] == 0 and (room < 0 or total >= tonumber(limit)) then answer[1] = i end
    optional = math.max(0, math.min(optional, room))
    extra = math.min(extra, math.max(0, math.floor((room - optional) / tonumber(ARGV[1]))))
  end
  local granted = amount + optional + extra
  answer[i * 2] = granted
  answer[i * 2 + 1] = total
end
if answer[1] ~= 0 then return answer end
for i = 1, #KEYS do
  answer[i * 2 + 1] = add(KEYS[i], string.format('%.0f', answer[i * 2]), ARGV[i * 5 - 2])
end
return answer
"""
)

# KEYS: holds, usage   ARGV: id, number of sums, field and value of each. Returns 0 if the hold is gone.
ABANDON = """
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
for i = 0, tonumber(ARGV[2]) - 1 do
  redis.call('HINCRBYFLOAT', KEYS[2], ARGV[3 + i * 2], ARGV[4 + i * 2])
end
return 1
"""

MAX_BATCH = 500
"""Scripts in one round trip."""
WAIT_SLICES = 25


async def resolves_within(future: asyncio.Future[Any], seconds: float) -> bool:
    """Whether a future is done within ``seconds``, not counting time in which the event loop was busy.

    The wait is cut into ``WAIT_SLICES`` timeouts, each of which takes at least one turn of the loop. A loop that
    is busy with a burst of requests must not mistake its own delay for that of the store, and let them spend
    unchecked.
    """
    for _ in range(WAIT_SLICES):
        done, _ = await asyncio.wait((future,), timeout=seconds / WAIT_SLICES)
        if done:
            return True
    return False


@dataclass(slots=True)
class _Call:
    script: str
    keys: Sequence[str]
    arguments: Sequence[Any]
    result: asyncio.Future[Any]


class ScriptBatcher:
    """Runs scripts, in order. Those submitted during a round trip share the next one.

    In a burst of requests, opening a connection for each would take longer than a capped call may wait. ``errors``
    are the exceptions that the client raises when Redis is unreachable.
    """

    def __init__(self, client: Redis, errors: tuple[type[Exception], ...]) -> None:
        self._client = client
        self._errors = errors
        self._calls: deque[_Call] = deque()
        self._submitted = asyncio.Event()
        self._task = asyncio.create_task(self._run_all(), name="state-redis-scripts")

    def submit(self, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> asyncio.Future[Any]:
        """The script's result, or the error of the round trip. A future cancelled in time is never sent."""
        result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls.append(_Call(script, keys, arguments, result))
        self._submitted.set()
        return result

    async def close(self) -> None:
        """Stop, and cancel the futures of scripts that were not sent."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        for call in self._calls:
            call.result.cancel()
        self._calls.clear()

    async def _run_all(self) -> None:
        while True:
            await self._submitted.wait()
            batch = [self._calls.popleft() for _ in range(min(MAX_BATCH, len(self._calls)))]
            if not self._calls:
                self._submitted.clear()
            waiting = [call for call in batch if not call.result.done()]
            if waiting:
                await self._run(waiting)

    async def _run(self, calls: list[_Call]) -> None:
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for call in calls:
                    pipe.eval(call.script, len(call.keys), *call.keys, *call.arguments)
                results = await pipe.execute(raise_on_error=False)
        except self._errors as error:
            results = [error] * len(calls)
        for call, result in zip(calls, results, strict=True):
            if call.result.done():
                continue
            if isinstance(result, BaseException):
                call.result.set_exception(result)
            else:
                call.result.set_result(result)
