"""Voices of recordings: OpenAI's consents and custom voices, each for the key that made it."""

from __future__ import annotations

import os

import httpx
import pytest

from backends.wire.audio import ClonedSpeech, SpeechRequest
from catalog.types import Json
from server.storage.files import Files
from tests.server.api.test_openai_sdk import sdk
from tests.server.conftest import Gateway, Start

WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(28)


def spoken(gateway: Gateway) -> SpeechRequest:
    """The request that the backend got last."""
    asked = gateway.backend.requests[-1]
    assert isinstance(asked, SpeechRequest)
    return asked


def files_of(gateway: Gateway) -> Files:
    runtime = gateway.services.runtime
    assert runtime is not None
    return runtime.files


async def consent(gateway: Gateway, content: bytes = WAV, **fields: str) -> httpx.Response:
    data = {"name": "Ada's consent", "language": "en-GB", **fields}
    return await gateway.client.post(
        "/v1/audio/voice_consents", files={"recording": ("yes.wav", content)}, data=data
    )


async def voice(gateway: Gateway, consent_id: str, content: bytes = WAV, **fields: str) -> httpx.Response:
    data = {"name": "Ada", "consent": consent_id, **fields}
    return await gateway.client.post("/v1/audio/voices", files={"audio_sample": ("ada.wav", content)}, data=data)


async def made(gateway: Gateway) -> tuple[Json, Json]:
    agreed = (await consent(gateway)).json()
    answer = await voice(gateway, agreed["id"])
    assert answer.status_code == 200, answer.text
    return agreed, answer.json()


async def test_a_consent_is_kept_listed_renamed_and_deleted(gateway: Gateway) -> None:
    agreed = (await consent(gateway)).json()
    assert (agreed["object"], agreed["name"], agreed["language"]) == (
        "audio.voice_consent",
        "Ada's consent",
        "en-GB",
    )
    path = f"/v1/audio/voice_consents/{agreed['id']}"
    renamed = await gateway.client.post(path, json={"name": "Hers"})
    assert renamed.json() == {**agreed, "name": "Hers"} == (await gateway.client.get(path)).json()
    assert (await gateway.client.get("/v1/audio/voice_consents")).json()["data"] == [renamed.json()]
    deleted = await gateway.client.delete(path)
    assert deleted.json() == {"id": agreed["id"], "object": "audio.voice_consent", "deleted": True}
    assert (await gateway.client.get(path)).status_code == 404
    assert list(files_of(gateway).folder.iterdir()) == []


async def test_a_voice_is_made_of_a_recording_listed_heard_and_deleted(gateway: Gateway) -> None:
    agreed, ada = await made(gateway)
    assert (ada["object"], ada["name"], ada["type"]) == ("audio.voice", "Ada", "audio_sample")
    assert ada["consent"] == agreed["id"]
    path = f"/v1/audio/voices/{ada['id']}"
    assert (await gateway.client.get(path)).json() == ada
    assert (await gateway.client.get("/v1/audio/voices")).json()["data"][0] == ada
    assert (await gateway.client.get(ada["sample"])).content == WAV
    kept = await gateway.client.delete(f"/v1/audio/voice_consents/{agreed['id']}")
    assert (kept.status_code, kept.json()["error"]["param"]) == (400, "consent_id"), "its voice needs it"
    deleted = await gateway.client.delete(path)
    assert deleted.json() == {"id": ada["id"], "object": "audio.voice.deleted", "deleted": True}
    for gone in (path, ada["sample"]):
        assert (await gateway.client.get(gone)).status_code == 404
    assert [path.name for path in files_of(gateway).folder.iterdir()] == [agreed["id"]]


async def test_the_recording_goes_to_the_model_that_speaks(gateway: Gateway) -> None:
    _, ada = await made(gateway)
    for named in (ada["id"], {"id": ada["id"]}):
        await gateway.client.post("/v1/audio/speech", json={"input": "Hello.", "voice": named})
        asked = spoken(gateway)
        assert isinstance(asked, ClonedSpeech)
        assert (asked.recording, asked.voice_name) == (WAV, ada["id"])
        assert "clone" in gateway.dispatcher.facts[-1].features
        assert "recording" not in asked.model_dump()


async def test_a_voice_of_a_providers_goes_through_as_it_is(gateway: Gateway) -> None:
    await gateway.client.post("/v1/audio/speech", json={"input": "Hello.", "voice": {"id": "voice_1234"}})
    assert not isinstance(spoken(gateway), ClonedSpeech)


