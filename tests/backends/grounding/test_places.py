"""Places in the pixels of the picture that the caller sent, upright."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
import pytest

from backends.base import Upstream
from backends.grounding.pictures import limits_of, resized
from backends.grounding.places import grounded
from backends.pictures.sizes import PixelSize, note_fetched
from backends.wire.chat import ChatRequest
from catalog.types import Json
from tests.fakes.pictures import encoded

BOX_3 = '[{"bbox_2d": [100, 200, 500, 1000], "label": "cat"}]'


def picture(width: int, height: int, kind: str = "png", **options: Any) -> str:
    data = encoded(np.zeros((height, width, 3), np.uint8), kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def asked(*messages: list[str], **of_picture: Any) -> ChatRequest:
    return ChatRequest.model_validate(
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        *({"type": "image_url", "image_url": {"url": url, **of_picture}} for url in urls),
                        {"type": "text", "text": "Where is the cat?"},
                    ],
                }
                for urls in messages
            ]
        }
    )


def at(model: str, **fields: Any) -> Upstream:
    return Upstream("e", "openai", "https://models.example/v1", model, **fields)


async def chunks(*texts: str, ends: bool = True) -> AsyncGenerator[Json]:
    for text in texts:
        yield {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    if ends:
        yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    yield {"choices": [], "usage": {"prompt_tokens": 1}}


async def places(model: str, text: str, request: ChatRequest, **fields: Any) -> list[Json]:
    found: list[Json] = []
    async for chunk in grounded(chunks(text), at(model, **fields), request):
        for choice in chunk["choices"]:
            found += choice["delta"].get("grounding", [])
    return found


async def test_the_chunk_that_ends_a_choice_has_the_places_and_the_text_is_untouched() -> None:
    pieces = ['[{"bbox_2d": [100, 2', '00, 500, 1000], "label"', ': "cat"}]']
    made = [chunk async for chunk in grounded(chunks(*pieces), at("qwen3-vl-8b"), asked([picture(640, 480)]))]
    assert [chunk["choices"][0]["delta"] for chunk in made[:3]] == [{"content": piece} for piece in pieces]
    assert made[3]["choices"][0] == {
        "index": 0,
        "delta": {
            "grounding": [
                {
                    "type": "box",
                    "label": "cat",
                    "box": [64.0, 96.0, 320.0, 480.0],
                    "relative": [0.1, 0.2, 0.5, 1.0],
                    "image_index": 0,
                    "start_index": 1,
                    "end_index": 51,
                }
            ]
        },
        "finish_reason": "stop",
    }
    assert "".join(pieces)[1:51] == '{"bbox_2d": [100, 200, 500, 1000], "label": "cat"}'


async def test_choices_are_read_apart() -> None:
    async def two() -> AsyncGenerator[Json]:
        for text in BOX_3[:30], BOX_3[30:]:
            for index in (0, 1):
                content = text if index else "No cat. "
                yield {"choices": [{"index": index, "delta": {"content": content}, "finish_reason": None}]}
        for index in (1, 0):
            yield {"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]}

    found = {
        choice["index"]: choice["delta"].get("grounding")
        async for chunk in grounded(two(), at("qwen3-vl-8b"), asked([picture(640, 480)]))
        for choice in chunk["choices"]
        if choice["finish_reason"]
    }
    assert found[0] is None
    assert [place["label"] for place in found[1] or ()] == ["cat"]


@pytest.mark.parametrize("model", ["gpt-5.2", "claude-fable"])
async def test_a_model_of_no_known_family_is_passed_on(model: str) -> None:
    assert await places(model, BOX_3, asked([picture(640, 480)])) == []


async def test_the_places_of_a_photograph_are_in_the_upright_one() -> None:
    lying = picture(640, 480, "jpeg", orientation=6)
    (place,) = await places("qwen3-vl-8b", BOX_3, asked([lying]))
    assert place["box"] == [48.0, 128.0, 240.0, 640.0]


async def test_pixels_of_the_resized_picture_become_pixels_of_the_original() -> None:
    text = '[{"bbox_2d": [0, 0, 1064, 798], "label": "half"}]'
    # llama.cpp takes at most 4096 * 28 * 28 pixels: 4000 x 3000 becomes 2044 x 1540.
    (place,) = await places("qwen2.5-vl-7b", text, asked([picture(4000, 3000)]), engine="llamacpp")
    assert place["box"] == [0.0, 0.0, round(1064 / 2044 * 4000, 1), round(798 / 1540 * 3000, 1)]
    # Elsewhere it stays nearly as it is: 3996 x 2996, to multiples of 28.
    (place,) = await places("qwen2.5-vl-7b", text, asked([picture(4000, 3000)]))
    assert place["box"] == [0.0, 0.0, round(1064 / 4004 * 4000, 1), round(798 / 2996 * 3000, 1)]


async def test_a_picture_that_a_worker_gets_small_is_measured_as_it_was_sent() -> None:
    text = '[{"bbox_2d": [0, 0, 252, 196], "label": "half"}]'
    request = asked([picture(2000, 1500)], detail="low")
    (place,) = await places("qwen2.5-vl-7b", text, request, engine="vllm")
    # 2000 x 1500 is sent as 512 x 384, which Qwen2.5-VL sees as 504 x 392.
    assert place["box"] == [0.0, 0.0, 1000.0, 750.0]


@pytest.mark.parametrize(
    ("size", "upstream", "expected"),
    [
        ((640, 480), at("m"), (644, 476)),
        ((10, 10), at("m"), (56, 56)),
        ((5, 3000), at("m"), (28, 2996)),
        ((8000, 6000), at("m"), (4116, 3080)),
        ((2000, 1500), at("m", engine="llamacpp"), (1988, 1512)),
        ((4000, 3000), Upstream("e", "ollama", "http://o", "m"), (1148, 840)),
        ((4000, 3000), Upstream("e", "openai", "https://dashscope.aliyuncs.com/v1", "m"), (1148, 840)),
    ],
)
def test_qwens_processor_resizes_by_rule(
    size: tuple[int, int], upstream: Upstream, expected: tuple[int, int]
) -> None:
    assert resized(PixelSize(*size), limits_of(upstream, asked([]))) == expected


async def test_of_several_pictures_the_only_one_of_the_last_message_is_meant() -> None:
    request = asked([picture(10, 10), picture(20, 20)], [picture(640, 480)])
    (place,) = await places("qwen3-vl-8b", BOX_3, request)
    assert (place["image_index"], place["box"]) == (2, [64.0, 96.0, 320.0, 480.0])


async def test_where_it_is_not_told_which_picture_is_meant_fractions_are_all_that_is_told() -> None:
    (place,) = await places("qwen3-vl-8b", BOX_3, asked([picture(10, 10), picture(640, 480)]))
    assert (place["image_index"], place["box"]) == (None, None)
    assert place["relative"] == [0.1, 0.2, 0.5, 1.0]
    (place,) = await places("qwen3-vl-8b", BOX_3, asked([picture(640, 480), picture(640, 480)]))
    assert (place["image_index"], place["box"]) == (None, [64.0, 96.0, 320.0, 480.0])


async def test_molmo_tells_the_picture() -> None:
    text = '<points coords="2 1 500 250">cat</points>'
    (place,) = await places("molmo2-8b", text, asked([picture(10, 10), picture(640, 480)]))
    assert (place["type"], place["image_index"], place["point"]) == ("point", 1, [320.0, 120.0])
    assert "box" not in place


async def test_a_picture_that_only_the_provider_fetches_has_no_pixels_here() -> None:
    request = asked(["https://pictures.example/cat.png"])
    (place,) = await places("gemini-3-pro", '{"box_2d": [200, 100, 1000, 500], "label": "cat"}', request)
    assert place["box"] is None
    assert place["relative"] == [0.1, 0.2, 0.5, 1.0]
    assert await places("qwen2.5-vl-7b", BOX_3, request) == [], "pixels of a picture of unknown size tell nothing"


async def test_a_picture_that_this_server_fetched_has_pixels() -> None:
    url = "https://pictures.example/cat.png"

    async def fetching() -> AsyncGenerator[Json]:
        note_fetched(url, PixelSize(640, 480))
        async for chunk in chunks(BOX_3):
            yield chunk

    found = [
        place
        async for chunk in grounded(fetching(), at("qwen3-vl-8b", engine="llamacpp"), asked([url]))
        for choice in chunk["choices"]
        for place in choice["delta"].get("grounding", ())
    ]
    assert [place["box"] for place in found] == [[64.0, 96.0, 320.0, 480.0]]


async def test_boxes_end_at_the_picture_and_corners_may_come_in_any_order() -> None:
    text = '[{"bbox_2d": [1200, 900, 500, -3]}, {"bbox_2d": [5, 5, 5, 9]}]'
    (place,) = await places("qwen3-vl-8b", text, asked([picture(100, 100)]))
    assert place["box"] == [50.0, 0.0, 100.0, 90.0]


async def test_closing_the_places_closes_the_call() -> None:
    closed = False

    async def endless() -> AsyncGenerator[Json]:
        nonlocal closed
        try:
            while True:
                yield {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
        finally:
            closed = True

    reading = grounded(endless(), at("qwen3-vl-8b"), asked([picture(10, 10)]))
    await anext(reading)
    await reading.aclose()
    assert closed
