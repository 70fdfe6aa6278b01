"""Records in Redis; see :mod:`routing.state.records`.

Every change is one Lua script, which Redis runs atomically. Names, after the store's prefix::

    r:KIND:ID                       hash: the record
    ro:KIND:OWNER, rs:KIND:STATUS   sorted sets of ids by sequence; rk:KIND has all, rp:PARENT:KIND the parts
    rx                              sorted set of JSON [kind, id] by expiry
    rg:KIND:ID                      hash: the place of a deleted record, for an hour
    rz, rq                          hash: owner -> bytes; the last sequence
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import orjson

from routing.state.records import REMEMBERED, STORE_TIMEOUT, Record, RecordQuery, StorageFull, encoded, unanswered

_OVERHEAD = 400
"""Bytes that a record takes beside its body, about."""

_SHARED = (
    f"local REMEMBERED = {int(REMEMBERED)}"
    + """
local P = KEYS[1]
local function grow(owner, size) redis.call('HINCRBY', P .. 'rz', owner, size) end
local function unlist(kind, id, owner, parent, status)
  redis.call('ZREM', P .. 'rk:' .. kind, id)
  redis.call('ZREM', P .. 'ro:' .. kind .. ':' .. owner, id)
  if status ~= '' then redis.call('ZREM', P .. 'rs:' .. kind .. ':' .. status, id) end
  if parent ~= '' then redis.call('ZREM', P .. 'rp:' .. parent .. ':' .. kind, id) end
  redis.call('ZREM', P .. 'rx', cjson.encode({kind, id}))
end
local function remove(kind, id)
  local key = P .. 'r:' .. kind .. ':' .. id
  local row = redis.call('HMGET', key, 'owner', 'parent', 'status', 'size')
  if not row[1] then return 0 end
  redis.call('DEL', key)
  unlist(kind, id, row[1], row[2], row[3])
  grow(row[1], -tonumber(row[4]))
  local removed = 1
  for _, part in ipairs(redis.call('SMEMBERS', P .. 'rpk:' .. id)) do
    for _, child in ipairs(redis.call('ZRANGE', P .. 'rp:' .. id .. ':' .. part, 0, -1)) do
      removed = removed + remove(part, child)
    end
  end
  redis.call('DEL', P .. 'rpk:' .. id)
  return removed
end
local function forget(kind, id)
  local row = redis.call('HMGET', P .. 'r:' .. kind .. ':' .. id, 'owner', 'parent', 'sequence')
  if not row[1] then return 0 end
  local gone = P .. 'rg:' .. kind .. ':' .. id
  redis.call('HSET', gone, 'owner', row[1], 'parent', row[2], 'sequence', row[3])
  redis.call('EXPIRE', gone, REMEMBERED)
  return remove(kind, id)
end
"""
)

# ARGV: owner, room ('' is none), needed, now, JSON of the kinds that give way, then of each record: kind, id,
# parent, status, created, expires ('' is never), version, size, body. Returns 1, or 0 if there is no room.
_ADD = (
    _SHARED
    + """
local owner, now = ARGV[1], tonumber(ARGV[4])
local function weight(kind, id)
  local size = tonumber(redis.call('HGET', P .. 'r:' .. kind .. ':' .. id, 'size') or '0')
  for _, part in ipairs(redis.call('SMEMBERS', P .. 'rpk:' .. id)) do
    for _, child in ipairs(redis.call('ZRANGE', P .. 'rp:' .. id .. ':' .. part, 0, -1)) do
      size = size + weight(part, child)
    end
  end
  return size
end
local function peek(list)
  if list.at > #list.rows then
    local name = P .. 'ro:' .. list.kind .. ':' .. owner
    list.rows = redis.call('ZRANGE', name, list.from, list.from + 99, 'WITHSCORES')
    list.from, list.at = list.from + 100, 1
  end
  return tonumber(list.rows[list.at + 1])
