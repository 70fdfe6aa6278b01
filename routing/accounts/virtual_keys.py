"""Roundhouse's own API keys, with the models and the amounts that each may use.

A key is ``rh-`` and 43 characters (256 random bits). It is shown once, at creation; only its SHA-256 digest is
stored, which for a random key needs no salt. A presented key is hashed, looked up by the whole digest, and
compared again in constant time.

Requests and tokens are limited per calendar window (UTC). They are counted in memory, so that a check costs no
I/O. Gateways that share a store exchange their counts at every :meth:`VirtualKeys.sync` (about every second);
together they may exceed a limit by what was counted in between. Limits on money are exact: they are caps of
:class:`routing.accounts.spend.Spend`, which reads them by :meth:`VirtualKeys.caps`.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from catalog.errors import InvalidRequest, NotFound, RateLimited
from routing.accounts.spend import Caps
from routing.accounts.windows import Window, window_at
from routing.clock import Clock, SteadyWallClock
from routing.facts import Facts
from routing.outcomes import Outcome, Result
from routing.state.protocol import Counter, State

_PREFIX = "rh-"
_HINT_LENGTH = 7


class Rate(BaseModel):
    """Upper bounds per window; ``None`` is no bound."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    minute: int | None = Field(default=None, ge=0)
    day: int | None = Field(default=None, ge=0)
    month: int | None = Field(default=None, ge=0)

    @property
    def windows(self) -> tuple[tuple[Window, int], ...]:
        """The windows that have a limit, shortest first."""
        limits = ((Window.MINUTE, self.minute), (Window.DAY, self.day), (Window.MONTH, self.month))
        return tuple((window, limit) for window, limit in limits if limit is not None)


