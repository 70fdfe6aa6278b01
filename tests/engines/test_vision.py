"""Pictures in a real llama.cpp worker, with a projector of random weights beside the starter's language model."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from backends.base import Upstream
from backends.fetch import Fetcher
from backends.grounding.asking import locate
from backends.grounding.request import GroundingChat, GroundRequest
from backends.http import HttpClient
from backends.local.backend import LocalWorkerBackend
from backends.pictures.films import Films
from backends.settings import FetchSettings
from backends.wire.chat import ChatRequest
from backends.wire.seeing.embeddings import MixedEmbeddingRequest
from catalog.discovery import rows_from_folder
from catalog.errors import CapabilityMismatch, InvalidRequest
from catalog.model import Capability
from catalog.types import Json
from tests.conformance.worker import KEY, Worker, starter, worker
from tests.fakes.pictures import encoded, quarters
from tests.fakes.projector import TOKENS, write_projector
from tests.fakes.videos import video

pytestmark = pytest.mark.engine
UPRIGHT, SIDEWAYS = quarters(96, 64), np.rot90(quarters(96, 64), 1)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker of a model that was found in a folder, with the projector beside it."""
    folder = tmp_path_factory.mktemp("eyes")
    _, path = starter("smollm2-135m-instruct")
    assert path is not None
    (folder / "eyes-Q4_1.gguf").symlink_to(path)
    write_projector(folder / "mmproj-F16.gguf", embedding_length=576)
    (row,) = rows_from_folder(folder)
    assert Capability.VISION in row.capabilities
    with worker("llamacpp", folder / "eyes-Q4_1.gguf", row=row, slots=1) as running:
        yield running


@pytest.fixture
async def backend() -> AsyncIterator[LocalWorkerBackend]:
    async with HttpClient() as http:
        yield LocalWorkerBackend(http)


def at(seeing: Worker) -> Upstream:
    return Upstream("w", "worker", "http://worker/v1", "m", uds=seeing.spec.socket, api_key=KEY, engine="llamacpp")


def asked(*pictures: bytes | str, **fields: Any) -> ChatRequest:
    urls = [
        given if isinstance(given, str) else f"data:image/png;base64,{base64.b64encode(given).decode()}"
        for given in pictures
    ]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content = [*parts, {"type": "text", "text": "Describe."}]
    options = {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 20}
    return ChatRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": content}], **options, **fields}
    )


async def answer(
    seeing: Worker, backend: LocalWorkerBackend, request: ChatRequest
) -> tuple[dict[str, float], Json]:
    """The chances of the first token, and the usage."""
    chances: dict[str, float] = {}
    usage: Json = {}
    async for chunk in backend.chat(at(seeing), request):
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            for token in (choice.get("logprobs") or {}).get("content") or ():
                chances = {one["token"]: one["logprob"] for one in token["top_logprobs"]}
    return chances, usage


def distance(one: dict[str, float], other: dict[str, float]) -> float:
    return float(np.mean([abs(one.get(token, -20) - other.get(token, -20)) for token in {*one, *other}]))


@asynccontextmanager
async def gallery(picture: bytes) -> AsyncIterator[int]:
    """A web server on loopback that shows one picture; yields its port."""

    async def show(_: web.Request) -> web.Response:
        return web.Response(body=picture, content_type="image/png")

    app = web.Application()
    app.router.add_get("/{rest:.*}", show)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def test_pictures_are_seen_and_their_tokens_counted(seeing: Worker, backend: LocalWorkerBackend) -> None:
    _, blind = await answer(seeing, backend, asked())
    picture = encoded(UPRIGHT)
    upright, one = await answer(seeing, backend, asked(picture))
    other, _ = await answer(seeing, backend, asked(encoded(np.zeros_like(UPRIGHT))))
    _, two = await answer(seeing, backend, asked(picture, encoded(SIDEWAYS)))
    each = one["prompt_tokens"] - blind["prompt_tokens"]
    assert each >= TOKENS
    assert two["prompt_tokens"] - blind["prompt_tokens"] >= 2 * TOKENS
    assert distance(upright, other) > 0.05
    counted = await backend.count(at(seeing), asked(picture))
    assert counted == {"input_tokens": one["prompt_tokens"]}


async def test_a_photograph_is_seen_upright_and_webp_is_seen_at_all(
    seeing: Worker, backend: LocalWorkerBackend
) -> None:
    upright, _ = await answer(seeing, backend, asked(encoded(UPRIGHT)))
    sideways, _ = await answer(seeing, backend, asked(encoded(SIDEWAYS)))
    turned, _ = await answer(seeing, backend, asked(encoded(SIDEWAYS, "jpeg", orientation=6)))
    webp, _ = await answer(seeing, backend, asked(encoded(UPRIGHT, "webp")))
    apart = distance(sideways, upright)
    assert apart > 0.05
    assert distance(turned, upright) < apart / 2
    assert distance(webp, upright) < apart / 2


