"""Pictures in a real worker of MLX, with a small model of random weights; ``make engines`` builds both."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from backends.base import Upstream
from backends.grounding.asking import locate
from backends.grounding.request import GroundingChat, GroundRequest
from backends.http import HttpClient
from backends.local.backend import LocalWorkerBackend
from backends.wire.chat import ChatRequest
from catalog.errors import CapabilityMismatch, RequestFailed, RoundhouseError
from catalog.file_rows import folder_row
from catalog.model import Capability
from catalog.types import Json
from tests.conformance.optional import eyes, pythons
from tests.conformance.worker import KEY, Worker, worker
from tests.fakes.pictures import encoded, quarters

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif("mlx" not in pythons() or not eyes().exists(), reason="make engines ENGINES=mlx builds it"),
]
TOKENS = 4
"""Of a picture, beside the two around it."""
UPRIGHT = quarters(96, 64)


@pytest.fixture(scope="module")
def seeing() -> Iterator[Worker]:
    row = folder_row(eyes())
    assert {Capability.CHAT, Capability.VISION} <= row.capabilities
    assert row.limits.context_window == 4096
    with worker("mlx", eyes(), row=row, slots=2) as running:
        yield running


@pytest.fixture
async def backend() -> AsyncIterator[LocalWorkerBackend]:
    async with HttpClient() as http:
        yield LocalWorkerBackend(http)


def at(seeing: Worker) -> Upstream:
    return Upstream("w", "worker", "http://worker/v1", "m", uds=seeing.spec.socket, api_key=KEY, engine="mlx")


def url_of(pixels: Any, kind: str = "png", **options: Any) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(encoded(pixels, kind, **options)).decode()}"


def asked(*urls: str, **fields: Any) -> ChatRequest:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": "Hi"}]}]
    return ChatRequest.model_validate({"messages": messages, "max_tokens": 8, "temperature": 0, **fields})


async def answer(seeing: Worker, backend: LocalWorkerBackend, request: ChatRequest) -> tuple[str, Json]:
    text = ""
    usage: Json = {}
    async for chunk in backend.chat(at(seeing), request):
        usage = chunk.get("usage") or usage
        text += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
    return text, usage


async def test_pictures_are_seen_and_their_tokens_counted(seeing: Worker, backend: LocalWorkerBackend) -> None:
    _, blind = await answer(seeing, backend, asked())
    said, one = await answer(seeing, backend, asked(url_of(UPRIGHT)))
    other, _ = await answer(seeing, backend, asked(url_of(np.full_like(UPRIGHT, 255))))
    again, _ = await answer(seeing, backend, asked(url_of(UPRIGHT)))
    _, two = await answer(seeing, backend, asked(url_of(UPRIGHT), url_of(UPRIGHT)))
    each = one["prompt_tokens"] - blind["prompt_tokens"]
    assert each >= TOKENS + 2
    assert two["prompt_tokens"] - blind["prompt_tokens"] == 2 * each
    assert said == again != other
    assert one["completion_tokens"] <= 8


async def test_a_photograph_is_seen_upright_and_a_tiff_at_all(seeing: Worker, backend: LocalWorkerBackend) -> None:
    lying = np.rot90(UPRIGHT, 1)
    upright, _ = await answer(seeing, backend, asked(url_of(UPRIGHT, "png")))
    turned, _ = await answer(seeing, backend, asked(url_of(lying, "png", orientation=6)))
    tiff, _ = await answer(seeing, backend, asked(url_of(UPRIGHT, "tiff")))
    assert upright == turned == tiff


async def test_a_grammar_binds_an_answer_about_a_picture(seeing: Worker, backend: LocalWorkerBackend) -> None:
    wanted = {"image": url_of(UPRIGHT), "phrase": "cat", "max_boxes": 1, "max_tokens": 120, "temperature": 0}
    found = await locate(backend, at(seeing), GroundingChat.of(GroundRequest.model_validate(wanted)))
    assert found["image"] == {"width": 96, "height": 64}
    assert found["content"].startswith("{")
    assert len(found["data"]) <= 1


async def test_sequences_take_turns_and_a_bad_picture_harms_no_other(
    seeing: Worker, backend: LocalWorkerBackend
) -> None:
    damaged = url_of(UPRIGHT)[:120] + "AAAA"
    with pytest.raises(RoundhouseError) as refused:
        await answer(seeing, backend, asked(damaged))
    assert not isinstance(refused.value, RequestFailed)
    text, usage = await answer(seeing, backend, asked(max_tokens=3))
    assert usage["completion_tokens"] <= 3
    assert isinstance(text, str)


async def test_without_eyes_in_its_row_the_folder_writes_several_texts_together(
    backend: LocalWorkerBackend,
) -> None:
    row = folder_row(eyes())
    blind = row.model_copy(update={"capabilities": row.capabilities - {Capability.VISION}})
    with worker("mlx", eyes(), row=blind, slots=4) as writing:
        same = await asyncio.gather(*(answer(writing, backend, asked()) for _ in range(3)))
        assert len({text for text, _ in same}) == 1
        assert all(0 < usage["completion_tokens"] <= 8 for _, usage in same)
        with pytest.raises(CapabilityMismatch, match="image_url"):
            await answer(writing, backend, asked(url_of(UPRIGHT)))
