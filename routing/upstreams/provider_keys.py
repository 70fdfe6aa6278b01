"""The keys of providers: several per endpoint, taken in turn, rested when limited, put away when refused.

A key's secret is in :attr:`Key.secret` and nowhere else: not in a ``repr``, not in an error, not in what is
stored. Outcomes, statistics and logs speak of a key's *position* in its pool; what survives a restart is
filed under a digest of the secret, so that it follows the key when the list is put in another order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from catalog.errors import ConfigurationError
from catalog.installing import install_command
from catalog.model import Endpoint
from routing.choosing.world import Block
from routing.clock import Clock
from routing.outcomes import Outcome, Result

ResolveSecrets = Callable[[Endpoint], tuple[str, ...]]
"""The secrets of an endpoint's keys, in order."""

FIRST_REST = 1.0
LONGEST_REST = 300.0
LONGEST_RETRY_AFTER = 3600.0
_HEALTH_MEMORY = 0.8
_HEALTH_FLOOR = 0.05
_NOTHING: Mapping[str, Block] = MappingProxyType({})


class SecretResolver:
    """Finds the secrets that an endpoint names: in an environment, and in the system's keychain.

    ``environment`` is usually ``os.environ``. ``keychain(service, user)`` answers the secret or ``None``; the
    default asks the ``keyring`` package.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        keychain: Callable[[str, str], str | None] | None = None,
    ) -> None:
        self._environment = environment
        self._keychain = keychain or ask_keyring

    def __call__(self, endpoint: Endpoint) -> tuple[str, ...]:
        """The secrets, each once. A variable that is not set gives none; it is no error to have no key yet.

        Raises ConfigurationError when the keychain is named wrongly or cannot be asked.
        """
        found = [self._environment.get(name, "") for name in endpoint.key_env]
        secrets = [secret.strip() for value in found for secret in value.split(",")]
        if endpoint.key_keyring is not None:
            service, slash, user = endpoint.key_keyring.partition("/")
            if not (service and slash and user):
                raise ConfigurationError(
                    f"key_keyring of the endpoint '{endpoint.id}' must be 'service/user'.", param="key_keyring"
                )
            value = self._keychain(service, user) or ""
            secrets.extend(secret.strip() for secret in value.split(","))
        return tuple(dict.fromkeys(secret for secret in secrets if secret))


def ask_keyring(service: str, user: str) -> str | None:
    """A secret of the system's keychain. Raises ConfigurationError without ``keyring`` or a keychain."""
    try:
        import keyring
        import keyring.errors
    except ImportError:
        raise ConfigurationError(
            f"Keys from the system's keychain need one more package: {install_command('keyring')}"
        ) from None
    try:
        secret: str | None = keyring.get_password(service, user)
    except keyring.errors.KeyringError as error:
        raise ConfigurationError(
            f"The system's keychain could not be asked for '{service}/{user}': {type(error).__name__}."
        ) from None
    return secret


@dataclass(frozen=True, slots=True)
class Key:
    """A provider's key, lent for one call."""

    endpoint: str
    position: int
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyStatistics:
    """What became of a key. ``resting`` is the seconds it still rests; ``health`` is in (0, 1]."""

    endpoint: str
    position: int
    used: int
    ok: int
    failed: int
    rate_limited: int
    rejected: int
    resting: float
    out: bool
    health: float


@dataclass(slots=True)
class _Entry:
    """A key in its pool. ``credit`` is the running account of smooth weighted round robin."""

    secret: str = field(repr=False)
    used: int = 0
    ok: int = 0
    failed: int = 0
    rate_limited: int = 0
    rejected: int = 0
    health: float = 1.0
    credit: float = 0.0
    limits_in_a_row: int = 0
    rests_until: float = 0.0
    out: bool = False

    def usable(self, now: float) -> bool:
        return not self.out and self.rests_until <= now

    def healthier(self, well: bool) -> None:
        step = 1.0 if well else 0.0
        self.health = max(_HEALTH_FLOOR, _HEALTH_MEMORY * self.health + (1 - _HEALTH_MEMORY) * step)

    def limited(self, now: float, retry_after: float | None) -> None:
        """Rest. Many calls may be told 429 at the same moment; only the first of them lengthens the rest."""
        self.rate_limited += 1
        if self.rests_until <= now:
            self.limits_in_a_row += 1
        backoff = min(LONGEST_REST, FIRST_REST * 2.0 ** min(self.limits_in_a_row - 1, 30))
        rest = backoff if retry_after is None else min(LONGEST_RETRY_AFTER, max(0.0, retry_after))
        if self.rests_until <= now or retry_after is not None:
            self.rests_until = max(self.rests_until, now + rest)


