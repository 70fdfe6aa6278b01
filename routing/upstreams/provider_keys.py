"""Pools of provider keys: several per endpoint, used round robin; limited and rejected ones rest.

A rejected key (401), and one whose account is used up, rest longer, because mostly the operator has to act. Then
one call tries them: accounts are topped up, and providers refuse by mistake. Its success ends the rejection, as
does a reload. A 403 is of the model or the request, never of the key.

Most providers limit and permit each model by itself, so a limit or a rejection holds for the model that was
called. It holds for the key as a whole if the provider says so, or if a second model is refused meanwhile.

A key's secret is in :attr:`Key.secret` only: not in a ``repr``, an error or a document. Outcomes, statistics and
logs name a key by its *position* in its pool. Documents name it by a digest of the secret, which stays the same
when the keys are listed in another order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from catalog.errors import ConfigurationError
from catalog.installing import install_command
from catalog.model import Endpoint
from routing.clock import Clock
from routing.outcomes import Outcome, Result
from routing.plan import KEYS_FORBIDDEN, KEYS_REJECTED, Block
from routing.upstreams.key_state import MAX_REST_USED_UP, MAX_RETRY_AFTER, TRIAL_WAIT, KeyState, KeyUse

ResolveSecrets = Callable[[Endpoint], tuple[str, ...]]
"""The secrets of an endpoint's keys, in order."""

_COUNTED = ("used", "ok", "failed", "rate_limited", "rejected")
_NO_BLOCKS: Mapping[str, Block] = MappingProxyType({})


class SecretResolver:
    """Reads the secrets that an endpoint names from the environment and from the system's keychain.

    ``environment`` is usually ``os.environ``. ``keychain(service, user)`` returns the secret or ``None``; the
    default is :func:`ask_keyring`.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        keychain: Callable[[str, str], str | None] | None = None,
    ) -> None:
        self._environment = environment
        self._keychain = keychain or ask_keyring

    def __call__(self, endpoint: Endpoint) -> tuple[str, ...]:
        """The secrets without duplicates. An unset variable gives none, which is no error.

        Raises ConfigurationError when ``key_keyring`` is malformed or the keychain cannot be read.
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
    """Read a secret from the system's keychain. Raises ConfigurationError without ``keyring`` or a keychain."""
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
    """A provider key for one call."""

    endpoint: str
    position: int
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyStatistics:
    """Counts of a key's calls by result, over restarts and over all gateways that share the state.

    ``resting`` is the seconds that it still rests, for one model or all; ``out`` means rejected for all models and
    not accepted since;
    ``health``, in (0, 1], is the discounted share of successes among successes, rate limits and rejections.
    """

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


