"""Remembers which model was sent which beginning of a prompt, and how much of it its cache kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from routing.clock import Clock
from routing.facts import Facts
from routing.outcomes import Outcome
from routing.settings import Affinity

_PRIOR_HITS, _PRIOR_CALLS = 1.6, 2.0
"""A model's cache is expected to keep four fifths of a prefix, until it reports otherwise."""
_KEEP = 0.9
"""Weight of the earlier reports of cached tokens at each new one."""
_MOST_MODELS = 8
"""Models remembered for one boundary, the latest first."""


class Held(NamedTuple):
    """The part of a prompt that a model holds: the share of its tokens, sent ``at`` this monotonic time.

    ``kept`` is the part of such a prefix that the model's cache was seen to keep. ``latest`` marks the model that
    answered the conversation's last turn.
    """

    share: float
    at: float
    kept: float
    latest: bool = False


NOTHING: Mapping[str, Held] = MappingProxyType({})


class PrefixMemory:
    """The prompts of answered requests, each by its last boundary and its head's, with the models that had them.

    A prompt goes on from a known conversation when an earlier prompt as a whole is its beginning. A shared head
    alone (tools, a system prompt) makes no conversation: many have it, and it must not draw them all to one model.
    An :class:`~routing.outcomes.OutcomeSink`. At most ``settings.remembered`` boundaries are kept, the last used.
    """

    def __init__(self, settings: Affinity, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._sent: OrderedDict[bytes, dict[str, float]] = OrderedDict()
        self._hits: dict[str, tuple[float, float]] = {}
        self._asked_at: float | None = None

    def configure(self, settings: Affinity) -> None:
        """Use other settings from the next request on."""
        self._settings = settings

    @property
    def in_use(self) -> bool:
        """Whether a choice looked here within the time that a cache lasts.

        Then prompts to named models are worth remembering, too: such a conversation may go on as ``auto``.
        """
        if self._asked_at is None or not self._settings.enabled:
            return False
        return self._clock.monotonic() - self._asked_at <= max(self._settings.local, self._settings.remote)

    def record(self, outcome: Outcome) -> None:
        """Note the prompt of an answered request, and what its model reports of its cache."""
        prefix = outcome.facts.prefix
        if prefix is None or (outcome.first_chunk is None and not outcome.usage.known):
            return
        whole = prefix.whole
        if whole is None:
            return
        self._learn(outcome)
        now = self._clock.monotonic()
        for boundary in (prefix.head, whole):
            if boundary is not None:
                models = self._sent.pop(boundary.digest, None) or {}
                models.pop(outcome.model, None)
                models[outcome.model] = now
                if len(models) > _MOST_MODELS:
                    del models[next(iter(models))]
                self._sent[boundary.digest] = models
        while len(self._sent) > self._settings.remembered:
            self._sent.popitem(last=False)

    def held(self, facts: Facts) -> Mapping[str, Held]:
        """The part of a prompt that each model holds, by model id; empty for one that goes on from no other."""
        if facts.prefix is not None and self._settings.enabled:
            self._asked_at = self._clock.monotonic()
        return self._held(facts)

    def _held(self, facts: Facts) -> Mapping[str, Held]:
        prefix = facts.prefix
        if prefix is None or not self._settings.enabled:
            return NOTHING
        found: dict[str, Held] = {}
        for boundary in prefix.turns:
            self._find(boundary.digest, boundary.share, found)
        if not found:
            return NOTHING
        if prefix.head is not None:
            self._find(prefix.head.digest, prefix.head.share, found)
        return found

    def kept(self, model: str) -> float:
        """The part of a prefix that a model's cache is expected to have kept."""
        hits, calls = self._hits.get(model, (0.0, 0.0))
        return (hits + _PRIOR_HITS) / (calls + _PRIOR_CALLS)

    def _find(self, digest: bytes, share: float, found: dict[str, Held]) -> None:
        first = not found
        for model, at in reversed((self._sent.get(digest) or {}).items()):
            if model not in found:
                found[model] = Held(share, at, self.kept(model), latest=first)
                first = False

    def _learn(self, outcome: Outcome) -> None:
        usage = outcome.usage
        if not (usage.known and usage.input and (usage.cached or outcome.model in self._hits)):
            return  # a server that never reports cached tokens may have a cache all the same
        expected = self._held(outcome.facts).get(outcome.model)
        if expected is not None:
            hit = min(1.0, usage.cached / usage.input / expected.share)
            hits, calls = self._hits.get(outcome.model, (0.0, 0.0))
            self._hits[outcome.model] = hits * _KEEP + hit, calls * _KEEP + 1