async def test_no_client_can_send_a_recording_of_its_own(gateway: Gateway) -> None:
    await gateway.client.post("/v1/audio/speech", json={"input": "Hello.", "recording": "UklGRg=="})
    assert not isinstance(spoken(gateway), ClonedSpeech)
    assert "clone" not in gateway.dispatcher.facts[-1].features


@pytest.mark.parametrize(
    ("content", "fields", "param"),
    [
        (b"hello, I am text", {}, "audio_sample"),
        (WAV, {"consent": "cons_nobody"}, "consent"),
        (WAV, {"type": "prompt"}, "type"),
        (WAV, {"name": ""}, "name"),
        (WAV, {"mood": "happy"}, "mood"),
        (b"", {}, "audio_sample"),
    ],
)
async def test_what_makes_no_voice_is_refused(
    gateway: Gateway, content: bytes, fields: dict[str, str], param: str
) -> None:
    agreed = (await consent(gateway)).json()
    answer = await voice(gateway, fields.pop("consent", agreed["id"]), content, **fields)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == param
    assert len(list(files_of(gateway).folder.iterdir())) == 1, "nothing of it is kept"


async def test_a_recording_may_have_ten_mebibytes(gateway: Gateway) -> None:
    answer = await consent(gateway, WAV + bytes(10 << 20))
    assert answer.status_code in (400, 413)
    assert list(files_of(gateway).folder.iterdir()) == []


async def test_another_keys_voice_is_not_there(start: Start) -> None:
    async with start(api_keys=("one", "two")) as gateway:
        gateway.client.headers["authorization"] = "Bearer one"
        _, ada = await made(gateway)
        gateway.client.headers["authorization"] = "Bearer two"
        assert (await gateway.client.get(f"/v1/audio/voices/{ada['id']}")).status_code == 404
        assert (await gateway.client.delete(f"/v1/audio/voices/{ada['id']}")).status_code == 404
        listed = (await gateway.client.get("/v1/audio/voices")).json()["data"]
        assert ada["id"] not in [each["id"] for each in listed]
        await gateway.client.post("/v1/audio/speech", json={"input": "Hello.", "voice": ada["id"]})
        assert not isinstance(spoken(gateway), ClonedSpeech)


async def test_the_voice_of_a_model_is_described_and_heard(gateway: Gateway) -> None:
    card = (await gateway.client.get("/v1/audio/voices")).json()["data"][0]
    assert (await gateway.client.get(f"/v1/audio/voices/{card['id']}")).json() == card
    assert {"languages", "gender", "sample"} <= card.keys()
    heard = await gateway.client.get(card["sample"])
    assert heard.status_code == 200
    assert spoken(gateway).voice == card["id"]
    assert (await gateway.client.get("/v1/audio/voices/nobody")).status_code == 404


async def test_a_sweep_leaves_the_recordings_of_voices(gateway: Gateway) -> None:
    agreed, ada = await made(gateway)
    for path in files_of(gateway).folder.iterdir():
        os.utime(path, (0, 0))
    assert await files_of(gateway).sweep() == 0
    assert {path.name for path in files_of(gateway).folder.iterdir()} == {agreed["id"], ada["id"]}


async def test_openais_sdk_makes_a_voice(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        agreed = await client.audio.voice_consents.create(
            name="Yes", language="en-US", recording=("yes.wav", WAV, "audio/wav")
        )
        ada = await client.audio.voices.create(
            name="Ada", consent=agreed.id, audio_sample=("ada.wav", WAV, "audio/wav")
        )
        assert (ada.object, ada.type) == ("audio.voice", "audio_sample")
        assert [each.id async for each in client.audio.voice_consents.list()] == [agreed.id]
        assert (await client.audio.voices.delete(ada.id)).deleted
        assert (await client.audio.voice_consents.delete(agreed.id)).deleted


async def test_a_file_that_is_no_sound_is_refused_by_the_field_that_has_it(gateway: Gateway) -> None:
    picture = b"\x89PNG\r\n\x1a\n" + bytes(32)
    assert (await consent(gateway, picture)).json()["error"]["param"] == "recording"
    agreed = (await consent(gateway)).json()
    assert (await voice(gateway, agreed["id"], picture)).json()["error"]["param"] == "audio_sample"
