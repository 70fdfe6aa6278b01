"""Text Embeddings Inference's paths: its shapes, its errors, and what it can do that this server cannot."""

from __future__ import annotations

import math
from typing import Any

import pytest

from catalog.model import Capability
from catalog.types import Json
from server.wires.tei.answers import ranks, tokens
from server.wires.tei.requests import TeiRerankRequest, TeiTokenizeRequest
from tests.server.conftest import Gateway

LENGTH = math.hypot(0.5, 0.25)


async def test_embeddings_are_a_list_of_vectors_of_length_one(gateway: Gateway) -> None:
    for path, given, count in (("/embed", "a", 1), ("/", "a", 1), ("/embed", ["a", "b"], 2)):
        answer = await gateway.client.post(path, json={"inputs": given, "truncate": True, "prompt_name": "query"})
        assert answer.json() == [pytest.approx([0.5 / LENGTH, -0.25 / LENGTH])] * count
    assert gateway.backend.requests[-1].to_wire() == {
        "model": "auto",
        "input": ["a", "b"],
        "truncate": True,
        "input_type": "query",
    }


async def test_similarities_are_cosines_with_the_first_text(gateway: Gateway) -> None:
    body = {"inputs": {"source_sentence": "a", "sentences": ["b", "c"]}, "parameters": {"truncate": True}}
    assert (await gateway.client.post("/similarity", json=body)).json() == pytest.approx([1.0, 1.0])
    assert gateway.backend.requests[-1].items() == ["a", "b", "c"]


async def test_predictions_are_the_labels_best_first_and_a_batch_is_a_list_of_them(gateway: Gateway) -> None:
    labels = [{"score": 0.5, "label": "toxic"}, {"score": 0.25, "label": "fine"}]
    assert (await gateway.client.post("/predict", json={"inputs": "a"})).json() == labels
    assert (await gateway.client.post("/predict", json={"inputs": ["a"]})).json() == labels
    assert (await gateway.client.post("/predict", json={"inputs": [["a"], ["b"]]})).json() == [labels, labels]


async def test_texts_are_ranked_at_the_path_of_documents(gateway: Gateway) -> None:
    body = {"query": "q", "texts": ["a", "b"], "return_text": True}
    answer = await gateway.client.post("/rerank", json=body)
    assert answer.json() == [{"index": 1, "score": 0.1, "text": "b"}, {"index": 0, "score": 0.0, "text": "a"}]
    documents = await gateway.client.post("/rerank", json={"query": "q", "documents": ["a"]})
    assert documents.json()["results"][0]["relevance_score"] == 0.0


async def test_texts_are_split_and_joined_in_teis_shapes(gateway: Gateway) -> None:
    def token(letter: str, at: int) -> Json:
        return {"id": ord(letter), "text": letter, "special": False, "start": at, "stop": at + 1}

    both = await gateway.client.post("/tokenize", json={"inputs": ["ab", "b"]})
    assert both.json() == [[token("a", 0), token("b", 1)], [token("b", 0)]]
    one = await gateway.client.post("/tokenize", json={"inputs": "b", "model": "parrot"})
    assert one.json() == [[token("b", 0)]]
    asked = [facts.capability for facts in gateway.dispatcher.facts]
    assert asked == [Capability.EMBED, Capability.CHAT], "the model that embeds splits, unless another is named"
    for ids in ([97, 98], [[97, 98]]):
        assert (await gateway.client.post("/decode", json={"ids": ids})).json() == ["ab"]
    assert (await gateway.client.post("/decode", json={"ids": [[97], [98]]})).json() == ["a", "b"]


def test_a_token_around_the_text_is_special_and_one_of_bytes_has_no_place() -> None:
    pieces = [
        {"id": 1, "piece": "[CLS]"},
        {"id": 5, "piece": "em"},
        {"id": 6, "piece": [195]},
        {"id": 5, "piece": "em"},
    ]
    request = TeiTokenizeRequest.model_validate({"inputs": "em\u00e9em"})
    (told,) = tokens({"texts": [pieces], "around": [1]}, request)
    assert [(each["special"], each["start"], each["stop"]) for each in told] == [
        (True, None, None),
        (False, 0, 2),
        (False, None, None),
        (False, 3, 5),
    ]


@pytest.mark.parametrize(
    ("scoring", "score", "raw"),
    [("cross-encoder", 0.75, math.log(3)), ("similarity", 0.75, 0.5), ("cross-encoder", 1.0, 27.631)],
)
def test_a_raw_score_is_the_models_own_figure(scoring: str, score: float, raw: float) -> None:
    request = TeiRerankRequest.model_validate({"query": "q", "texts": ["a"], "raw_scores": True})
    answer = {"results": [{"index": 0, "relevance_score": score}], "scoring": scoring}
    assert ranks(answer, request)[0]["score"] == pytest.approx(raw, rel=1e-3)


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/embed", {"inputs": []}, "inputs"),
        ("/embed", {"inputs": "a", "normalize": False}, "length 1"),
        ("/embed", {"inputs": "a", "truncate": True, "truncation_direction": "Left"}, "truncation_direction"),
        ("/embed", {"inputs": "a", "prompt_name": "poem"}, "query, document, passage"),
        ("/embed_sparse", {"inputs": "a"}, "POST /embed"),
        ("/tokenize", {"inputs": []}, "inputs"),
        ("/tokenize", {"inputs": "a", "prompt_name": "query"}, "prompt_name"),
        ("/decode", {"ids": []}, "ids"),
        ("/decode", {"ids": [-1]}, "ids"),
        ("/embed_all", {"inputs": "a"}, "POST /embed"),
        ("/predict", {"inputs": ["a", "b"]}, "/rerank"),
        ("/predict", {"inputs": "a", "raw_scores": True}, "raw_scores"),
        ("/rerank", {"query": "q", "texts": []}, "texts"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, "sentences"),
    ],
)
async def test_an_error_is_one_text_as_hugging_faces_clients_read_it(
    gateway: Gateway, path: str, body: Any, said: str
) -> None:
    refused = await gateway.client.post(path, json=body)
    assert (refused.status_code, refused.json()["error_type"]) == (400, "Validation")
    assert said in refused.json()["error"]
