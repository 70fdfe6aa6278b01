"""Pictures of a prompt count by their size, and money is reserved for the models that count them highest."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from backends.wire.chat import ChatRequest
from backends.wire.moderation.request import ModerationRequest
from backends.wire.seeing.embeddings import MixedEmbeddingRequest
from catalog.model import Capability, Price
from routing.accounts.costs import affordable_output, dearest_prompt
from routing.facts import Facts
from routing.reading.media import picture_tokens
from routing.reading.mixed import read_mixed_embedding
from routing.reading.requests import read_chat, read_moderation
from tests.fakes.pictures import encoded, quarters
from tests.server.api.test_images import png_head


def url_of(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def sized(width: int, height: int) -> str:
    return url_of(png_head(width, height))


@pytest.mark.parametrize(
    ("url", "detail", "about", "most"),
    [
        (sized(8, 8), None, 258, 258),
        (sized(1024, 1024), None, 1398, 2520),
        (sized(1024, 1024), "auto", 1398, 2520),
        (sized(7000, 7000), "high", 1600, 4784),
        (sized(7000, 7000), "low", 300, 300),
        (sized(7000, 7000), "original", 1600, 10_000),
        (url_of(encoded(quarters(640, 480), "jpeg"), "jpeg"), None, 409, 738),
        ("https://example.com/a.png", None, 800, 4784),
        (url_of(b"no picture"), None, 800, 4784),
        ("data:x", None, 800, 4784),
        (None, None, 800, 4784),
        (5, [], 800, 4784),
    ],
)
def test_a_picture_counts_by_its_size_and_detail(url: Any, detail: Any, about: int, most: int) -> None:
    assert picture_tokens(url, detail) == (about, most - about)


def shown(*urls: str) -> Facts:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    message = {"role": "user", "content": [{"type": "text", "text": "What is this?"}, *parts]}
    return read_chat(ChatRequest.model_validate({"model": "m", "messages": [message]}))


def test_a_large_picture_of_a_chat_counts_more_than_a_small_one() -> None:
    small, large = shown(sized(64, 64)), shown(sized(7000, 7000))
    assert large.prompt_tokens - small.prompt_tokens == 1600 - 258
    assert (small.media_margin, large.media_margin) == (0, 4784 - 1600)
    assert shown(sized(7000, 7000), sized(7000, 7000)).media_margin == 2 * large.media_margin


def test_money_is_reserved_for_the_most_that_a_picture_may_count() -> None:
    price = Price(input=1, output=2)
    small, large = shown(sized(64, 64)), shown(sized(7000, 7000))
    assert dearest_prompt(price, large).input - dearest_prompt(price, small).input >= 4784 - 258
    less, more = affordable_output(price, large, 0.01), affordable_output(price, small, 0.01)
    assert less is not None
    assert more is not None
    assert less < more


def test_pictures_to_judge_and_to_embed_count_by_their_size_too() -> None:
    picture = {"type": "image_url", "image_url": {"url": sized(7000, 7000)}}
    judged = read_moderation(ModerationRequest.model_validate({"input": [picture]}))
    embedded = read_mixed_embedding(MixedEmbeddingRequest.model_validate({"model": "m", "input": [picture]}))
    for facts in (judged, embedded):
        assert facts.prompt_tokens >= 1600
        assert facts.media_margin == 4784 - 1600
        assert facts.features == {Capability.VISION}
