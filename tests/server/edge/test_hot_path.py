"""Requests on the hot path reach their handlers without the layers of Starlette and FastAPI.

Those layers take a sixth of a plain request's time. Answers are the same with them, so nothing else fails when
an upgrade or a change of ours sends a path through them again.
"""

from __future__ import annotations

from typing import Any

import fastapi.routing
import pytest
from fastapi.routing import APIRouter
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware

from catalog.types import Json
from tests.server.conftest import Gateway

MESSAGES = [{"role": "user", "content": "Hello."}]
HOT: dict[str, Json] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "Hello"},
    "/v1/embeddings": {"input": "Hello."},
    "/v1/rerank": {"query": "Hello.", "documents": ["Good day.", "Good night."]},
    "/v1/classify": {"input": "Hello.", "labels": ["greeting", "farewell"]},
    "/v1/ground": {"image": "https://pictures.example/a.png", "phrase": "cat"},
    "/v1/moderations": {"input": "Hello."},
    "/v1/responses": {"input": "Hello."},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 5},
}
STREAMED = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
LAYERS: tuple[tuple[Any, str], ...] = (
    (ServerErrorMiddleware, "__call__"),
    (ExceptionMiddleware, "__call__"),
    (APIRouter, "__call__"),
    (fastapi.routing, "solve_dependencies"),  # every handler of FastAPI's own begins with it
)


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The layers that requests have entered, by name."""
    names: list[str] = []

    def watch(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            names.append(f"{owner.__name__}.{name}")
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, watched)

    for owner, name in LAYERS:
        watch(owner, name)
    return names


async def test_a_route_of_fastapi_enters_every_layer_that_is_watched(gateway: Gateway, entered: list[str]) -> None:
    async def native() -> Json:
        return {}

    gateway.app.add_api_route("/native", native)
    assert (await gateway.client.get("/native")).status_code == 200
    assert entered == [f"{owner.__name__}.{name}" for owner, name in LAYERS]


@pytest.mark.parametrize("path", HOT)
async def test_a_hot_path_enters_no_layer(gateway: Gateway, entered: list[str], path: str) -> None:
    answer = await gateway.client.post(path, json={"model": "parrot", **HOT[path]})
    assert answer.status_code == 200, answer.text
    assert answer.json()
    assert entered == []


@pytest.mark.parametrize("path", STREAMED)
async def test_a_stream_on_a_hot_path_enters_no_layer(gateway: Gateway, entered: list[str], path: str) -> None:
    answer = await gateway.client.post(path, json={"model": "parrot", "stream": True, **HOT[path]})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert entered == []


@pytest.mark.parametrize("path", HOT)
async def test_a_refusal_on_a_hot_path_enters_no_layer(gateway: Gateway, entered: list[str], path: str) -> None:
    assert (await gateway.client.post(path, json={"model": 1})).status_code == 400
    assert entered == []
