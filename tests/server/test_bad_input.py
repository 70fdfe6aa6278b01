"""Invalid requests get a 4xx in OpenAI's shape that names the invalid part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from httpx import Response

from server.api import ROUTERS
from server.edge.contracts import ContractRoute
from tests.server.api.test_chat import BODY, PATH
from tests.server.conftest import Gateway, Start

JSON = {"content-type": "application/json"}


def error(answer: Response, status: int, code: str) -> dict[str, Any]:
    """The error object of a response whose status, code, type and headers are checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    body = answer.json()
    beside = {"id", "message"} if "rerank" in answer.request.url.path else set()  # Cohere's clients read these
    assert set(body) == {"error"} | beside
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] == code
    assert body["error"]["message"]
    return dict(body["error"])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": None, "messages": [{"role": "user", "content": "Hi"}]}, "model"),
        ({"model": "parrot"}, "messages"),
        ({"model": "parrot", "messages": []}, "messages"),
        ({"model": "parrot", "messages": "Hi"}, "messages"),
        ({"model": "parrot", "messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"model": "parrot", "messages": [{"role": "bird", "content": "Hi"}]}, "messages[0].role"),
        (
            {"model": "parrot", "messages": [{"role": "user", "content": [{"text": "x"}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"model": "parrot", "messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0]",
        ),
        (
            {"model": "parrot", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
        ),
        ({**BODY, "temperature": "warm"}, "temperature"),
        ({**BODY, "temperature": -1}, "temperature"),
        ({**BODY, "max_tokens": 1e300}, "max_tokens"),
        ({**BODY, "n": -5}, "n"),
        ({**BODY, "n": 1.5}, "n"),
        ({**BODY, "n": 0.0}, "n"),
        ({**BODY, "n": True}, "n"),
        ({**BODY, "stop": ["a"] * 65}, "stop"),
        ({**BODY, "model": "m" * 500}, "model"),
        ({**BODY, "logit_bias": {"abc": 1}}, "logit_bias.abc"),
        ({**BODY, "response_format": {"type": "yaml"}}, "response_format.type"),
        ({**BODY, "routing": {"mode": "sideways"}}, None),
    ],
)
async def test_a_wrong_field_is_named(gateway: Gateway, body: Any, param: str | None) -> None:
    answer = await gateway.client.post(PATH, json=body)
    found = error(answer, 400, "invalid_request")
    if param is not None:
        assert found["param"] == param
        assert param in found["message"]


@pytest.mark.parametrize("medium", ["image_url", "video_url", "input_audio", "file"])
async def test_a_part_has_the_medium_of_its_type_and_no_other(gateway: Gateway, medium: str) -> None:
    other: list[dict[str, Any]] = [{"type": kind, medium: {}} for kind in ("text", "file", "video_url", "new")]
    for part in ({"type": medium}, *other):
        if part != {"type": medium, medium: {}}:
            body = {"model": "auto", "messages": [{"role": "user", "content": [{"text": "Hi", **part}]}]}
            found = error(await gateway.client.post(PATH, json=body), 400, "invalid_request")
            assert medium in found["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe{}",
        b'{"model": "parrot", "messages": [{"role": "user", "content": "\xc3("}]}',
        b'{"model": "parrot", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "parrot", "model": "other", "messages": [{"role": "user", "content": "Hi"}]}',
        b'{"model": "parrot", "messages": [{"role": "user", "content": "Hi"}], "temperature": NaN}',
        b'{"model": "parrot", "messages": [{"role": "user", "content": "Hi"}], "unknown": NaN}',
        b'{"model": "parrot", "messages": [{"role": "user", "content": "Hi"}], "unknown": -Infinity}',
        b'{"model": "parrot", "messages": [{"role": "user", "content": "Hi"}], "unknown": 1e999}',
        b'{"model": "parrot", "messages": [{"role": "user", "content": "Hi"}], "unknown": ' + b"9" * 6000 + b"}",
        b'{"model": "parrot", "messages": [{"role": "user", "content": "Hi"}]} trailing',
    ],
    ids=lambda body: repr(body[:12]),
)
async def test_malformed_json_is_refused(gateway: Gateway, body: bytes) -> None:
    error(await gateway.client.post(PATH, content=body, headers=JSON), 400, "invalid_request")


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"messages":['])
async def test_ten_megabytes_of_brackets_are_refused(gateway: Gateway, opening: bytes) -> None:
    body = opening * (10_000_000 // len(opening))
    error(await gateway.client.post(PATH, content=body, headers=JSON), 400, "invalid_request")


async def test_an_error_never_repeats_values_of_the_request(gateway: Gateway) -> None:
    marker = "xyzzy" * 100
    for body in ({**BODY, "temperature": marker}, {**BODY, "messages": marker}, {**BODY, "stop": [marker] * 65}):
        answer = await gateway.client.post(PATH, json=body)
        assert answer.status_code == 400
        assert "xyzzy" not in answer.text
        assert len(answer.text) < 1000


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {**JSON, "content-encoding": "gzip"},
        {**JSON, "content-encoding": "br"},
    ],
)
async def test_other_types_and_encodings_of_a_body_are_refused(gateway: Gateway, headers: dict[str, str]) -> None:
    error(await gateway.client.post(PATH, content=b"{}", headers=headers), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"]
)
async def test_every_spelling_of_json_is_read(gateway: Gateway, kind: str) -> None:
    body = b'{"model": "parrot", "messages": [{"role": "user", "content": "Hi"}]}'
    answer = await gateway.client.post(PATH, content=body, headers={"content-type": kind})
    assert answer.status_code == 200


async def test_a_body_over_the_limit_is_refused_by_its_content_length(start: Start) -> None:
    async with start(server={"limits": {"body_bytes": 100}}) as gateway:
        answer = await gateway.client.post(PATH, content=b"x" * 101, headers=JSON)
        assert "100 bytes" in error(answer, 413, "payload_too_large")["message"]


async def test_a_body_over_the_limit_is_refused_while_it_is_read(start: Start) -> None:
    sent = 0

    async def pieces() -> Any:
        nonlocal sent
        for _ in range(1000):
            sent += 60
            yield b"x" * 60

    async with start(server={"limits": {"body_bytes": 100}}) as gateway:
        answer = await gateway.client.post(PATH, content=pieces(), headers=JSON)
        error(answer, 413, "payload_too_large")


async def test_a_file_over_the_limit_is_refused(start: Start) -> None:
    async with start(server={"limits": {"audio_bytes": 1000}}) as gateway:
        answer = await gateway.client.post(
            "/v1/audio/transcriptions", data={"model": "parrot"}, files={"file": ("a.wav", b"x" * 2000)}
        )
        error(answer, 413, "payload_too_large")


@pytest.mark.parametrize("path", ["/v1", "/v1/nothing", "/redoc", "/v1/chat/completions/", "/../etc/passwd"])
async def test_unknown_paths(gateway: Gateway, path: str) -> None:
    error(await gateway.client.get(path), 404, "not_found")


async def test_wrong_methods(gateway: Gateway) -> None:
    answer = await gateway.client.get("/v1/embeddings")
    error(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
    error(await gateway.client.patch("/v1/models/parrot"), 405, "method_not_allowed")


async def test_an_unknown_model_is_404_with_the_nearest_names(gateway: Gateway) -> None:
    answer = await gateway.client.get("/v1/models/parot")
    assert "'parrot'" in error(answer, 404, "model_not_found")["message"]


@pytest.mark.parametrize("fault", [RuntimeError, TimeoutError, KeyError])
async def test_an_internal_error_reveals_no_details(gateway: Gateway, fault: type[Exception]) -> None:
    class Broken:
        def __iter__(self) -> Iterator[Any]:
            raise fault("secret inside")

    gateway.backend.script = Broken()  # type: ignore[assignment]
    for stream in (False, True):
        answer = await gateway.client.post(PATH, json={**BODY, "stream": stream})
        assert "secret" not in str(error(answer, 500, "internal_error"))


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/embeddings", {"model": "parrot", "input": ""}, "input"),
        ("/v1/embeddings", {"model": "parrot", "input": []}, "input"),
        ("/v1/embeddings", {"model": "parrot", "input": ["a", ""]}, "input[1]"),
        ("/v1/embeddings", {"model": "parrot", "input": [[1, -2]]}, "input[0][1]"),
        ("/v1/embeddings", {"model": "parrot", "input": "a", "dimensions": 0}, "dimensions"),
        ("/v1/embeddings", {"model": "parrot", "input": "a", "encoding_format": "hex"}, "encoding_format"),
        ("/v1/rerank", {"model": "parrot", "query": "q", "documents": []}, "documents"),
        ("/v1/rerank", {"model": "parrot", "query": "q", "documents": [{"title": "t"}]}, "documents[0]"),
        ("/v1/classify", {"model": "parrot", "input": "a", "labels": ["b"]}, "labels"),
        ("/v1/classify", {"model": "parrot", "input": "a", "labels": ["b", "b "]}, "labels"),
        ("/v1/classify", {"model": "parrot", "input": "a", "labels": ["b", " "]}, "labels[1]"),
        ("/v1/classify", {"model": "parrot", "input": ["a", {"image": "x"}], "labels": ["b", "c"]}, "input[1]"),
        ("/v1/classify", {"model": "parrot", "input": [{"text": 7}], "labels": ["b", "c"]}, "input[0]"),
        ("/v1/classify", {"model": "parrot", "input": [], "labels": ["b", "c"]}, "input"),
        ("/v1/ground", {"model": "parrot", "image": "", "phrase": "a"}, "image"),
        ("/v1/ground", {"model": "parrot", "image": {"href": "a"}, "phrase": "a"}, "image.url"),
        ("/v1/ground", {"model": "parrot", "image": "a", "phrase": [" "]}, "phrase[0]"),
        ("/v1/ground", {"model": "parrot", "image": "a"}, "phrase"),
        ("/v1/ground", {"model": "parrot", "image": "a", "phrase": "a", "max_boxes": 0}, "max_boxes"),
        ("/v1/audio/speech", {"model": "songbird", "input": ""}, "input"),
        ("/v1/audio/speech", {"model": "songbird", "input": "a", "speed": 9}, "speed"),
        ("/v1/audio/speech", {"model": "songbird", "input": "a", "response_format": "mp4"}, "response_format"),
        ("/v1/images/generations", {"model": "p", "prompt": "a", "size": "1x"}, "size"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
    ],
)
async def test_every_endpoint_names_the_field(gateway: Gateway, path: str, body: Any, param: str) -> None:
    assert error(await gateway.client.post(path, json=body), 400, "invalid_request")["param"] == param


WHOLE: tuple[tuple[str, dict[str, Any]], ...] = (
    (PATH, {**BODY, "n": 1.0, "max_tokens": 5e1, "seed": -7.0}),
    ("/v1/completions", {"model": "parrot", "prompt": [1.0, 2.0], "max_tokens": 5.0}),
    ("/v1/completions", {"model": "parrot", "prompt": [[1.0, 2], [3.0]], "n": 1.0}),
    ("/v1/embeddings", {"model": "parrot", "input": [[1.0, 2.0]], "dimensions": 2.0}),
    ("/v1/images/generations", {"model": "parrot", "prompt": "A", "n": 1.0}),
    ("/v1/responses", {"model": "parrot", "input": "Hi", "max_output_tokens": 5.0, "n": 1.0}),
    ("/v1/messages", {**BODY, "max_tokens": 5.0, "thinking": {"type": "enabled", "budget_tokens": 1024.0}}),
    ("/detokenize", {"model": "parrot", "tokens": [72.0, 105.0]}),
)


@pytest.mark.parametrize(("path", "body"), WHOLE)
async def test_a_whole_number_may_be_written_with_a_point(
    gateway: Gateway, path: str, body: dict[str, Any]
) -> None:
    answer = await gateway.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    twice = b'{"n": 1.0, "n": 1.0, ' + orjson.dumps(body)[1:]
    assert (await gateway.client.post(path, content=twice, headers=JSON)).status_code == 400


UNNAMED: tuple[tuple[str, dict[str, Any]], ...] = (
    (PATH, {"messages": BODY["messages"]}),
    ("/v1/completions", {"prompt": "Hi"}),
    ("/v1/embeddings", {"input": "Hi"}),
    ("/v1/rerank", {"query": "Hi", "documents": ["a"]}),
    ("/v1/classify", {"input": "Hi", "labels": ["a", "b"]}),
    ("/v1/ground", {"image": "https://pictures.example/a.png", "phrase": "cat"}),
    ("/v1/images/generations", {"prompt": "A"}),
    ("/v1/audio/speech", {"input": "Hi"}),
    ("/v1/responses", {"input": "Hi"}),
    ("/v1/messages", {"messages": BODY["messages"], "max_tokens": 5}),
    ("/tokenize", {"content": "Hi"}),
)


@pytest.mark.parametrize(("path", "body"), UNNAMED)
async def test_without_a_model_the_router_chooses(gateway: Gateway, path: str, body: dict[str, Any]) -> None:
    answer = await gateway.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert gateway.dispatcher.facts[-1].requested == "auto"


async def test_a_form_without_a_model_is_the_routers_too(gateway: Gateway) -> None:
    answer = await gateway.client.post("/v1/audio/transcriptions", files={"file": ("a.wav", b"RIFF")})
    assert answer.status_code == 200, answer.text
    assert gateway.dispatcher.facts[-1].requested == "auto"


@pytest.mark.parametrize("body", [{"model": "parrot", "input": 5}, {"model": "parrot", "input": None}])
async def test_the_alternatives_of_a_field_make_one_sentence(gateway: Gateway, body: Any) -> None:
    told = error(await gateway.client.post("/v1/embeddings", json=body), 400, "invalid_request")["message"]
    assert told.startswith("'input': it must be text or a list")


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show"])
async def test_ollamas_requests_need_a_model(gateway: Gateway, path: str) -> None:
    for body in ({}, {"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi", "input": "Hi"}):
        answer = await gateway.client.post(path, json=body)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("'model': this field is needed")
    assert not gateway.backend.requests


async def test_pulling_and_deleting_need_a_model(gateway: Gateway) -> None:
    for method, path in (("POST", "/api/pull"), ("DELETE", "/api/delete")):
        answer = await gateway.client.request(method, path, json={})
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("'model': this field is needed")


OWN = {
    "/v1/admin/calibrations": ({"budgett": 1}, "budgett", "did you mean 'budget'?"),
    "/v1/admin/pins": ({"alias": "auto", "modle": "m"}, "modle", "did you mean 'model'?"),
    "/v1/admin/priors": ({"benchmark": {"parrot": {}}}, "benchmark", "did you mean 'benchmarks'?"),
    "/v1/admin/keys": ({"name": "a", "limits": {"spent": {}}}, "limits.spent", "did you mean 'spend'?"),
    "/v1/models/parrot/load": ({"keepalive": 5}, "keepalive", "did you mean 'keep_alive'?"),
    "/v1/models/pulls": ({"model": "starter", "revison": "main"}, "revison", "did you mean 'revision'?"),
    "/v1/models/parrot/unload": ({"forced": True}, "forced", "did you mean 'force'?"),
    "/v1/outcomes": ({"trace": "a", "rating": 1}, "rating", "there are accepted, note, score, trace"),
}


@pytest.mark.parametrize("path", OWN)
async def test_an_unknown_field_of_a_body_of_our_own_is_refused_with_the_nearest_name(
    gateway: Gateway, path: str
) -> None:
    body, param, words = OWN[path]
    told = error(await gateway.client.post(path, json=body), 400, "invalid_request")
    assert told["param"] == param
    assert words in told["message"]


def test_every_body_that_is_no_models_refuses_unknown_fields() -> None:
    contracts = [
        added.contract for router in ROUTERS for added in router.routes if isinstance(added, ContractRoute)
    ]
    own = {
        contract.reads
        for contract in contracts
        if contract.reads is not None and contract.reads.__module__.startswith("server.api.management.")
    }
    assert len(own) >= len(OWN)
    open_ones = {body.__name__ for body in own if body.model_config.get("extra") != "forbid"}
    assert open_ones == {"ModelRow"}, "whose further fields the rows' own rules judge"


async def test_a_calibration_that_names_nothing_at_all_is_refused(gateway: Gateway) -> None:
    answer = await gateway.client.post("/v1/admin/calibrations")
    assert answer.status_code in (400, 415), answer.text


FORMS: dict[str, dict[str, Any]] = {
    "/v1/images/edits": {"model": "painter", "image": True, "prompt": "A hat"},
    "/v1/images/variations": {"model": "painter", "image": True, "n": "2"},
    "/v1/videos": {"model": "parrot", "prompt": "A fox", "seconds": "8"},
    "/v1/videos/edits": {"model": "parrot", "video": True, "prompt": "A fox"},
    "/v1/videos/extensions": {"model": "parrot", "video": True, "prompt": "A fox", "seconds": "8"},
    "/v1/audio/transcriptions": {"file": True, "model": "ear", "language": "en"},
    "/v1/audio/translations": {"file": True, "model": "ear", "prompt": "x"},
    "/v1/files": {"file": True, "purpose": "batch"},
    "/v1/uploads/upload_x/parts": {"data": True},
    "/v1/audio/voices": {"audio_sample": True, "name": "x", "consent": "x"},
    "/v1/audio/voice_consents": {"recording": True, "name": "x", "language": "en"},
}
"""Every form of the API: its fields in an order that ends with a text, where that is possible; True is a file."""


def form_of(fields: dict[str, Any], end: bytes) -> bytes:
    parts = []
    for name, value in fields.items():
        kind = '; filename="a"' if value is True else ""
        text = b"x" if value is True else value.encode()
        parts.append(f'--bound\r\ncontent-disposition: form-data; name="{name}"{kind}\r\n\r\n'.encode() + text)
    return b"\r\n".join(parts) + end


@pytest.mark.parametrize("end", [b"", b"\r\n", b"\r\n--bound", b"\r\n--bound\r\n", b"\r\n--bound-"])
@pytest.mark.parametrize("path", FORMS)
async def test_a_form_without_its_end_is_refused_as_its_last_part_may_be_cut(
    gateway: Gateway, path: str, end: bytes
) -> None:
    headers, content = {"content-type": "multipart/form-data; boundary=bound"}, form_of(FORMS[path], end)
    if "upload_x" in path:
        about = {"purpose": "batch", "filename": "a.jsonl", "bytes": 9, "mime_type": "application/jsonl"}
        path = path.replace("upload_x", (await gateway.client.post("/v1/uploads", json=about)).json()["id"])
    answer = await gateway.client.post(path, content=content, headers=headers)
    assert "closing boundary" in error(answer, 400, "invalid_request")["message"]
    assert gateway.backend.requests == []


def test_every_form_of_the_api_is_among_them() -> None:
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, ContractRoute)]
    forms = {route.path.removeprefix("/v1") for route in routes if route.contract.form}
    assert {path.removeprefix("/v1").replace("upload_x", "{upload_id}") for path in FORMS} == forms


@pytest.mark.parametrize(
    ("path", "files"),
    [
        ("/v1/images/edits", [("image", b"x"), ("prompt", None), ("prompt", None)]),
        ("/v1/videos", [("prompt", None), ("prompt", None)]),
    ],
)
async def test_a_field_of_a_form_that_comes_twice_is_refused(
    gateway: Gateway, path: str, files: list[tuple[str, bytes | None]]
) -> None:
    sent = [(name, ("a", data) if data else (None, "A fox")) for name, data in files]
    answer = await gateway.client.post(path, files=sent)
    found = error(answer, 400, "invalid_request")
    assert (found["param"], "twice" in found["message"]) == ("prompt", True)
