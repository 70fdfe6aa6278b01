"""Videos made from others: what a request may say of them, and what they are reserved and paid for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from catalog.types import Json
from tests.fakes.openai import FakeOpenAI
from tests.server.videos.test_remote import ASK, gateway, made, row

FILM = row("film", "x", price={"video": 0.1, "tiers": {"480p": 0.5}})
LENGTHS: tuple[Any, ...] = ("x", 0, -5, [1], True, "1.5", {}, 1e300)
SIZES: tuple[Any, ...] = (5, "x", [], {}, True)
OTHERS = ("fps", "steps", "strength", "seed", "generate_audio", "user", "guidance_scale", "negative_prompt")
_TEXTS = ("user", "negative_prompt")
WRONG: list[Json] = [
    *({"seconds": wrong} for wrong in LENGTHS),
    *({"size": wrong} for wrong in SIZES),
    *({name: 5 if name in _TEXTS else "x"} for name in OTHERS),
    *({name: []} for name in OTHERS),
    *({name: {}} for name in OTHERS),
]


async def remixed(client: httpx.AsyncClient, video: Json, body: Json, path: str = "") -> httpx.Response:
    if path:
        return await client.post(f"/v1/videos/{path}", json={"prompt": "x", "video": {"id": video["id"]}, **body})
    return await client.post(f"/v1/videos/{video['id']}/remix", json={"prompt": "x", **body})


async def test_a_field_of_a_wrong_type_is_named_wherever_a_video_is_made_from_another(tmp_path: Path) -> None:
    async with FakeOpenAI() as fake, gateway(tmp_path, fake, [FILM]) as client:
        _, video = await made(client, ASK)
        for path in ("", "edits", "extensions"):
            for fields in WRONG:
                sent = {"seconds": "4", **fields} if path == "extensions" else fields
                answer = await remixed(client, video, sent, path)
                assert answer.status_code == 400, (path, fields, answer.text)
                assert answer.json()["error"]["param"] == next(iter(fields)), answer.text
        assert len(fake.video_calls) == 1


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("", {"seconds": "1"}),
        ("", {"seconds": 12}),
        ("", {"model": "other"}),
        ("edits", {"seconds": "1"}),
    ],
)
async def test_a_video_that_is_changed_keeps_its_sources_length_and_a_remix_its_model(
    tmp_path: Path, path: str, fields: Json
) -> None:
    async with FakeOpenAI() as fake, gateway(tmp_path, fake, [FILM, row("other", "x")]) as client:
        _, video = await made(client, ASK)
        answer = await remixed(client, video, fields, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_parameter"), answer.text
        assert answer.json()["error"]["param"] == next(iter(fields))
        assert len(fake.video_calls) == 1
        same = await remixed(client, video, {"model": "film", "seconds": video["seconds"], "size": None})
        assert same.status_code == 200, same.text


async def test_no_length_that_a_request_names_gets_a_remix_past_a_cap(tmp_path: Path) -> None:
    async with (
        FakeOpenAI() as fake,
        gateway(tmp_path, fake, [FILM], spend={"caps": {"day": 1.0}}) as client,
    ):
        _, video = await made(client, ASK)
        for fields in ({}, {"seconds": "1"}, {"seconds": video["seconds"]}):
            assert (await remixed(client, video, fields)).status_code in (400, 429), fields
        assert len(fake.video_calls) == 1


async def test_another_size_than_the_sources_is_named_where_the_provider_does_not_take_it(tmp_path: Path) -> None:
    async with FakeOpenAI() as fake, gateway(tmp_path, fake, [FILM]) as client:
        _, video = await made(client, ASK)
        for path in ("", "edits"):
            other = await remixed(client, video, {"size": "100x100", "seed": 5}, path)
            assert "size" in other.json()["x-roundhouse"]["dropped"], other.text
            strict = await remixed(client, video, {"size": "100x100", "strict": True}, path)
            assert (strict.status_code, strict.json()["error"]["param"]) == (400, "size")
            own = await remixed(client, video, {"size": ASK["size"], "strict": True}, path)
            assert own.status_code == 200, own.text


@pytest.mark.parametrize("form", [False, True], ids=["json", "form"])
async def test_strict_is_no_parameter_of_the_model(tmp_path: Path, form: bool) -> None:
    async with FakeOpenAI() as fake, gateway(tmp_path, fake, [FILM]) as client:
        fields = {**ASK, "strict": True, "timings": False}
        sent: dict[str, Any] = {"json": fields}
        if form:
            sent = {"files": {name: (None, str(value).lower()) for name, value in fields.items()}}
        answer = await client.post("/v1/videos", **sent)
        assert answer.status_code == 200, answer.text
        assert "dropped" not in answer.json().get("x-roundhouse", {})
        assert not {"strict", "timings"} & fake.video_calls["video_1"].body.keys()


@pytest.mark.parametrize("seconds", [None, 8.0, 8])
async def test_a_length_may_be_written_as_any_whole_number_or_null(tmp_path: Path, seconds: object) -> None:
    async with FakeOpenAI() as fake, gateway(tmp_path, fake, [FILM]) as client:
        answer = await client.post("/v1/videos", json={**ASK, "seconds": seconds})
        assert answer.json()["seconds"] == ("4" if seconds is None else "8"), answer.text


async def test_a_size_of_a_lower_price_is_reserved_at_that_price(tmp_path: Path) -> None:
    async with (
        FakeOpenAI() as fake,
        gateway(tmp_path, fake, [FILM], spend={"caps": {"day": 0.5}}) as client,
    ):
        assert (await made(client, {**ASK, "size": "854x480"}))[1]["status"] == "completed"
        assert (await made(client, ASK))[0].status_code == 429


async def test_a_cancelled_and_a_deleted_video_are_one_call_each(tmp_path: Path) -> None:
    async with FakeOpenAI() as fake, gateway(tmp_path, fake, [FILM]) as client:
        _, video = await made(client, ASK)
        await client.delete(f"/v1/videos/{video['id']}")
        fake.video_looks = 1_000_000
        begun = (await client.post("/v1/videos", json=ASK)).json()
        await fake.call(len(fake.calls))
        await client.post(f"/v1/videos/{begun['id']}/cancel")
        assert len(fake.removed_videos) == 2
        assert (await client.get("/v1/usage")).json()["total"]["calls"] == 2
