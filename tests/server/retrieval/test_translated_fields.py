"""Fields that only the translated request checks: a wrong one is the caller's mistake, and is named."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.conftest import Gateway

RERANK = {"query": "a", "texts": ["b"]}
SCORE = {"text_1": "a", "text_2": "b"}
SIMILAR = {"inputs": {"source_sentence": "a", "sentences": ["b"]}}
WRONG: list[tuple[str, dict[str, Any], str]] = [
    *(("/rerank", {**RERANK, name: value}, name) for name, value in (("top_n", 0), ("instruction", 7))),
    ("/rerank", {**RERANK, "max_tokens_per_doc": "x"}, "max_tokens_per_doc"),
    ("/rerank", {**RERANK, "return_documents": "x"}, "return_documents"),
    *(("/v1/score", {**SCORE, name: value}, name) for name, value in (("top_n", 0), ("instruction", 7))),
    ("/v1/score", {**SCORE, "max_tokens_per_doc": "x"}, "max_tokens_per_doc"),
    ("/v1/score", {**SCORE, "return_documents": "x"}, "return_documents"),
    ("/predict", {"inputs": "a", "labels": []}, "labels"),
    *(("/embed", {"inputs": "a", name: 7.5}, name) for name in ("user", "instruction", "input_type")),
    *(("/similarity", {**SIMILAR, name: 7.5}, name) for name in ("user", "instruction", "dimensions")),
    *(
        (path, {"texts": ["a"], "model": "parrot", name: 7.5}, name)
        for path in ("/v1/embed", "/v2/embed")
        for name in ("user", "instruction", "dimensions")
    ),
]


@pytest.mark.parametrize(("path", "body", "param"), WRONG)
async def test_a_wrong_field_of_a_translated_request_is_named(
    gateway: Gateway, path: str, body: dict[str, Any], param: str
) -> None:
    answer = await gateway.client.post(path, json=body)
    assert answer.status_code in (400, 422), answer.text
    assert f"'{param}'" in answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [("/embed", {"inputs": "a"}), ("/similarity", SIMILAR), ("/v2/embed", {"texts": ["a"], "model": "parrot"})],
)
async def test_vectors_in_an_own_form_leave_base64_out_and_name_it(
    gateway: Gateway, path: str, body: dict[str, Any]
) -> None:
    answer = await gateway.client.post(path, json={**body, "encoding_format": "base64"})
    assert answer.status_code == 200, answer.text
    assert gateway.backend.requests[-1].encoding_format == "float"
    assert gateway.dispatcher.left_out[-1] == ("encoding_format",)


async def test_a_prompt_leaves_the_fields_of_a_chat_out_and_names_them(gateway: Gateway) -> None:
    body = {"model": "parrot", "prompt": "a", "tools": "zz", "stream": False}
    answer = await gateway.client.post("/api/generate", json=body)
    assert answer.status_code == 200, answer.text
    assert gateway.dispatcher.left_out[-1] == ("tools",)
