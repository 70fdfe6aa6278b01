"""Keeps a request for speech to the models that have its voice.

A name that no listed model has is a mistake, and an id that is not the caller's own names an object of a
provider's account or of another key: neither goes to a provider, which would be paid for it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Protocol

from backends.voices import openai_voice, unknown_voice
from backends.wire.audio import ClonedSpeech, SpeechRequest, VoiceId
from catalog.catalog import Catalog
from catalog.errors import NotFound
from catalog.model import Model, UpstreamSource
from routing.facts import Facts
from routing.plan import Plan
from routing.reading.intent import is_auto
from server.callers import Caller
from server.storage.provider_objects import may_name
from server.storage.storage import Storage

OWN = "voice_"
"""The beginning of ids of voices of recordings, here and at OpenAI."""
_WEIGHT = re.compile(r"\s*\([\d.]+\)$")
_ASKS_ITS_ACCOUNT = frozenset({"elevenlabs"})
"""Protocols whose backend looks a voice up in the account, which costs nothing, before it speaks."""


class Explains(Protocol):
    def explain(self, facts: Facts) -> Plan: ...


class KnowsVoices(Protocol):
    """The part of the running server that knows the voices."""

    @property
    def storage(self) -> Storage: ...

    @property
    def catalog(self) -> Catalog: ...

    @property
    def dispatcher(self) -> Explains: ...


def voiced(runtime: KnowsVoices, facts: Facts, request: SpeechRequest, caller: Caller) -> Facts:
    """The facts of a request for speech, without the models that lack its voice.

    Raises NotFound for an id of a voice that is not the caller's to name, UnsupportedParameter for a name that no
    model has which may speak.
    """
    name = request.voice_name
    if name is None or isinstance(request, ClonedSpeech):
        return facts
    by_id = isinstance(request.voice, VoiceId) or name.startswith(OWN)
    if openai_voice(name) is not None or (by_id and may_name(runtime.storage, caller, name)):
        return facts
    candidates = runtime.dispatcher.explain(facts).candidates
    if not candidates:
        return facts
    named = not is_auto(facts.requested)
    able = {
        each.model.id for each in candidates if _has(each.model, runtime.catalog, name, by_id=by_id, named=named)
    }
    if not able:
        if by_id:
            raise NotFound(
                f"This key has no voice with the id {name[:80]!r}. GET /v1/audio/voices lists its voices; the "
                "operator can list ids of a provider's account in storage.provider_ids.",
                param="voice",
            )
        known = dict.fromkeys(voice for each in candidates for voice in _listed(each.model, runtime.catalog))
        raise unknown_voice("The speaker of this server", name, known)
    others = {each.model.id for each in candidates} - able
    if not others:
        return facts
    return replace(facts, intent=replace(facts.intent, exclude=facts.intent.exclude | others))


def _has(model: Model, catalog: Catalog, name: str, *, by_id: bool, named: bool) -> bool:
    """Whether a model may have a voice: it lists it, or what it has is not known and costs nothing to ask."""
    known = {voice.casefold() for voice in _listed(model, catalog)}
    parts = [_WEIGHT.sub("", part).strip().casefold() for part in name.split("+")]
    if name.casefold() in known:
        return True
    if model.local:
        return not model.voices or ("+" in name or _WEIGHT.search(name) is not None)
    if by_id or len(parts) > 1:
        return False
    source = model.source
    asks = isinstance(source, UpstreamSource) and catalog.endpoint(source.endpoint).protocol in _ASKS_ITS_ACCOUNT
    return asks or (named and not model.voices)


def _listed(model: Model, catalog: Catalog) -> tuple[str, ...]:
    source = model.source
    mapped = catalog.endpoint(source.endpoint).voice_map if isinstance(source, UpstreamSource) else {}
    return (*model.voices, *model.voice_map, *mapped)
