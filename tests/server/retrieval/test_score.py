"""POST /v1/score and /score, in vLLM's shape."""

from __future__ import annotations

from typing import Any

import pytest

from backends.wire.rerank import PairedRerank
from tests.server.conftest import Gateway


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
@pytest.mark.parametrize("names", [("text_1", "text_2"), ("queries", "documents"), ("data_1", "data_2")])
async def test_one_text_is_scored_with_each_of_the_others(
    gateway: Gateway, path: str, names: tuple[str, str]
) -> None:
    body = {"model": "parrot", names[0]: "q", names[1]: ["a", "b", "c"]}
    answer = (await gateway.client.post(path, json=body)).json()
    assert [(one["index"], one["object"], one["score"]) for one in answer["data"]] == [
        (0, "score", 0.0),
        (1, "score", 0.1),
        (2, "score", 0.2),
    ]
    assert (answer["object"], answer["model"]) == ("list", "parrot")
    assert answer["usage"] == {"prompt_tokens": 9, "total_tokens": 9}


async def test_pairs_keep_their_order_and_one_query_is_one_rerank(gateway: Gateway) -> None:
    body = {"model": "parrot", "text_1": ["p", "q", "p"], "text_2": ["a", "b", "c"]}
    answer = (await gateway.client.post("/v1/score", json=body)).json()
    asked = [(one.query, one.documents) for one in gateway.backend.requests]
    assert asked == [("p", ["a", "c"]), ("q", ["b"])]
    assert [one["score"] for one in answer["data"]] == [0.0, 0.0, 0.1]
    assert answer["usage"]["total_tokens"] == 18
    assert gateway.dispatcher.facts[-1].units == 2


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"text_1": ["a", "b"], "text_2": ["c"]}, "text_1"),
        ({"text_1": "a"}, "text_2"),
        ({"text_1": "a", "text_2": []}, "text_2"),
        ({"text_1": "", "text_2": "b"}, "text_1"),
    ],
)
async def test_texts_that_make_no_pairs_are_refused(gateway: Gateway, body: Any, param: str) -> None:
    refused = await gateway.client.post("/v1/score", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_further_fields_reach_every_rerank() -> None:
    made = PairedRerank.of([("p", "a"), ("q", "b")], model="m", truncate=True)
    assert [request.to_wire() for request, _ in made.reranks()] == [
        {"model": "m", "truncate": True, "query": "p", "documents": ["a"]},
        {"model": "m", "truncate": True, "query": "q", "documents": ["b"]},
    ]