class KeyPools:
    """The keys of all endpoints. An endpoint that names no key is not in here and needs none."""

    kind = "key"

    def __init__(self, endpoints: Iterable[Endpoint], resolve_secrets: ResolveSecrets, clock: Clock) -> None:
        self._resolve = resolve_secrets
        self._clock = clock
        self._pools: dict[str, list[_Entry]] = {}
        self._closed: dict[str, float] = {}
        self._lasting: Mapping[str, Block] | None = None
        self._changed: set[str] = set()
        self.reload(endpoints)

    def reload(self, endpoints: Iterable[Endpoint]) -> None:
        """Look the secrets up again. Statistics stay with their key; a refused key gets another chance.

        Raises ConfigurationError as the resolver does; the pools are then as they were.
        """
        known = {(name, entry.secret): entry for name, pool in self._pools.items() for entry in pool}
        pools: dict[str, list[_Entry]] = {}
        for endpoint in endpoints:
            if needs_key(endpoint):
                secrets = self._resolve(endpoint)
                pools[endpoint.id] = [known.get((endpoint.id, secret)) or _Entry(secret) for secret in secrets]
        for pool in pools.values():
            for entry in pool:
                entry.out = False
        self._pools = pools
        self._closed = {name: math.inf for name, pool in pools.items() if not pool}
        self._lasting = None

    def needs_key(self, endpoint: str) -> bool:
        """Whether calls of this endpoint carry a key of a pool."""
        return endpoint in self._pools

    def take(self, endpoint: str, now: float) -> Key | None:
        """The next key in turn, healthier ones more often; ``None`` when none can be used at present.

        The turn is nginx's smooth weighted round robin: each key gains its weight, the richest is taken and
        pays the total. With equal weights that is plain round robin.
        """
        pool = self._pools.get(endpoint, ())
        best, position, total = None, -1, 0.0
        for index, entry in enumerate(pool):
            if not entry.usable(now):
                continue
            entry.credit += entry.health
            total += entry.health
            if best is None or entry.credit > best.credit + 1e-9:
                best, position = entry, index
        if best is None:
            return None
        best.credit -= total
        best.used += 1
        return Key(endpoint, position, best.secret)

    def blocked(self, now: float) -> Mapping[str, Block]:
        """The endpoints that need a key and have none to use: the same mapping while nothing changes."""
        if not self._closed:
            return _NOTHING
        if self._lasting is not None:
            return self._lasting
        reopened = [endpoint for endpoint, until in self._closed.items() if until <= now]
        for endpoint in reopened:
            del self._closed[endpoint]
        blocks = {endpoint: self._block(endpoint, until - now) for endpoint, until in self._closed.items()}
        if all(until == math.inf for until in self._closed.values()):
            self._lasting = blocks
        return blocks

    def _block(self, endpoint: str, rest: float) -> Block:
        pool = self._pools[endpoint]
        if not pool:
            return Block("no_key", f"no key is set for the endpoint '{endpoint}'")
        if all(entry.out for entry in pool):
            return Block("keys_rejected", f"the endpoint '{endpoint}' refused every key")
        return Block("keys_resting", f"the keys of '{endpoint}' are rate limited for another {rest:.0f} s")

    def record(self, outcome: Outcome) -> None:
        """Learn from an attempt that used a key."""
        pool = self._pools.get(outcome.endpoint, [])
        position = outcome.provider_key
        if position is None or not 0 <= position < len(pool):
            return
        entry, now = pool[position], self._clock.monotonic()
        if outcome.error == "upstream_rejected_key" or outcome.status in (401, 403):
            entry.rejected += 1
            entry.out = True
            entry.healthier(False)
        elif outcome.error == "upstream_rate_limited" or outcome.status == 429:
            entry.limited(now, outcome.retry_after)
            entry.healthier(False)
        elif outcome.result in (Result.SUCCESS, Result.REFUSAL):
            entry.ok += 1
            entry.limits_in_a_row = 0
            entry.healthier(True)
            return
        else:
            entry.failed += outcome.result is Result.FAILED
            return
        self._changed.add(outcome.endpoint)
        self._close_if_none(outcome.endpoint, now)

    def _close_if_none(self, endpoint: str, now: float) -> None:
        pool = self._pools[endpoint]
        if any(entry.usable(now) for entry in pool):
            return
        resting = [entry.rests_until for entry in pool if not entry.out]
        self._closed[endpoint] = min(resting, default=math.inf)
        self._lasting = None

    def statistics(self) -> tuple[KeyStatistics, ...]:
        """Per key, in the order of the pools."""
        now = self._clock.monotonic()
        return tuple(
            KeyStatistics(
                endpoint=endpoint,
                position=position,
                used=entry.used,
                ok=entry.ok,
                failed=entry.failed,
                rate_limited=entry.rate_limited,
                rejected=entry.rejected,
                resting=max(0.0, entry.rests_until - now),
                out=entry.out,
                health=entry.health,
            )
            for endpoint, pool in self._pools.items()
            for position, entry in enumerate(pool)
        )

    def export(self) -> dict[str, dict[str, Any] | None]:
        """The rests and refusals of the endpoints that changed since the last export, secrets as digests.

        A refused key is not remembered: a restart is a reload, and gives it another chance.
        """
        changed, self._changed = self._changed, set()
        now, wall = self._clock.monotonic(), self._clock.wall()
        return {
            endpoint: {
                digest_of(entry.secret): {
                    "rests_until": wall + max(0.0, entry.rests_until - now),
                    "limits": entry.limits_in_a_row,
                }
                for entry in self._pools.get(endpoint, ())
                if entry.rests_until > now
            }
            or None
            for endpoint in changed
        }

    def adopt(self, documents: Mapping[str, Any]) -> None:
        """Take over rests that an earlier run or another gateway stored; what is not understood is passed over."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        for endpoint, document in documents.items():
            for entry in self._pools.get(endpoint, ()):
                try:
                    stored = document[digest_of(entry.secret)]
                    rest = min(LONGEST_RETRY_AFTER, float(stored["rests_until"]) - wall)
                    limits = int(stored["limits"])
                except (KeyError, TypeError, ValueError, OverflowError):
                    continue
                if rest > 0 and now + rest > entry.rests_until:
                    entry.rests_until = now + rest
                    entry.limits_in_a_row = max(entry.limits_in_a_row, limits)
            if endpoint in self._pools:
                self._close_if_none(endpoint, now)


def needs_key(endpoint: Endpoint) -> bool:
    """Whether an endpoint names keys at all."""
    return bool(endpoint.key_env or endpoint.key_keyring)


def digest_of(secret: str) -> str:
    """What a key is filed under. Keys are long and random, so their digest does not give them away."""
    return hashlib.sha256(b"roundhouse key\0" + secret.encode()).hexdigest()[:32]
