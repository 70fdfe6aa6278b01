"""Cohere's embeddings: its shapes in both versions, its forms of vectors, its errors."""

from __future__ import annotations

import base64
import struct
from typing import Any

import numpy as np
import pytest

from server.wires.cohere.embed import CohereEmbedRequest, embedded
from tests.server.conftest import Gateway

VECTOR = [0.5, -0.25, 0.125, 0.0, -0.5, 0.25, 0.5, 0.5, 0.1, -0.1]
ANSWER = {"data": [{"embedding": VECTOR}], "model": "m", "usage": {"total_tokens": 3}}


def asked(**fields: Any) -> CohereEmbedRequest:
    return CohereEmbedRequest.model_validate({"model": "m", "texts": ["a"], **fields})


def test_every_form_of_a_vector() -> None:
    request = asked(embedding_types=["float", "int8", "uint8", "binary", "ubinary", "base64"])
    forms = embedded(ANSWER, request, "t", version=2)["embeddings"]
    assert forms["float"].tolist()[0] == pytest.approx(VECTOR)
    scaled = [127, -64, 32, 0, -127, 64, 127, 127, 25, -25]
    assert forms["int8"].tolist() == [scaled]
    assert forms["uint8"].tolist() == [[number + 128 for number in scaled]]
    assert forms["ubinary"].tolist() == [[0b10100111, 0b10000000]]
    assert forms["binary"].tolist() == [[0b10100111 - 128, 0]]
    assert struct.unpack("<10f", base64.b64decode(forms["base64"][0])) == pytest.approx(VECTOR)


def test_eight_bits_keep_the_cosine_of_two_texts() -> None:
    rows = np.random.default_rng(7).normal(size=(2, 384)).astype(np.float32)
    answer = {**ANSWER, "data": [{"embedding": row.tolist()} for row in rows]}
    whole = embedded(answer, asked(embedding_types=["int8"]), "t", version=2)["embeddings"]["int8"].astype(float)

    def cosine(pair: Any) -> float:
        return float(pair[0] @ pair[1] / np.linalg.norm(pair[0]) / np.linalg.norm(pair[1]))

    assert cosine(whole) == pytest.approx(cosine(rows), abs=0.01)


async def test_the_versions_differ_in_their_answers(gateway: Gateway) -> None:
    body = {"model": "parrot", "texts": ["a", "b"], "input_type": "search_query"}
    first, second = [(await gateway.client.post(f"/{name}/embed", json=body)).json() for name in ("v1", "v2")]
    assert (first["response_type"], first["embeddings"]) == ("embeddings_floats", [[0.5, -0.25]] * 2)
    assert (second["response_type"], second["embeddings"]) == (
        "embeddings_by_type",
        {"float": [[0.5, -0.25]] * 2},
    )
    assert second["texts"] == ["a", "b"]
    assert second["meta"] == {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 1}}
    by_type = await gateway.client.post("/v1/embed", json={**body, "embedding_types": ["ubinary"]})
    assert by_type.json()["embeddings"] == {"ubinary": [[128]] * 2}


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({}, {"truncate": True}),
        ({"truncate": "NONE"}, {"truncate": False}),
        ({"input_type": "search_document"}, {"truncate": True, "input_type": "document"}),
        ({"input_type": "clustering"}, {"truncate": True}),
        ({"output_dimension": 5}, {"truncate": True, "dimensions": 5}),
        ({"priority": 3}, {"truncate": True, "priority": 3}),
    ],
)
def test_fields_become_those_of_a_request_for_embeddings(fields: Any, sent: Any) -> None:
    assert asked(**fields).embedding().to_wire() == {"model": "m", "input": ["a"], **sent}


def test_texts_in_parts_are_joined() -> None:
    inputs = [{"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert asked(texts=None, inputs=inputs).given() == ["a\nb"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"texts": []}, "texts"),
        ({}, "texts"),
        ({"images": ["data:image/png;base64,AA"], "texts": ["a"]}, "one of"),
        ({"inputs": [{"content": [{"type": "image_url"}]}]}, "input"),
        ({"texts": ["a"], "truncate": "START"}, "END"),
        ({"texts": ["a"], "max_tokens": 5}, "limit"),
        ({"texts": ["a"], "embedding_types": ["int4"]}, "embedding_types"),
    ],
)
async def test_an_error_has_a_message_where_coheres_clients_look(gateway: Gateway, body: Any, said: str) -> None:
    refused = await gateway.client.post("/v2/embed", json={"model": "parrot", **body})
    assert refused.status_code == 400
    assert said in refused.json()["message"]
    assert refused.json()["message"] == refused.json()["error"]["message"]