class KeyPools:
    """The keys of all endpoints that name any."""

    kind = "key"

    def __init__(self, endpoints: Iterable[Endpoint], resolve_secrets: ResolveSecrets, clock: Clock) -> None:
        self._resolve = resolve_secrets
        self._clock = clock
        self._pools: dict[str, list[KeyState]] = {}
        self._unusable_until: dict[str, float] = {}
        self._permanent_blocks: Mapping[str, Block] | None = None
        self._models_until: dict[str, tuple[str, float]] = {}
        self._sources: dict[str, str] = {}
        self._changed: set[str] = set()
        self.reload(endpoints)

    def reload(self, endpoints: Iterable[Endpoint]) -> None:
        """Read the secrets again. Known keys keep their statistics; rejected ones are usable again.

        Raises ConfigurationError as the resolver does, and then changes nothing.
        """
        known = {(name, entry.secret): entry for name, pool in self._pools.items() for entry in pool}
        pools: dict[str, list[KeyState]] = {}
        sources: dict[str, str] = {}
        for endpoint in endpoints:
            if needs_key(endpoint):
                sources[endpoint.id] = source_of(endpoint)
                secrets = self._resolve(endpoint)
                pools[endpoint.id] = [known.get((endpoint.id, secret)) or KeyState(secret) for secret in secrets]
        for name, pool in pools.items():
            if any(use.out for entry in pool for use in (entry.all, *entry.models.values())):
                self._changed.add(name)
            for entry in pool:
                for use in (entry.all, *entry.models.values()):
                    use.forgive()
        self._pools, self._sources = pools, sources
        self._unusable_until = {name: math.inf for name, pool in pools.items() if not pool}
        self._models_until = {}
        self._permanent_blocks = None
        now = self._clock.monotonic()
        for name, pool in pools.items():
            self._block_if_unusable(name, {model for entry in pool for model in entry.models}, now)

    def take(self, endpoint: str, now: float, model: str = "") -> Key | None:
        """The next key for a model, healthier ones more often; ``None`` when none is usable at present.

        The order is nginx's smooth weighted round robin: every key gains its weight, and the one with the highest
        sum is taken and loses the total. With equal weights that is plain round robin.
        """
        pool = self._pools.get(endpoint, ())
        best, position, total = None, -1, 0.0
        for index, entry in enumerate(pool):
            if not entry.usable(now, model):
                continue
            entry.credit += entry.health
            total += entry.health
            if best is None or entry.credit > best.credit + 1e-9:
                best, position = entry, index
        if best is None:
            return None
        best.credit -= total
        best.used += 1
        if model and (best.all.out or best.models) and best.start_trial(now, model):
            self._block_if_unusable(endpoint, (model,), now)
        return Key(endpoint, position, best.secret)

    def secret_of(self, endpoint: str, digest: str) -> str | None:
        """The secret of the key with this :func:`digest_of`; ``None`` if the endpoint has it no more."""
        secrets = (entry.secret for entry in self._pools.get(endpoint, ()))
        return next((secret for secret in secrets if digest_of(secret) == digest), None)

    def blocked(self, now: float) -> Mapping[str, Block]:
        """Blocks of the endpoints without a usable key, by id.

        The same mapping while nothing changes, except while some keys rest: their blocks have the time left.
        """
        if not self._unusable_until:
            return _NO_BLOCKS
        if self._permanent_blocks is not None:
            return self._permanent_blocks
        reopened = [endpoint for endpoint, until in self._unusable_until.items() if until <= now]
        for endpoint in reopened:
            del self._unusable_until[endpoint]
        blocks = {endpoint: self._block(endpoint, until - now) for endpoint, until in self._unusable_until.items()}
        if all(until == math.inf for until in self._unusable_until.values()):
            self._permanent_blocks = blocks
        return blocks

    def blocked_models(self, now: float) -> Mapping[str, Block]:
        """Blocks of the models, by id, for which no key of their endpoint is usable."""
        if not self._models_until:
            return _NO_BLOCKS
        for model in [model for model, (_, until) in self._models_until.items() if until <= now]:
            del self._models_until[model]
        return {
            model: self._block(endpoint, until - now, model)
            for model, (endpoint, until) in self._models_until.items()
        }

    def block_of(self, endpoint: str, model: str, now: float) -> Block | None:
        """The block of a model without a usable key; ``None`` if it has one."""
        return self.blocked(now).get(endpoint) or self.blocked_models(now).get(model)

    def _block(self, endpoint: str, rest: float, model: str | None = None) -> Block:
        source, pool = self._sources[endpoint], self._pools[endpoint]
        whom = "" if model is None else f" for '{model}'"
        if not pool:
            return Block("no_key", f"no key is set for the endpoint '{endpoint}'; set {source}")
        uses = [entry.uses(model) for entry in pool]
        if all(any(use.used_up for use in of_key) for of_key in uses):
            when = f"One is tried again in {math.ceil(rest)} s"
            reason = f"the account of every key of '{endpoint}' is used up{whom}. {when}"
            return Block("keys_used_up", reason, rest)
        if all(any(use.out for use in of_key) for of_key in uses):
            trial = any(use.on_trial for of_key in uses for use in of_key)
            when = "A call tries one now" if trial else f"One is tried again in {math.ceil(rest)} s"
            rest = min(rest, TRIAL_WAIT) if trial else rest
            if all(any(use.out and use.forbidden for use in of_key) for of_key in uses):
                reason = (
                    f"the endpoint '{endpoint}' does not let any key use '{model}' (403); check what the account "
                    f"of {source} may use. {when}"
                )
                return Block(KEYS_FORBIDDEN, reason, rest)
            reason = f"the endpoint '{endpoint}' refused every key{whom}; check {source} and its account. {when}"
            return Block(KEYS_REJECTED, reason, rest)
        reason = f"the keys of '{endpoint}' are rate limited or refused{whom} for another {math.ceil(rest)} s"
        return Block("keys_resting", reason, rest)

    def record(self, outcome: Outcome) -> None:
        """Update the key that an attempt used."""
        pool = self._pools.get(outcome.endpoint, [])
        position = outcome.provider_key
        if position is None or not 0 <= position < len(pool):
            return
        entry, now = pool[position], self._clock.monotonic()
        if outcome.error == "insufficient_quota" or outcome.status == 402:
            entry.use_up(now, outcome)
            entry.update_health(False)
        elif outcome.error == "upstream_forbidden" and outcome.scope == "model":
            entry.forbid(now, outcome)
        elif outcome.error == "upstream_rejected_key" or outcome.status == 401:
            entry.reject(now, outcome)
            entry.update_health(False)
        elif _is_limit(outcome):
            for use in entry.uses(outcome.model):
                use.end_trial(now, taken=False)
            entry.limit(now, outcome)
            entry.update_health(False)
        elif outcome.result in (Result.SUCCESS, Result.REFUSAL):
            entry.ok += 1
            entry.all.limits_in_a_row = 0
            if entry.all.out or entry.models:
                self._end_trial(entry, outcome, now, taken=True)
                entry.limited.clear()
                of_model = entry.models.get(outcome.model)
                if of_model is not None:
                    of_model.limits_in_a_row = 0
                    if of_model.usable(now) and not of_model.out:
                        del entry.models[outcome.model]
            entry.update_health(True)
            return
        else:
            entry.failed += outcome.result is Result.FAILED
            if entry.all.out or entry.models:
                self._end_trial(entry, outcome, now, taken=False)
            return
        self._changed.add(outcome.endpoint)
        self._block_if_unusable(outcome.endpoint, (outcome.model,), now)

    def _end_trial(self, entry: KeyState, outcome: Outcome, now: float, *, taken: bool) -> None:
        """End the trial of a rejected key, if the call was one, and with it the blocks that it made."""
        tried = [use for use in entry.uses(outcome.model) if use.on_trial]
        if not tried:
            return
        for use in tried:
            use.end_trial(now, taken=taken)
        self._changed.add(outcome.endpoint)
        self._unusable_until.pop(outcome.endpoint, None)
        self._models_until.pop(outcome.model, None)
        self._block_if_unusable(outcome.endpoint, (outcome.model,), now)

    def _block_if_unusable(self, endpoint: str, models: Iterable[str], now: float) -> None:
        pool = self._pools[endpoint]
        until = min((entry.free_at(None) for entry in pool), default=math.inf)
        if until > now:
            self._unusable_until[endpoint] = until
            self._permanent_blocks = None
        for model in models:
            until = min((entry.free_at(model) for entry in pool), default=math.inf)
            if until > now:
                self._models_until[model] = endpoint, until

    def statistics(self) -> tuple[KeyStatistics, ...]:
        """The statistics of every key, in the order of the pools."""
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
                resting=max(0.0, *(use.rests_until - now for use in (entry.all, *entry.models.values()))),
                out=entry.all.out,
                health=entry.health,
            )
            for endpoint, pool in self._pools.items()
            for position, entry in enumerate(pool)
        )

    def export(self) -> dict[str, dict[str, Any] | None]:
        """The resting and the rejected keys of the endpoints that changed since the last export.

        They are by digest and model; what holds for all models has an empty name.
        """
        changed, self._changed = self._changed, set()
        now, wall = self._clock.monotonic(), self._clock.wall()

        def rests(entry: KeyState) -> dict[str, Any]:
            uses = {"": entry.all, **entry.models}
            return {
                model: {
                    "rests_until": wall + max(0.0, use.rests_until - now),
                    "limits": use.limits_in_a_row,
                    "rejections": use.rejections_in_a_row,
                    "out": use.out,
                    "used_up": use.used_up,
                    "forbidden": use.forbidden,
                }
                for model, use in uses.items()
                if use.rests_until > now or use.out
            }

        return {
            endpoint: {
                digest_of(entry.secret): stored
                for entry in self._pools.get(endpoint, ())
                if (stored := rests(entry))
            }
            or None
            for endpoint in changed
        }

    def adopt(self, documents: Mapping[str, Any]) -> None:
        """Load rests and rejections that an earlier run or another gateway stored; invalid ones are skipped."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        for endpoint, document in documents.items():
            for entry in self._pools.get(endpoint, ()):
                try:
                    uses = {
                        str(model): (
                            float(use["rests_until"]) - wall,
                            int(use["limits"]),
                            int(use.get("rejections", 0)),
                            use.get("out") is True,
                            use.get("used_up") is True,
                            use.get("forbidden") is True,
                        )
                        for model, use in document[digest_of(entry.secret)].items()
                    }
                except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
                    continue
                for model, (rest, limits, rejections, out, used_up, forbidden) in uses.items():
                    use = entry.models.setdefault(model, KeyUse()) if model else entry.all
                    use.out, use.used_up = use.out or out, use.used_up or used_up
                    use.forbidden = use.forbidden or forbidden
                    rest = min(MAX_REST_USED_UP if used_up else MAX_RETRY_AFTER, rest)
                    use.rejections_in_a_row = max(use.rejections_in_a_row, rejections)
                    if rest > 0:
                        use.rests_until = max(use.rests_until, now + rest)
                        use.limits_in_a_row = max(use.limits_in_a_row, limits)
            if endpoint in self._pools:
                models = {model for entry in self._pools[endpoint] for model in entry.models}
                self._block_if_unusable(endpoint, models, now)

    def export_counts(self) -> dict[str, int]:
        """The additions to each key's counts since the last call, by ``endpoint/digest/field``."""
        changes: dict[str, int] = {}
        for name, entry, counted in self._counts():
            value = getattr(entry, counted)
            if change := value - entry.stored.get(counted, 0):
                changes[name] = change
                entry.stored[counted] = value
        return changes

    def adopt_counts(self, totals: Mapping[str, int]) -> None:
        """Load the counts of an earlier run and of other gateways, added up, with those of this one."""
        for name, entry, counted in self._counts():
            total = totals.get(name)
            if total is not None:
                since = getattr(entry, counted) - entry.stored.get(counted, 0)
                setattr(entry, counted, total + since)
                entry.stored[counted] = total

    def _counts(self) -> Iterator[tuple[str, KeyState, str]]:
        for endpoint, pool in self._pools.items():
            for entry in pool:
                digest = digest_of(entry.secret)
                for counted in _COUNTED:
                    yield f"{endpoint}/{digest}/{counted}", entry, counted


def _is_limit(outcome: Outcome) -> bool:
    """Whether an attempt met a rate limit of answers; counting tokens has limits of its own."""
    limited = outcome.error == "upstream_rate_limited" or outcome.status == 429
    return limited and not outcome.facts.tokens_only


def needs_key(endpoint: Endpoint) -> bool:
    """Whether an endpoint names any keys."""
    return bool(endpoint.key_env or endpoint.key_keyring)


def source_of(endpoint: Endpoint) -> str:
    """The place that an endpoint's keys are read from, for messages: variables, or an entry of the keychain."""
    return " or ".join(filter(None, (*endpoint.key_env, endpoint.key_keyring)))


def digest_of(secret: str) -> str:
    """The name of a key in documents. Keys are long and random, so a digest does not reveal them."""
    return hashlib.sha256(b"roundhouse key\0" + secret.encode()).hexdigest()[:32]
