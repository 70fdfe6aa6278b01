"""Every protocol of the catalogue has a backend, and each says what it drops."""

from __future__ import annotations

from typing import get_args

import pytest

from backends.base import Chat, Speak, Tokenize, Transcribe, Upstream
from backends.http import HttpClient
from backends.openai.forms import dropped
from backends.registry import backends
from backends.wire.audio import TranscriptionRequest
from catalog.model import Endpoint


def test_every_protocol_of_an_endpoint_and_the_workers_have_one() -> None:
    protocols = get_args(Endpoint.model_fields["protocol"].annotation)
    assert set(backends(HttpClient())) == {*protocols, "worker"}


@pytest.mark.parametrize("protocol", ["openai", "azure", "ollama", "worker", "anthropic", "google", "elevenlabs"])
def test_every_backend_tells_what_it_drops(protocol: str) -> None:
    assert callable(getattr(backends(HttpClient())[protocol], "dropped", None))


def test_a_capability_is_a_type() -> None:
    made = backends(HttpClient())
    assert {name for name, backend in made.items() if isinstance(backend, Tokenize)} == {"worker"}
    assert not isinstance(made["elevenlabs"], Chat)
    assert isinstance(made["elevenlabs"], Speak)
    assert isinstance(made["elevenlabs"], Transcribe)


def test_what_a_transcription_drops_is_known_without_reading_the_audio() -> None:
    request = TranscriptionRequest.model_validate({"model": "m", "file": b"\xff\xfe", "vad_filter": True})
    assert dropped(request, Upstream("e", "openai", "http://x", "m")) == ("vad_filter",)
    assert dropped(request, Upstream("e", "worker", "http://x", "m")) == ()
