"""A provider's row names its backend, and holds the facts about it that other layers read."""

from __future__ import annotations

import subprocess
import sys

import pytest

from backends import registry
from backends.base import Chat, Speak, Tokenize, Transcribe, Upstream
from backends.http import HttpClient
from backends.registry import (
    PROVIDERS,
    WORKER,
    Provider,
    backends,
    check_protocols,
    genai_name,
    trusted_providers,
    wire_of,
)
from backends.wire.audio import TranscriptionRequest
from catalog.catalog import Catalog
from catalog.errors import ConfigurationError
from catalog.model import Endpoint, Model
from routing.settings import ColdStart


def endpoint(protocol: str, name: str = "mine") -> Endpoint:
    return Endpoint(id=name, protocol=protocol, base_url="http://127.0.0.1:9")


@pytest.mark.parametrize("protocol", [WORKER, *PROVIDERS])
def test_every_backend_tells_what_it_drops(protocol: str) -> None:
    made = backends(HttpClient())
    assert protocol in set(made)
    assert callable(made[protocol].dropped)
    assert made[protocol] is made[protocol]


def test_a_capability_is_a_type() -> None:
    made = backends(HttpClient())
    assert len(made) == len(PROVIDERS) + 1
    assert {name for name, backend in made.items() if isinstance(backend, Tokenize)} == {WORKER}
    assert not isinstance(made["elevenlabs"], Chat)
    assert isinstance(made["elevenlabs"], Speak)
    assert isinstance(made["elevenlabs"], Transcribe)


def test_every_endpoint_that_comes_with_roundhouse_has_a_known_protocol() -> None:
    check_protocols(Catalog.builtin().servers)


@pytest.mark.parametrize("protocol", ["opneai", WORKER])
def test_an_endpoint_of_an_unknown_protocol_is_refused_and_the_known_ones_are_named(protocol: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"'mine'.*'{protocol}'.*anthropic, azure, .*openai"):
        check_protocols([endpoint("openai", "good"), endpoint(protocol)])


def test_a_provider_without_a_name_in_the_conventions_is_named_by_its_endpoint() -> None:
    assert genai_name(endpoint("azure")) == "azure.ai.openai"
    assert genai_name(endpoint("google")) == "gcp.gemini"
    assert genai_name(endpoint("openai", "groq")) == "groq"


def test_the_operators_list_of_trusted_providers_replaces_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    toys = {"toy": Provider("toy.Toy", trusted=True), "stranger": Provider("toy.Toy")}
    before = trusted_providers()
    monkeypatch.setattr(registry, "PROVIDERS", {**PROVIDERS, **toys})
    assert ColdStart().trusted == before | {"toy"}
    assert ColdStart(trusted=frozenset({"lan"})).trusted == {"lan"}


def test_what_is_said_of_a_provider_is_known_without_loading_its_backend() -> None:
    code = (
        "import sys; from backends.registry import *; from catalog.model import Endpoint;"
        "trusted_providers(); answers_plainly('azure');"
        "genai_name(Endpoint(id='a', protocol='anthropic', base_url='http://x'));"
        "print(*(name for name in sys.modules if name.startswith('backends.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["backends.registry"]


def test_what_a_transcription_drops_is_known_without_reading_the_audio() -> None:
    request = TranscriptionRequest.model_validate({"model": "m", "file": b"\xff\xfe", "vad_filter": True})
    made = backends(HttpClient())
    assert made["openai"].dropped(request, Upstream("e", "openai", "http://x", "m")) == ("vad_filter",)
    assert made[WORKER].dropped(request, Upstream("e", WORKER, "http://x", "m")) == ()


def row(wire: str | None, endpoint: str = "mine") -> Model:
    source = {"kind": "upstream", "endpoint": endpoint, "model": "m"}
    return Model.model_validate({"id": "m", "capabilities": {"chat"}, "source": source, "wire": wire})


@pytest.mark.parametrize("protocol", ["anthropic", "google", "ollama"])
def test_the_responses_wire_is_refused_where_no_backend_speaks_it(protocol: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"\[\[endpoint\]\] 'mine': wire: 'responses' needs .* openai or azure"
    ):
        check_protocols([endpoint(protocol).model_copy(update={"wire": "responses"})])
    with pytest.raises(ConfigurationError, match=r"\[\[model\]\] 'm': wire: 'responses' needs"):
        check_protocols([endpoint(protocol)], [row("responses")])
    check_protocols([endpoint(protocol)], [row(None)])


@pytest.mark.parametrize("protocol", ["openai", "azure"])
def test_a_row_names_the_wire_of_its_chats_or_has_its_endpoints(protocol: str) -> None:
    chats, responses = endpoint(protocol), endpoint(protocol, "new").model_copy(update={"wire": "responses"})
    check_protocols([chats, responses], [row("responses")])
    catalog = Catalog(own=(), servers=(chats, responses))
    assert wire_of(row(None), catalog) == "chat"
    assert wire_of(row("responses"), catalog) == "responses"
    assert wire_of(row(None, "new"), catalog) == "responses"
    assert wire_of(row("chat", "new"), catalog) == "chat"


def test_the_wire_of_any_other_provider_is_its_protocol_and_a_local_model_has_none() -> None:
    catalog = Catalog(own=(), servers=(endpoint("anthropic"),))
    assert wire_of(row(None), catalog) == "anthropic"
    assert wire_of(Catalog.builtin().resolve("smollm2"), Catalog.builtin()) is None
