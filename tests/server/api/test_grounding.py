"""Places in pictures at the doors: ``grounding`` of a chat's message, and POST /v1/ground."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import orjson
import pytest
from openai import AsyncOpenAI

from catalog.types import Json
from tests.fakes.openai import FakeOpenAI
from tests.fakes.pictures import encoded
from tests.security.conftest import OpenSite, logs, provider, rows, site

__all__ = ["logs", "provider", "site"]
LYING = encoded(np.zeros((480, 640, 3), np.uint8), "jpeg", orientation=6)
PHOTOGRAPH = f"data:image/jpeg;base64,{base64.b64encode(LYING).decode()}"
"""A photograph of 640 by 480 pixels that people see as 480 by 640."""
QWEN = '```json\n[{"bbox_2d": [100, 200, 500, 1000], "label": "cat"}]\n```'
BOX = {
    "type": "box",
    "label": "cat",
    "box": [48.0, 128.0, 240.0, 640.0],
    "relative": [0.1, 0.2, 0.5, 1.0],
}


def of_family(provider: FakeOpenAI, family: str | None) -> dict[str, Any]:
    """The rows of the site, whose model ``far`` is of a family."""
    given = rows(provider)
    return {**given, "model": [{**row, "family": family} if row["id"] == "far" else row for row in given["model"]]}


def asked(**fields: Any) -> dict[str, Any]:
    content = [
        {"type": "image_url", "image_url": {"url": PHOTOGRAPH}},
        {"type": "text", "text": "Where is the cat?"},
    ]
    return {"model": "far", "messages": [{"role": "user", "content": content}], **fields}


async def test_a_chats_message_has_the_places_beside_its_text(site: OpenSite, provider: FakeOpenAI) -> None:
    provider.reply = QWEN
    async with site(**of_family(provider, "qwen3-vl")) as running:
        answer = await running.client.post("/v1/chat/completions", json=asked())
        message = answer.json()["choices"][0]["message"]
        assert message["content"] == QWEN
        start, end = QWEN.index("{"), QWEN.index("}") + 1
        assert message["grounding"] == [{**BOX, "image_index": 0, "start_index": start, "end_index": end}]
        again = {"role": "assistant", **message}
        body = asked()
        body["messages"] += [again, {"role": "user", "content": "Thanks."}]
        assert (await running.client.post("/v1/chat/completions", json=body)).status_code == 200
        assert "grounding" not in provider.calls[-1].body["messages"][1], "no server is sent it back"


async def test_openais_sdk_reads_them_in_a_stream(site: OpenSite, provider: FakeOpenAI) -> None:
    provider.reply = QWEN
    async with site(**of_family(provider, "qwen3-vl")) as running:
        client = AsyncOpenAI(base_url=f"{running.url}/v1", api_key="x")
        async with client, await client.chat.completions.create(**asked(stream=True)) as stream:
            deltas = [chunk.choices[0].delta async for chunk in stream if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == QWEN
    assert [place["box"] for delta in deltas for place in (delta.model_extra or {}).get("grounding", ())] == [
        BOX["box"]
    ]


async def test_a_responses_text_has_them_too_and_may_come_back(site: OpenSite, provider: FakeOpenAI) -> None:
    provider.reply = QWEN
    picture = {"type": "input_image", "image_url": PHOTOGRAPH}
    asking: Json = {"role": "user", "content": [picture, {"type": "input_text", "text": "Where is the cat?"}]}
    async with site(**of_family(provider, "qwen3-vl")) as running:
        body = {"model": "far", "input": [asking]}
        found = (await running.client.post("/v1/responses", json=body)).json()
        (part,) = found["output"][0]["content"]
        assert part["text"] == QWEN
        assert [place["box"] for place in part["grounding"]] == [BOX["box"]]
        again = {"model": "far", "input": [asking, *found["output"], {"role": "user", "content": "Thanks."}]}
        answer = await running.client.post("/v1/responses", json=again)
        assert (answer.status_code, "x-roundhouse-dropped" in answer.headers) == (200, False)


async def test_other_doors_pass_the_text_on(site: OpenSite, provider: FakeOpenAI) -> None:
    provider.reply = QWEN
    data = PHOTOGRAPH.partition(",")[2]
    source = {"type": "base64", "media_type": "image/jpeg", "data": data}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "Where is the cat?"}]
    async with site(**of_family(provider, "qwen3-vl")) as running:
        body: Json = {"model": "far", "max_tokens": 99, "messages": [{"role": "user", "content": content}]}
        answer = await running.client.post("/v1/messages", json=body)
        assert answer.json()["content"][0]["text"] == QWEN
        body = {
            "model": "far",
            "messages": [{"role": "user", "content": "Where?", "images": [data]}],
            "stream": False,
        }
        answer = await running.client.post("/api/chat", json=body)
        assert answer.json()["message"]["content"] == QWEN


async def test_an_answer_without_places_has_none(site: OpenSite, provider: FakeOpenAI) -> None:
    async with site(**of_family(provider, "qwen3-vl")) as running:
        answer = await running.client.post("/v1/chat/completions", json=asked())
        assert "grounding" not in answer.json()["choices"][0]["message"]
        provider.reply = QWEN
        blind = {"model": "far", "messages": [{"role": "user", "content": "Write a box."}]}
        answer = await running.client.post("/v1/chat/completions", json=blind)
        assert "grounding" not in answer.json()["choices"][0]["message"], "there is no picture"


async def test_a_phrase_is_found_in_the_words_of_the_models_family(site: OpenSite, provider: FakeOpenAI) -> None:
    provider.reply = QWEN
    async with site(**of_family(provider, "qwen3-vl")) as running:
        answer = await running.client.post(
            "/v1/ground", json={"model": "far", "image": PHOTOGRAPH, "phrase": "cat"}
        )
    found = answer.json()
    assert {name: found[name] for name in ("object", "image", "data", "content", "finish_reason")} == {
        "object": "grounding",
        "image": {"width": 480, "height": 640},
        "data": [BOX],
        "content": QWEN,
        "finish_reason": "stop",
    }
    assert found["model"] == "far"
    assert found["usage"]["completion_tokens"] > 0
    assert answer.headers["x-roundhouse-model"] == "far"
    sent = provider.calls[-1].body
    assert "response_format" not in sent
    assert '"bbox_2d": [x1, y1, x2, y2]' in sent["messages"][0]["content"][1]["text"]
    assert sent["messages"][0]["content"][0]["image_url"]["url"] == PHOTOGRAPH


async def test_paligemma_is_asked_in_its_own_words(site: OpenSite, provider: FakeOpenAI) -> None:
    provider.reply = "<loc0256><loc0128><loc0768><loc0512> cat ; <loc0000><loc0000><loc0512><loc0512> dog"
    async with site(**of_family(provider, "paligemma")) as running:
        body = {"model": "far", "image": {"url": PHOTOGRAPH, "detail": "high"}, "phrase": ["cat", "dog"]}
        found = (await running.client.post("/v1/ground", json=body)).json()
    content = provider.calls[-1].body["messages"][0]["content"]
    assert content[1]["text"] == "detect cat ; dog"
    assert content[0]["image_url"]["detail"] == "high"
    assert [(place["label"], place["box"]) for place in found["data"]] == [
        ("cat", [60.0, 160.0, 240.0, 480.0]),
        ("dog", [0.0, 0.0, 240.0, 320.0]),
    ]


async def test_a_model_without_spans_of_its_own_is_bound_by_a_schema(site: OpenSite, provider: FakeOpenAI) -> None:
    async with site() as running:
        body = {"model": "far", "image": PHOTOGRAPH, "phrase": ["cat", "dog"], "max_boxes": 3}
        found = (await running.client.post("/v1/ground", json=body)).json()
        form = provider.calls[-1].body["response_format"]["json_schema"]
        boxes = form["schema"]["properties"]["boxes"]
        assert (form["strict"], boxes["maxItems"]) == (True, 3)
        assert boxes["items"]["properties"]["label"]["enum"] == ["cat", "dog"]
        assert found["data"] == [], "the fake's box, of 7 everywhere, has no area"
        provider.keeps_form = False
        provider.reply = json.dumps(
            {"boxes": [{"label": "cat", "left": 100, "top": 200, "right": 500, "bottom": 1000}] * 5}
        )
        found = (await running.client.post("/v1/ground", json=body)).json()
        assert found["data"] == [BOX] * 3


async def test_prose_where_boxes_were_asked_for_is_an_error_that_says_so(
    site: OpenSite, provider: FakeOpenAI
) -> None:
    provider.keeps_form = False
    async with site() as running:
        answer = await running.client.post(
            "/v1/ground", json={"model": "far", "image": PHOTOGRAPH, "phrase": "cat"}
        )
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "answer_invalid"
        provider.reply = '{"boxes": []}'
        answer = await running.client.post(
            "/v1/ground", json={"model": "far", "image": PHOTOGRAPH, "phrase": "cat"}
        )
        assert (answer.status_code, answer.json()["data"]) == (200, [])


async def test_auto_finds_a_model_that_sees_and_a_blind_one_is_refused(
    site: OpenSite, provider: FakeOpenAI
) -> None:
    async with site(**of_family(provider, "qwen3-vl")) as running:
        body = {"image": PHOTOGRAPH, "phrase": "cat", "routing": {"exclude": ["near"]}}
        answer = await running.client.post("/v1/ground", json=body)
        assert answer.json()["model"] == "far"
        answer = await running.client.post("/v1/ground", json={**body, "model": "farther"})
        assert answer.status_code == 400
        assert "vision" in answer.json()["error"]["message"]


@pytest.mark.parametrize("strict", [False, True])
async def test_a_field_that_it_does_not_have_is_named(site: OpenSite, provider: FakeOpenAI, strict: bool) -> None:
    async with site(**of_family(provider, "qwen3-vl")) as running:
        body: Json = {"model": "far", "image": PHOTOGRAPH, "phrase": "cat", "tools": [], "n": 3}
        body["routing"] = {"strict": strict}
        answer = await running.client.post(
            "/v1/ground", content=orjson.dumps(body), headers={"content-type": "application/json"}
        )
        if strict:
            assert answer.status_code == 400
        else:
            assert answer.headers["x-roundhouse-dropped"] == "tools, n"
            assert "n" not in provider.calls[-1].body