async def test_a_picture_is_fetched_by_the_gateway_and_never_by_the_worker(
    seeing: Worker, backend: LocalWorkerBackend
) -> None:
    async with gallery(encoded(UPRIGHT)) as port:
        url = f"http://pictures.example:{port}/fox.png"
        for call in (backend.count, backend.apply_template):
            with pytest.raises(InvalidRequest, match="does not fetch pictures"):
                await call(at(seeing), asked(url))

        async def resolve(host: str, port: int) -> list[str]:
            del host, port
            return ["127.0.0.1"]

        settings = FetchSettings(hosts=("pictures.example",), ports=(port,))
        backend._fetcher = Fetcher(settings, resolve=resolve, public=lambda _: True)
        fetched, _ = await answer(seeing, backend, asked(url))
    given, _ = await answer(seeing, backend, asked(encoded(UPRIGHT)))
    assert distance(fetched, given) < 0.05


async def test_bytes_that_are_no_picture_are_the_callers_mistake(
    seeing: Worker, backend: LocalWorkerBackend
) -> None:
    damaged = encoded(UPRIGHT)[:60]
    with pytest.raises(InvalidRequest):
        await answer(seeing, backend, asked(damaged))
    chances, _ = await answer(seeing, backend, asked())
    assert chances, "the worker lives"


async def test_where_things_are_is_asked_by_a_schema_that_binds_the_worker(
    seeing: Worker, backend: LocalWorkerBackend
) -> None:
    url = f"data:image/jpeg;base64,{base64.b64encode(encoded(SIDEWAYS, 'jpeg', orientation=6)).decode()}"
    asked_for = ["a red square", "a cat"]
    wanted = {"image": url, "phrase": asked_for, "max_boxes": 2, "temperature": 0, "max_tokens": 300}
    found = await locate(backend, at(seeing), GroundingChat.of(GroundRequest.model_validate(wanted)))
    assert found["image"] == {"width": 96, "height": 64}
    assert found["finish_reason"] == "stop"
    told = json.loads(found["content"])["boxes"]
    assert len(found["data"]) <= len(told) <= 2
    for place in found["data"]:
        left, top, right, bottom = place["box"]
        assert place["label"] in asked_for
        assert 0 <= left < right <= 96
        assert 0 <= top < bottom <= 64
    assert found["usage"]["prompt_tokens"] > TOKENS


async def test_frames_of_a_video_are_seen(seeing: Worker, backend: LocalWorkerBackend) -> None:
    url = f"data:video/mp4;base64,{base64.b64encode(video(3.0)).decode()}"
    content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": "Describe."}]
    request = ChatRequest.model_validate({"messages": [{"role": "user", "content": content}], "max_tokens": 1})
    with pytest.raises(CapabilityMismatch, match="takes no videos"):
        await answer(seeing, backend, request)
    frames = await Films(Fetcher(FetchSettings())).in_frames(request)
    _, usage = await answer(seeing, backend, frames)
    assert usage["prompt_tokens"] >= 3 * TOKENS


def url_of(pixels: Any) -> str:
    return f"data:image/png;base64,{base64.b64encode(encoded(pixels)).decode()}"


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker that embeds texts and pictures."""
    folder = tmp_path_factory.mktemp("vectors")
    _, path = starter("smollm2-135m-instruct")
    assert path is not None
    (folder / "vectors-Q4_1.gguf").symlink_to(path)
    write_projector(folder / "mmproj-F16.gguf", embedding_length=576)
    (found,) = rows_from_folder(folder)
    kinds = frozenset({Capability.EMBED, Capability.VISION})
    row = found.model_copy(update={"capabilities": kinds, "options": {**found.options, "pooling": "mean"}})
    with worker("llamacpp", folder / "vectors-Q4_1.gguf", row=row, slots=1) as running:
        yield running


async def test_pictures_and_texts_become_vectors_that_depend_on_both(
    embedding: Worker, backend: LocalWorkerBackend
) -> None:
    upright: Json = {"image_url": url_of(UPRIGHT)}
    black: Json = {"image_url": url_of(np.zeros_like(UPRIGHT))}
    given = [upright, black, {"content": [upright, {"text": "a cat"}]}, "a cat", upright]
    answer = await backend.embed_contents(at(embedding), MixedEmbeddingRequest.model_validate({"input": given}))
    vectors = np.array([row["embedding"] for row in answer["data"]])
    assert vectors.shape == (5, 576)
    lengths = np.linalg.norm(vectors, axis=1)
    near = vectors @ vectors.T / np.outer(lengths, lengths)
    assert near[0, 4] > 0.9999
    assert max(near[0, 1], near[0, 2], near[0, 3], near[2, 3]) < 0.9999
    assert answer["usage"]["prompt_tokens"] >= 4 * TOKENS


async def test_a_chat_with_a_picture_becomes_one_vector(embedding: Worker, backend: LocalWorkerBackend) -> None:
    part = {"type": "image_url", "image_url": {"url": url_of(UPRIGHT)}}
    chat = MixedEmbeddingRequest.model_validate({"messages": [{"role": "user", "content": [part]}]})
    (row,) = (await backend.embed_contents(at(embedding), chat))["data"]
    assert len(row["embedding"]) == 576
