"""Roundhouse's own API keys, with the models and the amounts that each may use.

A key is ``rh-`` and 43 characters (256 random bits). It is shown once, at creation; only its SHA-256 digest is
stored, which for a random key needs no salt. A presented key is hashed, looked up by the whole digest, and
compared again in constant time.

Requests and tokens are limited per calendar window (UTC), exactly, also by several gateways together
(:mod:`routing.accounts.allowances`). A call's prompt (by the estimate) and its longest answer are reserved before
it, and replaced by the tokens used when it ends (:mod:`routing.accounts.reservations`).
Limits on money are caps of :class:`routing.accounts.spend.Spend`, which reads them by :meth:`VirtualKeys.caps`.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from catalog.errors import InvalidRequest, NotFound, RateLimited
from routing.accounts.allowances import Allowances, Refusal, Want
from routing.accounts.caps import Caps
from routing.accounts.reservations import TokenGrant, TokenReservations, answer_tokens
from routing.accounts.windows import Window, window_at
from routing.clock import Clock, SteadyWallClock
from routing.facts import Facts
from routing.outcomes import Outcome
from routing.state.protocol import Counter, State

_PREFIX = "rh-"
_HINT_LENGTH = 7
_MAX_KEPT_WINDOWS = 8192
_RECOVER_EVERY = 30.0
"""Seconds between two searches for reservations of processes that died."""
_SOON = 1.0
"""Seconds after which a refused call may find room that answers in progress hold now."""


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

    @property
    def rates(self) -> bool:
        """Whether requests or tokens are limited."""
        return bool(self.requests.windows or self.tokens.windows)


class KeyInfo(BaseModel):
    """A key without its secret. ``hint`` is the first characters of the secret; times are Unix time.

    ``metrics`` marks a key that may read /metrics and nothing else. ``models`` are ids, patterns of ids
    (``openai/*``), names or aliases; empty means all. ``previous`` is the digest of the secret before the last
    rotation, which is valid until ``previous_until``.
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
    metrics: bool = False
    models: tuple[str, ...] = ()
    limits: KeyLimits = KeyLimits()
    previous: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", repr=False)
    previous_until: float | None = None

    def public(self) -> dict[str, Any]:
        """The fields to show to an administrator: all but the digests."""
        return self.model_dump(mode="json", exclude={"digest", "previous"})

    def stored(self) -> dict[str, Any]:
        """The record to store. Servers from before ``metrics`` read the same state, and refuse unknown fields."""
        return self.model_dump(mode="json", exclude=None if self.metrics else {"metrics"})


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just created, with the only copy of its secret."""

    info: KeyInfo
    secret: str

    def __repr__(self) -> str:
        return f"NewKey(info={self.info!r})"


class _Windows(NamedTuple):
    """The counters of the windows of a rate, from ``since`` to before ``until``."""

    rate: Rate
    since: float
    until: float
    counters: tuple[Counter, ...]


class VirtualKeys:
    """All keys, in memory, stored in the state."""

    kind = "virtual_key"

    def __init__(self, state: State, clock: Clock, *, owner: str | None = None) -> None:
        self._state = state
        self._clock = clock
        self._wall = SteadyWallClock(clock)
        self._keys: dict[str, KeyInfo] = {}
        self._by_digest: dict[str, str] = {}
        self._allowances = Allowances(state)
        self._reservations = TokenReservations(state, self._allowances, owner=owner)
        self._recovered_at = clock.monotonic()
        self._grants: dict[int, TokenGrant] = {}
        self._windows: dict[tuple[str, str], _Windows] = {}
        self._generation = state.generation

    # ---- administration

    async def start(self) -> None:
        """Read the keys, and give back what dead processes reserved. Invalid records are skipped and logged."""
        await self.look()
        await self._recover()

    async def create(
        self,
        name: str,
        *,
        models: tuple[str, ...] = (),
        limits: KeyLimits | None = None,
        expires_at: float | None = None,
        admin: bool = False,
        metrics: bool = False,
    ) -> NewKey:
        """Create a key. It is stored when this returns; if this raises, there is no such key.

        Raises Unavailable if the state cannot store it in time, InvalidRequest for an invalid name or expiry, and
        for a key for metrics with other rights or limits.
        """
        if metrics and (admin or models or (limits is not None and limits != KeyLimits())):
            raise InvalidRequest(
                "A key for metrics reads /metrics and nothing else: it has no models, limits or admin rights.",
                param="metrics",
            )
        if expires_at is not None and expires_at <= self._clock.wall():
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
                metrics=metrics,
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

    @property
    def any_calls(self) -> bool:
        """Whether there is a key for more than metrics, even a revoked one: then every request needs a key."""
        return any(not info.metrics for info in self._keys.values())

    def get(self, key: str) -> KeyInfo:
        """A key by its id. Raises NotFound."""
        info = self._keys.get(key)
        if info is None:
            raise NotFound(
                f"There is no API key with the id {key[:100]!r}. The ids: roundhouse keys list", param="key"
            )
        return info

    async def revoke(self, key: str) -> KeyInfo:
        """Revoke a key for ever: here at once, and for other gateways and later runs when this returns.

        Raises NotFound, and Unavailable if the state cannot store it in time: it is then stored when it can be.
        """
        info = self.get(key).model_copy(
            update={"revoked_at": self._clock.wall(), "previous": None, "previous_until": None}
        )
        self._keep(info)
        self._state.put(self.kind, info.id, info.stored())
        await self._store(info)
        return info

    async def rotate(self, key: str, *, grace: float = 0.0) -> NewKey:
        """Give a key a new secret; the old one stays valid for ``grace`` seconds.

        Raises NotFound, InvalidRequest for a revoked key, and Unavailable if the state cannot store it in time: it
        is then as it was.
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
                "previous_until": self._clock.wall() + grace if grace > 0 else None,
            }
        )
        await self._store(info)
        return NewKey(info, secret)

    # ---- during a request

    def authenticate(self, presented: str) -> KeyInfo | None:
        """The key with this secret, unless it is revoked or expired."""
        digest = digest_of(presented)
        info = self.holder(self._by_digest.get(digest, ""))
        if info is None:
            return None
        now = self._clock.wall()
        if hmac.compare_digest(info.digest, digest):
            return info
        recent = info.previous_until is not None and now < info.previous_until
        return info if recent and hmac.compare_digest(info.previous or "", digest) else None

    def holder(self, key: str) -> KeyInfo | None:
        """The key with this id, unless it is revoked or expired."""
        info = self._keys.get(key)
        if info is None or info.revoked_at is not None:
            return None
        now = self._clock.wall()  # as the system has it: a clock that was ahead for a moment ends no key for good
        return None if info.expires_at is not None and info.expires_at <= now else info

    async def admit(self, key: KeyInfo, facts: Facts, *, counted: bool = True) -> TokenGrant | None:
        """Count a request, its prompt and its longest answer against the key's limits, all or nothing.

        One that is not ``counted`` is a part of a request that was: its tokens count alone.

        The grant, of a key with limits of tokens, is given to :meth:`settle` when the request has ended.
        Raises RateLimited with the seconds until there may be room, without them where waiting does not help, and
        InvalidRequest for an answer that the caller bounds to more than a whole limit.
        """
        now, limits = self._wall(), key.limits
        answer, optional = answer_tokens(facts)
        tokens = facts.prompt_tokens + answer
        whole = answer + optional > 0
        counters = self._counters(key.id, "tokens", limits.tokens, now)
        requests = self._counters(key.id, "requests", limits.requests, now) if counted else ()
        wanted = [
            *[Want(counter, 1) for counter in requests],
            *[Want(counter, tokens, optional, whole) for counter in counters],
        ]
        taken = await self._allowances.reserve(wanted)
        if isinstance(taken, Refusal):
            bound = answer if facts.output_tokens is not None else 0
            in_flight = await self._reservations.in_flight(taken.counter, self._clock.monotonic())
            raise _refused(taken, now, bound, in_flight)
        if not counters:
            return None
        reserved = tuple(zip(counters, taken[-len(counters) :], strict=True))
        most = None
        if optional:
            left = min(amount + self._allowances.room(counter) for counter, amount in reserved)
            most = max(1, (left - facts.prompt_tokens) // facts.choices)
        grant = self._grants[id(facts)] = self._reservations.hold(TokenGrant(facts, reserved, most))
        return grant

    def see(self, grant: TokenGrant, item: Any) -> None:
        """Measure an item of the answer; see :meth:`TokenReservations.see`."""
        self._reservations.see(grant, item)

    def settle(self, grant: TokenGrant) -> None:
        """Replace what a request reserved by what its attempts used."""
        if self._grants.pop(id(grant.facts), None) is grant:
            self._reservations.settle(grant)

    def record(self, outcome: Outcome) -> None:
        """Count the tokens that an attempt used."""
        key = self._keys.get(outcome.facts.key)
        if key is None or not key.limits.tokens.windows:
            return
        grant = self._grants.get(id(outcome.facts))
        if grant is not None:
            grant.add(outcome)
        elif outcome.usage.known:  # it ended after its request was settled, or reserved nothing
            used = outcome.usage.input + outcome.usage.output
            for counter in self._counters(key.id, "tokens", key.limits.tokens, self._wall() - outcome.duration):
                self._allowances.correct(counter, used)

    def caps(self, key: str) -> Caps | None:
        """The spending caps of a key, for :class:`routing.accounts.spend.Spend`."""
        info = self._keys.get(key)
        return info.limits.spend if info is not None and info.limits.spend.limiting else None

    def _counters(self, key: str, kind: str, rate: Rate, now: float) -> tuple[Counter, ...]:
        """The counters of a key's windows at a time; those of the present are kept until a window ends."""
        kept = self._windows.get((key, kind))
        if kept is not None and kept.rate is rate and kept.since <= now < kept.until:
            return kept.counters
        spans = [(window_at(window, now), window, limit) for window, limit in rate.windows]
        counters = tuple(
            Counter(f"rate/{key}/{kind}/{window}/{span.name}", limit, span.keep_until)
            for span, window, limit in spans
        )
        if kept is None or now >= kept.since:
            until = min((span.end for span, _, _ in spans if span.end is not None), default=now)
            if len(self._windows) >= _MAX_KEPT_WINDOWS:
                self._windows.clear()
            self._windows[key, kind] = _Windows(rate, now, until, counters)
        return counters

    # ---- sharing

    async def sync(self) -> None:
        """Give back what this process reserved of limits and does not need; read the keys of other gateways."""
        renewed = self._state.generation != self._generation
        if renewed:
            self._generation = self._state.generation
            for info in self._keys.values():
                self._state.put(self.kind, info.id, info.stored())
        self._allowances.sync(generation_changed=renewed)
        await self.look()
        if self._clock.monotonic() - self._recovered_at >= _RECOVER_EVERY:
            await self._recover()

    def close(self) -> None:
        """Give back all that this process reserved of limits."""
        self._allowances.close()

    async def _recover(self) -> None:
        self._recovered_at = self._clock.monotonic()
        with contextlib.suppress(TimeoutError):  # a store that is stuck is asked again next time
            await self._reservations.recover(self._clock.wall())

    async def look(self) -> None:
        """Read the keys as they are stored: other gateways make, rotate and revoke them, too."""
        for name, document in (await self._state.documents(self.kind)).items():
            try:
                info = KeyInfo.model_validate(document)
            except ValidationError as error:
                log = structlog.get_logger("roundhouse.keys")
                log.warning("virtual_key.unreadable", key=name, problems=error.error_count())
                continue
            known = self._keys.get(info.id)
            if known is None or (known != info and known.revoked_at is None):  # a revocation may wait to be stored
                self._keep(info)

    async def _store(self, info: KeyInfo) -> None:
        """Store a key, and use it from then on. Raises Unavailable, and it stays as it was."""
        await self._state.store(self.kind, info.id, info.stored())
        self._keep(info)

    def _keep(self, info: KeyInfo) -> None:
        old = self._keys.get(info.id)
        if old is not None:
            self._by_digest.pop(old.digest, None)
            self._by_digest.pop(old.previous or "", None)
        self._keys[info.id] = info
        self._by_digest[info.digest] = info.id
        if info.previous is not None:
            self._by_digest[info.previous] = info.id


def digest_of(secret: str) -> str:
    """SHA-256 of a key, in hex. Invalid Unicode gets a digest too, which no key has."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _refused(refusal: Refusal, now: float, answer: int, in_flight: int) -> RateLimited | InvalidRequest:
    """Refuse a request that bounds its answer to ``answer`` tokens, while others hold ``in_flight``."""
    _, _, what, window, _ = refusal.counter.name.split("/")
    limit = refusal.counter.limit or 0
    limited = f"limit of {limit} {what if limit != 1 else what.removesuffix('s')} per {window}"
    bound = f", {answer} of them by its own bound of the answer" if what == "tokens" and answer else ""
    if refusal.amount > limit or limit == 0:
        if bound and refusal.amount - answer < limit:
            return InvalidRequest(
                f"This API key's {limited} does not allow this request at any time: it has about {refusal.amount}"
                f"{bound}. Ask for at most {limit - refusal.amount + answer} with max_tokens.",
                param="max_tokens",
            )
        asked = f" This request has about {refusal.amount}{bound}." if limit else _NOTHING
        return RateLimited(f"This API key's {limited} does not allow this request.{asked}")
    end = window_at(Window(window), now).end
    wait = None if end is None else max(0.001, end - now)
    left = limit - refusal.total
    if wait is not None and refusal.total - in_flight + refusal.amount <= limit and in_flight:
        return RateLimited(
            f"This request has about {refusal.amount} {what}{bound}, and answers in progress hold {in_flight} of "
            f"this API key's {limited}.",
            retry_after=min(wait, _SOON),
        )
    if left <= 0:
        return RateLimited(f"This API key's {limited} is used up.", retry_after=wait)
    return RateLimited(
        f"This request has about {refusal.amount} {what}{bound}, and of this API key's {limited} {left} are left.",
        retry_after=wait,
    )


_NOTHING = " An administrator can create another."
