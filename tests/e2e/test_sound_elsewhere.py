"""Chats with sound at a provider: its models that hear and speak get them as they are, the others do not."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import httpx
import pytest

from catalog.types import Json
from tests.e2e.providers import endpoint, model, providers
from tests.e2e.serving import Served, served
from tests.fakes.openai import FakeOpenAI

SETTINGS = "[routing.speech]\nallow_remote = {remote}\n\n"


@pytest.fixture(scope="module")
def fake() -> FakeOpenAI:
    made = FakeOpenAI()
    made.models += ["gpt-audio", "scholar"]
    return made


def _rows(fake: FakeOpenAI, *, remote: bool) -> str:
    hearing = ["chat", "audio_input"]
    return (
        SETTINGS.format(remote=str(remote).lower())
        + endpoint("lab", fake)
        + model("gpt-audio", "gpt-audio", at="lab", capabilities=hearing, tags=["spoken"])
        + model("scholar", "scholar", at="lab", capabilities=["chat"])
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, fake: FakeOpenAI) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("elsewhere")
    with providers(fake):
        (folder / "roundhouse.toml").write_text(_rows(fake, remote=True))
        with served(folder, "--starter") as running:
            yield running


@pytest.fixture(scope="module")
def question(server: Served) -> str:
    """A spoken question, in base64."""
    body = {"model": "hibari", "input": "What is the capital of France?", "response_format": "wav"}
    return base64.b64encode(_post(server, "/audio/speech", body).content).decode()


def _post(server: Served, path: str, body: Json) -> httpx.Response:
    return httpx.post(f"{server.v1}{path}", json=body, trust_env=False, timeout=120)


def _chat(question: str, name: str, **fields: object) -> Json:
    sound = {"type": "input_audio", "input_audio": {"data": question, "format": "wav"}}
    return {"model": name, "messages": [{"role": "user", "content": [sound]}], **fields}


SPOKEN: Json = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}


def test_a_model_that_hears_and_speaks_gets_the_request_as_it_is(
    server: Served, fake: FakeOpenAI, question: str
) -> None:
    answer = _post(server, "/chat/completions", _chat(question, "gpt-audio", **SPOKEN))
    assert answer.status_code == 200, answer.text
    assert "x-roundhouse-notice" not in answer.headers
    sent = fake.calls[-1].body
    assert sent["messages"][0]["content"][0]["input_audio"]["data"] == question
    assert (sent["modalities"], sent["audio"]) == (SPOKEN["modalities"], SPOKEN["audio"])


def test_a_model_that_does_neither_gets_text_and_is_spoken_for(
    server: Served, fake: FakeOpenAI, question: str
) -> None:
    answer = _post(server, "/chat/completions", _chat(question, "scholar", **SPOKEN))
    assert answer.status_code == 200, answer.text
    (part,) = fake.calls[-1].body["messages"][0]["content"]
    assert part["type"] == "text"
    assert "capital of France" in part["text"]
    assert "modalities" not in fake.calls[-1].body
    message = answer.json()["choices"][0]["message"]
    assert message["audio"]["transcript"] == fake.reply
    assert base64.b64decode(message["audio"]["data"]).startswith(b"RIFF")
    notice = answer.headers["x-roundhouse-notice"]
    assert "transcribed by whisper-base" in notice
    assert "'scholar' writes" in notice


def test_a_strict_request_is_refused(server: Served, question: str) -> None:
    answer = _post(server, "/chat/completions", _chat(question, "scholar", routing={"strict": True}))
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "model_capability_mismatch"


def test_sound_stays_on_this_machine_where_the_settings_say_so(
    tmp_path_factory: pytest.TempPathFactory, fake: FakeOpenAI, server: Served, question: str
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    (folder / "roundhouse.toml").write_text(_rows(fake, remote=False))
    with served(folder, "--starter") as running:
        calls = len(fake.calls)
        named = _post(running, "/chat/completions", _chat(question, "gpt-audio"))
        chosen = _post(running, "/chat/completions", _chat(question, "auto", max_tokens=20))
        heard = [call.body for call in fake.calls[calls:]]
    for answer in (named, chosen):
        assert answer.status_code == 200, answer.text
        assert "transcribed by whisper-base" in answer.headers["x-roundhouse-notice"]
    assert heard, "the text of the model that was named went there"
    assert all("input_audio" not in str(body) for body in heard)
