"""The state of one provider key: its rests after rate limits and rejections, for each model or all; its health."""

from __future__ import annotations

from dataclasses import dataclass, field

from routing.outcomes import Outcome

FIRST_REST = 1.0
FIRST_REST_REJECTED = 60.0
FIRST_REST_USED_UP = 300.0
MAX_REST = 300.0
MAX_REST_USED_UP = 3600.0
"""Seconds that a key is not used: a rate-limited one if the provider does not say, a rejected one and one whose
account is used up always. Doubled up to the maximum."""
MAX_RETRY_AFTER = 300.0
"""Longest ``retry-after`` in seconds that is honoured: a call every five minutes costs less than a wrong one."""
TRIAL = 60.0
"""Seconds that the call which tries a rejected key keeps it from others, unless it ends earlier."""
TRIAL_WAIT = 2.0
"""Seconds after which a caller is told to come back while a trial lasts: most end sooner."""
_HEALTH_DECAY = 0.8
_MIN_HEALTH = 0.05


@dataclass(slots=True)
class KeyUse:
    """Whether a key can be used: by one model, or by all.

    ``out`` is a rejection that no success has ended; its reason is ``used_up`` if the account is, ``forbidden`` if
    the provider knows the key but does not let it use the model. ``on_trial`` means that a call tries whether it
    still holds.
    """

    limits_in_a_row: int = 0
    rejections_in_a_row: int = 0
    rests_until: float = 0.0
    out: bool = False
    used_up: bool = False
    forbidden: bool = False
    on_trial: bool = False

    def usable(self, now: float) -> bool:
        return self.rests_until <= now

    def rest(self, now: float, retry_after: float | None) -> None:
        """Start a rest. Of many calls that get a 429 at the same moment, only the first lengthens the rest."""
        if self.rests_until <= now:
            self.limits_in_a_row += 1
        backoff = min(MAX_REST, FIRST_REST * 2.0 ** min(self.limits_in_a_row - 1, 30))
        seconds = backoff if retry_after is None else min(MAX_RETRY_AFTER, max(0.0, retry_after))
        if self.rests_until <= now or retry_after is not None:
            self.rests_until = max(self.rests_until, now + seconds)

    def reject(self, now: float, *, used_up: bool = False, forbidden: bool = False) -> None:
        """Start the rest of a rejected key. Of many calls that are rejected at the same moment, one counts."""
        if self.out and not self.on_trial and self.rests_until > now:
            return
        self.out, self.used_up, self.forbidden, self.on_trial = True, used_up, forbidden, False
        self.rejections_in_a_row += 1
        first, most = (FIRST_REST_USED_UP, MAX_REST_USED_UP) if used_up else (FIRST_REST_REJECTED, MAX_REST)
        seconds = min(most, first * 2.0 ** min(self.rejections_in_a_row - 1, 30))
        self.rests_until = now + seconds

    def start_trial(self, now: float) -> None:
        """Keep a rejected key from other calls while one tries it."""
        self.on_trial, self.rests_until = True, now + TRIAL

    def end_trial(self, now: float, *, taken: bool) -> None:
        """The call has ended: the provider took the key, or did not say, so that the next call tries it."""
        if self.on_trial:
            self.on_trial, self.rests_until = False, now
            if taken:
                self.out = self.used_up = self.forbidden = False
                self.rejections_in_a_row = 0

    def forgive(self) -> None:
        """Forget a rejection: the key was read again."""
        if self.out:
            self.out = self.used_up = self.forbidden = self.on_trial = False
            self.rejections_in_a_row, self.rests_until = 0, 0.0


@dataclass(slots=True)
class KeyState:
    """A key in its pool. ``credit`` is its current weight in smooth weighted round robin.

    ``all`` is its use by every model, ``models`` by single ones; ``limited`` are the models with a 429 since the
    key's last success. ``stored`` are the counts that the state has, by field.
    """

    secret: str = field(repr=False)
    used: int = 0
    ok: int = 0
    failed: int = 0
    rate_limited: int = 0
    rejected: int = 0
    health: float = 1.0
    credit: float = 0.0
    all: KeyUse = field(default_factory=KeyUse)
    models: dict[str, KeyUse] = field(default_factory=dict)
    limited: set[str] = field(default_factory=set)
    stored: dict[str, int] = field(default_factory=dict)

    def usable(self, now: float, model: str) -> bool:
        if not self.all.usable(now):
            return False
        use = self.models.get(model) if self.models else None
        return use is None or use.usable(now)

    def free_at(self, model: str | None) -> float:
        """When the key can be used by a model, or by any for ``None``."""
        return max(use.rests_until for use in self.uses(model))

    def uses(self, model: str | None) -> list[KeyUse]:
        """Its use by all, and by a model if that has been refused."""
        use = self.models.get(model) if model is not None else None
        return [self.all] if use is None else [self.all, use]

    def start_trial(self, now: float, model: str) -> bool:
        """Whether the call that takes the key now tries whether a rejection still holds."""
        out = [use for use in self.uses(model) if use.out]
        for use in out:
            use.start_trial(now)
        return bool(out)

    def update_health(self, succeeded: bool) -> None:
        step = 1.0 if succeeded else 0.0
        self.health = max(_MIN_HEALTH, _HEALTH_DECAY * self.health + (1 - _HEALTH_DECAY) * step)

    def limit(self, now: float, outcome: Outcome) -> None:
        """Rest for the model that was limited; for all, if the provider says so or a second model is limited."""
        self.rate_limited += 1
        self.limited.add(outcome.model)
        self.models.setdefault(outcome.model, KeyUse()).rest(now, outcome.retry_after)
        resting = sum(1 for model in self.limited if not self.models[model].usable(now))
        if outcome.scope == "key" or (outcome.scope is None and resting > 1):
            self.all.rest(now, outcome.retry_after)

    def forbid(self, now: float, outcome: Outcome) -> None:
        """Rest for the model that it may not use, whatever other models say."""
        self.rejected += 1
        self.models.setdefault(outcome.model, KeyUse()).reject(now, forbidden=True)
        self.all.end_trial(now, taken=True)

    def use_up(self, now: float, outcome: Outcome) -> None:
        """Rest for all models, as the account is used up, or for the one whose own quota is."""
        self.rejected += 1
        of_model = outcome.scope == "model"
        use = self.models.setdefault(outcome.model, KeyUse()) if of_model else self.all
        use.reject(now, used_up=True)
        if of_model:
            self.all.end_trial(now, taken=True)

    def reject(self, now: float, outcome: Outcome) -> None:
        """Rest for the model that refused it; for all, if a second does and none ever took it."""
        self.rejected += 1
        self.models.setdefault(outcome.model, KeyUse()).reject(now)
        refused = sum(1 for use in self.models.values() if use.out)
        if outcome.scope == "key" or (outcome.scope is None and refused > 1 and not self.ok):
            self.all.reject(now)
        else:
            self.all.end_trial(now, taken=outcome.scope == "model")