class KeyLimits(BaseModel):
    """Limits of one key."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    requests: Rate = Rate()
    tokens: Rate = Rate()
    spend: Caps = Caps()


class KeyInfo(BaseModel):
    """A key without its secret. ``hint`` is the first characters of the secret; times are Unix time.

    ``models`` are ids, patterns of ids (``openai/*``), names or aliases; empty means all. ``previous``
    is the digest of the secret before the last rotation, which is valid until ``previous_until``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str = Field(max_length=64, pattern=r"^[\w.-]+$")
    name: str = Field(min_length=1, max_length=200)
    hint: str
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    admin: bool = False
    models: tuple[str, ...] = ()
    limits: KeyLimits = KeyLimits()
    previous: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", repr=False)
    previous_until: float | None = None

    def public(self) -> dict[str, Any]:
        """The fields to show to an administrator: all but the digests."""
        return self.model_dump(mode="json", exclude={"digest", "previous"})


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just created, with the only copy of its secret."""

    info: KeyInfo
    secret: str

    def __repr__(self) -> str:
        return f"NewKey(info={self.info!r})"


class VirtualKeys:
    """All keys, in memory, stored in the state."""

    kind = "virtual_key"

    def __init__(self, state: State, clock: Clock) -> None:
        self._state = state
        self._clock = clock
        self._wall = SteadyWallClock(clock)
        self._keys: dict[str, KeyInfo] = {}
        self._by_digest: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._unwritten: dict[Counter, int] = {}
        self._generation = state.generation

    # ---- administration

    async def start(self) -> None:
        """Read the keys and their counts. Invalid records are skipped and logged."""
        await self._read()
        self._counts = await self._state.counts("rate/")

    async def create(
        self,
        name: str,
        *,
        models: tuple[str, ...] = (),
        limits: KeyLimits | None = None,
        expires_at: float | None = None,
        admin: bool = False,
    ) -> NewKey:
        """Create a key. It is stored when this returns. Raises InvalidRequest for an invalid name or expiry."""
        if expires_at is not None and expires_at <= self._wall():
            raise InvalidRequest("expires_at is in the past.", param="expires_at")
        secret = _PREFIX + secrets.token_urlsafe(32)
        try:
            info = KeyInfo(
                id=f"key-{secrets.token_hex(8)}",
                name=name,
                hint=secret[:_HINT_LENGTH],
                digest=digest_of(secret),
                created_at=self._clock.wall(),
                expires_at=expires_at,
                admin=admin,
                models=models,
                limits=limits or KeyLimits(),
            )
        except ValidationError:
            raise InvalidRequest("The name of a key has 1 to 200 characters.", param="name") from None
        await self._store(info)
        return NewKey(info, secret)

    def list(self) -> tuple[KeyInfo, ...]:
        """Every key, revoked and expired ones too, oldest first."""
        return tuple(sorted(self._keys.values(), key=lambda info: (info.created_at, info.id)))

    def get(self, key: str) -> KeyInfo:
        """A key by its id. Raises NotFound."""
        info = self._keys.get(key)
        if info is None:
            raise NotFound(f"There is no API key with the id {key[:100]!r}.", param="key")
        return info

    async def revoke(self, key: str) -> KeyInfo:
        """Revoke a key for ever. Raises NotFound."""
        info = self.get(key).model_copy(
            update={"revoked_at": self._clock.wall(), "previous": None, "previous_until": None}
        )
        await self._store(info)
        return info

    async def rotate(self, key: str, *, grace: float = 0.0) -> NewKey:
        """Give a key a new secret; the old one stays valid for ``grace`` seconds.

        Raises NotFound, and InvalidRequest for a revoked key.
        """
        info = self.get(key)
        if info.revoked_at is not None:
            raise InvalidRequest(f"The API key {key!r} was revoked; create another.", param="key")
        secret = _PREFIX + secrets.token_urlsafe(32)
        info = info.model_copy(
            update={
                "digest": digest_of(secret),
                "hint": secret[:_HINT_LENGTH],
                "previous": info.digest if grace > 0 else None,
                "previous_until": self._wall() + grace if grace > 0 else None,
            }
        )
        await self._store(info)
        return NewKey(info, secret)

    # ---- during a request: memory only

    def authenticate(self, presented: str) -> KeyInfo | None:
        """The key with this secret, unless it is revoked or expired."""
        digest = digest_of(presented)
        info = self._keys.get(self._by_digest.get(digest, ""))
        if info is None or info.revoked_at is not None:
            return None
        now = self._wall()
        if info.expires_at is not None and info.expires_at <= now:
            return None
        if hmac.compare_digest(info.digest, digest):
            return info
        recent = info.previous_until is not None and now < info.previous_until
        return info if recent and hmac.compare_digest(info.previous or "", digest) else None

    def check_and_count(self, key: KeyInfo, facts: Facts) -> None:
        """Count a request and its prompt against the key's limits, all or nothing.

        Raises RateLimited with the seconds until the window ends, without them for a prompt that exceeds the
        limit of a whole window, because waiting would not help.
        """
        now = self._wall()
        additions = [
            *self._counters_for(key.id, "requests", key.limits.requests, 1, now),
            *self._counters_for(key.id, "tokens", key.limits.tokens, facts.prompt_tokens, now),
        ]
        for counter, amount in additions:
            used = self._counts.get(counter.name, 0)
            limit = counter.limit or 0
            if used + amount > limit or used >= limit:
                raise _rate_limited(counter, now, exceeds_window=amount > limit)
        for counter, amount in additions:
            self._add(counter, amount)

    def record(self, outcome: Outcome) -> None:
        """Correct the counted tokens by those that an attempt used.

        A failed attempt adds its tokens; the one that ends the request replaces the estimate.
        """
        key = self._keys.get(outcome.facts.key)
        if key is None or not outcome.usage.known or not key.limits.tokens.windows:
            return
        used = outcome.usage.input + outcome.usage.output
        last = outcome.result in (Result.SUCCESS, Result.REFUSAL, Result.CANCELLED) and outcome.valid is not False
        change = used - outcome.facts.prompt_tokens if last else used
        for counter, _ in self._counters_for(key.id, "tokens", key.limits.tokens, 0, self._wall()):
            self._add(counter, change)

    def caps(self, key: str) -> Caps | None:
        """The spending caps of a key, for :class:`routing.accounts.spend.Spend`."""
        info = self._keys.get(key)
        return info.limits.spend if info is not None and info.limits.spend.limiting else None

    # ---- sharing

    async def sync(self) -> None:
        """Write this process's counts, and read the counts and keys of other gateways."""
        if self._state.generation != self._generation:
            self._generation = self._state.generation
            for info in self._keys.values():
                self._state.put(self.kind, info.id, info.model_dump(mode="json"))
        unwritten, self._unwritten = self._unwritten, {}
        for counter, amount in unwritten.items():
            self._state.count((counter,), amount)
        counts = await self._state.counts("rate/")
        for counter, amount in self._unwritten.items():
            counts[counter.name] = counts.get(counter.name, 0) + amount
        self._counts = counts
        await self._read()

    async def _read(self) -> None:
        for name, document in (await self._state.documents(self.kind)).items():
            try:
                info = KeyInfo.model_validate(document)
            except ValidationError as error:
                log = structlog.get_logger("roundhouse.keys")
                log.warning("virtual_key.unreadable", key=name, problems=error.error_count())
                continue
            if self._keys.get(info.id) != info:
                self._keep(info)

    async def _store(self, info: KeyInfo) -> None:
        """Store a key, in memory first: a revocation takes effect here even if the store fails."""
        self._keep(info)
        self._state.put(self.kind, info.id, info.model_dump(mode="json"))
        await self._state.flush()

    def _keep(self, info: KeyInfo) -> None:
        old = self._keys.get(info.id)
        if old is not None:
            self._by_digest.pop(old.digest, None)
            self._by_digest.pop(old.previous or "", None)
        self._keys[info.id] = info
        self._by_digest[info.digest] = info.id
        if info.previous is not None:
            self._by_digest[info.previous] = info.id

    def _counters_for(
        self, key: str, kind: str, rate: Rate, amount: int, now: float
    ) -> Sequence[tuple[Counter, int]]:
        additions = []
        for window, limit in rate.windows:
            span = window_at(window, now)
            name = f"rate/{key}/{kind}/{window}/{span.name}"
            additions.append((Counter(name, limit, span.keep_until), amount))
        return additions

    def _add(self, counter: Counter, amount: int) -> None:
        self._counts[counter.name] = max(0, self._counts.get(counter.name, 0) + amount)
        self._unwritten[counter] = self._unwritten.get(counter, 0) + amount


def digest_of(secret: str) -> str:
    """SHA-256 of a key, in hex. Invalid Unicode gets a digest too, which no key has."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _rate_limited(counter: Counter, now: float, *, exceeds_window: bool) -> RateLimited:
    _, _, what, window, _ = counter.name.split("/")
    if exceeds_window:
        return RateLimited(f"This request has more tokens than the key's limit of {counter.limit} per {window}.")
    end = window_at(Window(window), now).end
    wait = None if end is None else max(0.001, end - now)
    return RateLimited(
        f"This API key's limit of {counter.limit} {what} per {window} is used up.", retry_after=wait
    )