end
if ARGV[2] ~= '' then
  local most = tonumber(ARGV[2]) - tonumber(ARGV[3])
  if most < 0 then return 0 end
  local excess = tonumber(redis.call('HGET', P .. 'rz', owner) or '0') - most
  local lists, leaving = {}, {}
  for _, kind in ipairs(cjson.decode(ARGV[5])) do
    lists[#lists + 1] = {kind = kind, rows = {}, from = 0, at = 1}
  end
  while excess > 0 do
    local oldest, first = nil, nil
    for _, list in ipairs(lists) do
      local sequence = peek(list)
      if sequence and (not first or sequence < first) then oldest, first = list, sequence end
    end
    if not oldest then return 0 end
    local id = oldest.rows[oldest.at]
    oldest.at = oldest.at + 2
    local row = redis.call('HMGET', P .. 'r:' .. oldest.kind .. ':' .. id, 'status', 'until')
    if row[1] == '' and tonumber(row[2] or '0') < now then
      leaving[#leaving + 1] = {oldest.kind, id}
      excess = excess - weight(oldest.kind, id)
    end
  end
  for _, pair in ipairs(leaving) do forget(pair[1], pair[2]) end
end
for i = 6, #ARGV, 9 do
  local kind, id, parent, status = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local key = P .. 'r:' .. kind .. ':' .. id
  if redis.call('EXISTS', key) == 0 then
    local sequence = redis.call('INCR', P .. 'rq')
    redis.call('HSET', key, 'owner', owner, 'parent', parent, 'status', status, 'created', ARGV[i + 4],
      'expires', ARGV[i + 5], 'version', ARGV[i + 6], 'size', ARGV[i + 7], 'body', ARGV[i + 8],
      'sequence', sequence, 'holder', '', 'until', '0')
    redis.call('ZADD', P .. 'rk:' .. kind, sequence, id)
    redis.call('ZADD', P .. 'ro:' .. kind .. ':' .. owner, sequence, id)
    if status ~= '' then redis.call('ZADD', P .. 'rs:' .. kind .. ':' .. status, sequence, id) end
    if parent ~= '' then
      redis.call('ZADD', P .. 'rp:' .. parent .. ':' .. kind, sequence, id)
      redis.call('SADD', P .. 'rpk:' .. parent, kind)
    end
    if ARGV[i + 5] ~= '' then redis.call('ZADD', P .. 'rx', ARGV[i + 5], cjson.encode({kind, id})) end
    grow(owner, ARGV[i + 7])
  end
end
return 1
"""
)

# ARGV: kind, id, version, status, expires, size, body. Returns 0 if the record is gone or was changed.
_REPLACE = (
    _SHARED
    + """
local kind, id = ARGV[1], ARGV[2]
local key = P .. 'r:' .. kind .. ':' .. id
local row = redis.call('HMGET', key, 'owner', 'status', 'size', 'version', 'sequence')
if row[4] ~= ARGV[3] then return 0 end
if row[2] ~= ARGV[4] then
  if row[2] ~= '' then redis.call('ZREM', P .. 'rs:' .. kind .. ':' .. row[2], id) end
  if ARGV[4] ~= '' then redis.call('ZADD', P .. 'rs:' .. kind .. ':' .. ARGV[4], row[5], id) end
end
local expiry = cjson.encode({kind, id})
if ARGV[5] ~= '' then redis.call('ZADD', P .. 'rx', ARGV[5], expiry) else redis.call('ZREM', P .. 'rx', expiry) end
redis.call('HSET', key, 'status', ARGV[4], 'expires', ARGV[5], 'size', ARGV[6], 'body', ARGV[7])
redis.call('HINCRBY', key, 'version', 1)
grow(row[1], tonumber(ARGV[6]) - tonumber(row[3]))
return 1
"""
)

# ARGV: kind, id, owner ('*' is any). Returns how many records were deleted.
_DELETE = (
    _SHARED
    + """
local owner = redis.call('HGET', P .. 'r:' .. ARGV[1] .. ':' .. ARGV[2], 'owner')
if not owner or (ARGV[3] ~= '*' and owner ~= string.sub(ARGV[3], 2)) then return 0 end
return forget(ARGV[1], ARGV[2])
"""
)

# ARGV: now. Deletes up to 1,000 expired records and returns how many that were, with their parts.
_PRUNE = (
    _SHARED
    + """
local removed = 0
for _, name in ipairs(redis.call('ZRANGEBYSCORE', P .. 'rx', '-inf', '(' .. ARGV[1], 'LIMIT', 0, 1000)) do
  local pair = cjson.decode(name)
  removed = removed + forget(pair[1], pair[2])
  redis.call('ZREM', P .. 'rx', name)
end
return removed
"""
)

# ARGV: kind, id, holder, until, now. Returns whether the holder has it now.
_HOLD = """
local key = KEYS[1] .. 'r:' .. ARGV[1] .. ':' .. ARGV[2]
local row = redis.call('HMGET', key, 'holder', 'until')
if not row[1] then return 0 end
if row[1] ~= ARGV[3] and tonumber(row[2]) >= tonumber(ARGV[5]) then return 0 end
redis.call('HSET', key, 'holder', ARGV[3], 'until', ARGV[4])
return 1
"""

# ARGV: kind, name of a sorted set, direction, cursor ('' is none), limit. Returns of each record its hash, flat.
_FIND = """
local P, kind = KEYS[1], ARGV[1]
local first, last, command = '-inf', '+inf', 'ZRANGEBYSCORE'
if ARGV[3] == 'DESC' then
  first, last, command = '+inf', '-inf', 'ZREVRANGEBYSCORE'
end
if ARGV[4] ~= '' then first = '(' .. ARGV[4] end
local found = {}
for _, id in ipairs(redis.call(command, P .. ARGV[2], first, last, 'LIMIT', 0, ARGV[5])) do
  local row = redis.call('HMGET', P .. 'r:' .. kind .. ':' .. id, 'owner', 'parent', 'status', 'created',
    'expires', 'version', 'sequence', 'body')
  table.insert(row, 1, id)
  found[#found + 1] = row
end
return found
"""

# ARGV: kind, id. Returns the owner, the parent and the sequence of a record, also of one that is gone.
_PLACE = """
for _, stored in ipairs({'r:', 'rg:'}) do
  local row = redis.call('HMGET', KEYS[1] .. stored .. ARGV[1] .. ':' .. ARGV[2], 'owner', 'parent', 'sequence')
  if row[1] then return row end
end
return nil
"""

Run = Callable[[str, Sequence[str], Sequence[Any]], Awaitable[Any]]


class RedisRecords:
    """:class:`routing.state.records.Records` by a function that runs a script with keys and arguments.

    ``prefix`` begins every name, in braces, so that a cluster keeps them in one slot.
    """

    def __init__(self, run: Run, prefix: str) -> None:
        self._run = run
        self._prefix = prefix

    async def add(
        self, records: Sequence[Record], *, room: int | None = None, give_way: Sequence[str] = ()
    ) -> None:
        if not records:
            return
        rows: list[Any] = []
        needed = 0
        for record in records:
            body = encoded(record)
            size = len(body) + _OVERHEAD
            needed += size
            times = (repr(record.created_at), _expiry(record.expires_at))
            rows += [record.kind, record.id, record.parent, record.status, *times, record.version, size, body]
        bound = "" if room is None else room
        head = (records[0].owner, bound, needed, repr(time.time()), orjson.dumps(list(give_way)))
        if not await self._script(_ADD, *head, *rows):
            raise StorageFull.of(room or 0)

    async def get(self, kind: str, name: str, owner: str | None = None) -> Record | None:
        script = (
            "return redis.call('HMGET', KEYS[1] .. 'r:' .. ARGV[1] .. ':' .. ARGV[2], "
            "'owner', 'parent', 'status', 'created', 'expires', 'version', 'sequence', 'body')"
        )
        row = await self._script(script, kind, name)
        found = _record(kind, [name.encode(), *row])
        return found if found is not None and owner in (None, found.owner) else None

    async def find(self, query: RecordQuery) -> list[Record]:
        if query.parent is not None:
            listed = f"rp:{query.parent}:{query.kind}"
        elif query.status is not None:
            listed = f"rs:{query.kind}:{query.status}"
        elif query.owner is not None:
            listed = f"ro:{query.kind}:{query.owner}"
        else:
            listed = f"rk:{query.kind}"
        direction = "DESC" if query.newest_first else "ASC"
        found: list[Record] = []
        cursor = query.after
        while len(found) < query.limit:
            after = "" if cursor is None else cursor
            rows = await self._script(_FIND, query.kind, listed, direction, after, query.limit)
            for row in rows:
                if row[7] is not None:
                    cursor = int(row[7])
                record = _record(query.kind, row)
                if record is not None and _selected(record, query):
                    found.append(record)
            if len(rows) < query.limit:
                break
        return found[: query.limit]

    async def replace(self, record: Record) -> Record | None:
        body = encoded(record)
        arguments = (record.status, _expiry(record.expires_at), len(body) + _OVERHEAD, body)
        changed = await self._script(_REPLACE, record.kind, record.id, record.version, *arguments)
        return replace(record, version=record.version + 1) if changed else None

    async def delete(self, kind: str, name: str, owner: str | None = None) -> bool:
        return bool(await self._script(_DELETE, kind, name, "*" if owner is None else f"={owner}"))

    async def place(self, kind: str, name: str, owner: str | None = None) -> tuple[int, str] | None:
        found = await self._script(_PLACE, kind, name)
        if found is None or owner not in (None, found[0].decode()):
            return None
        return int(found[2]), found[1].decode()

    async def used(self, owner: str) -> int:
        return int(await self._script("return redis.call('HGET', KEYS[1] .. 'rz', ARGV[1])", owner) or 0)

    async def hold(self, kind: str, name: str, holder: str, until: float) -> bool:
        return bool(await self._script(_HOLD, kind, name, holder, repr(until), repr(time.time())))

    async def prune(self, now: float) -> int:
        removed = 0
        while count := await self._script(_PRUNE, repr(now)):
            removed += count
        return removed

    async def _script(self, script: str, *arguments: Any) -> Any:
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                return await self._run(script, (self._prefix,), arguments)
        except OSError as error:  # TimeoutError is one
            raise unanswered() from error


def _expiry(expires_at: float | None) -> str:
    return "" if expires_at is None else repr(expires_at)


def _selected(record: Record, query: RecordQuery) -> bool:
    return all(
        wanted is None or wanted == actual
        for wanted, actual in (
            (query.owner, record.owner),
            (query.parent, record.parent),
            (query.status, record.status),
        )
    )


def _record(kind: str, row: Sequence[Any]) -> Record | None:
    """A record of the fields that a script returns, the id before them; ``None`` if it is gone or expired."""
    name, owner, parent, status, created_at, expires_at, version, sequence, body = row
    if body is None or (expires_at and float(expires_at) < time.time()):
        return None
    return Record(
        kind=kind,
        id=name.decode(),
        body=orjson.loads(body),
        owner=owner.decode(),
        parent=parent.decode(),
        status=status.decode(),
        created_at=float(created_at),
        expires_at=float(expires_at) if expires_at else None,
        version=int(version),
        sequence=int(sequence),
    )
