"""The middleware for vLLM, around an app with vLLM's routes and shapes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backends.workers.engines.vllm.middleware import KEY, MODEL, TOOLS, WorkerWireMiddleware


async def _tokenize(request: Request) -> Response:
    body = await request.json()
    tokens = [ord(letter) for letter in body["prompt"]]
    pieces = list(body["prompt"]) if body["return_token_strs"] else None
    return JSONResponse({"tokens": tokens, "count": len(tokens), "token_strs": pieces})


async def _detokenize(request: Request) -> Response:
    body = await request.json()
    return JSONResponse({"prompt": "".join(chr(token) for token in body["tokens"])})


async def _echo(request: Request) -> Response:
    return JSONResponse(await request.json())


async def _health(_: Request) -> Response:
    return Response()


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    for name, value in ((KEY, "k"), (MODEL, "the-row"), (TOOLS, "0")):
        monkeypatch.setenv(name, value)
    app = Starlette(
        routes=[
            Route("/tokenize", _tokenize, methods=["POST"]),
            Route("/detokenize", _detokenize, methods=["POST"]),
            Route("/v1/chat/completions", _echo, methods=["POST"]),
            Route("/v1/load_lora_adapter", _echo, methods=["POST"]),
            Route("/health", _health),
        ]
    )
    transport = httpx.ASGITransport(WorkerWireMiddleware(app))
    headers = {"Authorization": "Bearer k"}
    async with httpx.AsyncClient(transport=transport, base_url="http://worker", headers=headers) as made:
        yield made


async def test_tokens_have_llama_servers_shape(client: httpx.AsyncClient) -> None:
    plain = await client.post("/tokenize", json={"content": "aé"})
    assert plain.json() == {"tokens": [97, 233]}
    pieces = await client.post("/tokenize", json={"content": "aé", "with_pieces": True})
    assert pieces.json() == {"tokens": [{"id": 97, "piece": "a"}, {"id": 233, "piece": "é"}]}
    assert (await client.post("/detokenize", json={"tokens": [97, 233]})).json() == {"content": "aé"}
    refused = await client.post("/tokenize", json={"content": "a", "parse_special": False})
    assert refused.json()["error"]["code"] == "unsupported_parameter"


async def test_the_models_name_and_the_samplers_are_vllms(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/chat/completions", json={"model": "x", "repeat_penalty": 1.2})
    assert answer.json() == {"model": "the-row", "repetition_penalty": 1.2}


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/sleep", "/v1/nothing", "/infill"])
async def test_what_a_worker_does_not_serve_is_not_there(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(path, json={})
    assert answer.status_code == 404
    assert answer.json()["error"]["message"]


async def test_every_path_but_health_wants_the_key(client: httpx.AsyncClient) -> None:
    client.headers["authorization"] = "Bearer another"
    assert (await client.get("/health")).status_code == 200
    for path in ("/tokenize", "/v1/chat/completions", "/props", "/stats", "/metrics"):
        assert (await client.post(path, json={})).status_code == 401


async def test_it_tells_whether_tools_are_parsed_and_what_is_worked_on(client: httpx.AsyncClient) -> None:
    assert (await client.get("/props")).json() == {"chat_template_caps": {"supports_tools": False}}
    assert (await client.get("/stats")).json() == {"active": 0}


@pytest.mark.parametrize("body", [b"", b"[" * 100_000, b"3"])
async def test_a_body_that_is_none_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
