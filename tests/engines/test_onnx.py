"""Embeddings and reranking by a real worker: all-MiniLM-L6-v2, and a small generated cross-encoder."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conformance.worker import DidNotStart, Worker, starter, worker, worker_of

pytestmark = pytest.mark.engine

TEXTS = ["A cat sleeps.", "Shares fell.", "word " * 150, "x"]


async def _post(worker: Worker, path: str, **body: Any) -> httpx.Response:
    async with worker.client() as client:
        return await client.post(path, json={"model": "m", **body})


async def _vectors(worker: Worker, given: Any, **body: Any) -> list[list[float]]:
    answer = await _post(worker, "/v1/embeddings", input=given, **body)
    assert answer.status_code == 200, answer.text
    return [row["embedding"] for row in answer.json()["data"]]


# ---- embeddings


async def test_batching_changes_neither_order_nor_vectors(minilm: Worker) -> None:
    together = np.array(await _vectors(minilm, TEXTS))
    alone = np.array([(await _vectors(minilm, text))[0] for text in TEXTS])
    assert together.shape == (4, 384)
    assert np.allclose((together * alone).sum(axis=1), 1, atol=1e-5)


async def test_concurrent_requests_get_their_own_vectors(minilm: Worker) -> None:
    texts = [f"Sentence number {i} is about {'cats' if i % 2 else 'trains'}." * (1 + i % 5) for i in range(40)]
    expected = await _vectors(minilm, texts)
    found = await asyncio.gather(*(_vectors(minilm, text) for text in texts))
    assert np.allclose(np.array(expected), np.array([one for (one,) in found]), atol=1e-5)


async def test_base64_holds_little_endian_float32(minilm: Worker) -> None:
    (floats,) = await _vectors(minilm, "A cat.")
    answer = await _post(minilm, "/v1/embeddings", input="A cat.", encoding_format="base64")
    packed = base64.b64decode(answer.json()["data"][0]["embedding"])
    assert np.allclose(np.frombuffer(packed, "<f4"), floats, atol=1e-7)


async def test_tokens_give_the_vector_of_their_text(minilm: Worker) -> None:
    tokens = (await _post(minilm, "/tokenize", content="A cat sleeps.")).json()["tokens"]
    framed = (await _post(minilm, "/tokenize", content="A cat sleeps.", add_special=True)).json()["tokens"]
    assert len(framed) == len(tokens) + 2
    expected, bare, special = [(await _vectors(minilm, given))[0] for given in ("A cat sleeps.", tokens, [framed])]
    assert np.allclose(bare, expected, atol=1e-6)
    assert np.allclose(special, expected, atol=1e-6)


async def test_usage_counts_the_tokens_that_the_model_saw(minilm: Worker) -> None:
    answer = (await _post(minilm, "/v1/embeddings", input=["hello world", "hello"])).json()
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}


async def test_a_text_that_does_not_fit_is_an_error_with_the_numbers(minilm: Worker) -> None:
    answer = await _post(minilm, "/v1/embeddings", input=["short", "word " * 300])
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "256" in error["message"]
    assert "302" in error["message"]


async def test_truncation_happens_only_when_asked_for_and_is_flagged(minilm: Worker) -> None:
    answer = await _post(minilm, "/v1/embeddings", input=["short", "word " * 300], truncate=True)
    assert answer.status_code == 200
    assert answer.json()["truncated"] == [1]
    assert answer.json()["usage"]["prompt_tokens"] == 256 + 3


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"input": "x", "dimensions": 128}, "unsupported_value"),
        ({"input": [[30_522]]}, "invalid_request"),
        ({"input": []}, "invalid_request"),
        ({"input": ""}, "invalid_request"),
        ({"input": [1.5]}, "invalid_request"),
        ({"input": "x", "truncate": "yes"}, "invalid_request"),
        ({"input": "x", "encoding_format": "hex"}, "invalid_request"),
    ],
)
async def test_what_cannot_be_honoured_is_refused(minilm: Worker, body: dict[str, Any], code: str) -> None:
    answer = await _post(minilm, "/v1/embeddings", **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code


async def test_parameters_without_effect_are_named(minilm: Worker) -> None:
    answer = await _post(minilm, "/v1/embeddings", input="x", input_type="query", favourite="blue")
    assert answer.headers["x-roundhouse-dropped"] == "favourite, input_type"


async def test_matryoshka_vectors_are_cut_and_of_length_one() -> None:
    with worker_of("all-minilm-l6-v2", matryoshka=True) as cutting:
        (whole,) = await _vectors(cutting, "A cat.")
        (cut,) = await _vectors(cutting, "A cat.", dimensions=64)
    assert len(cut) == 64
    assert math.isclose(sum(x * x for x in cut), 1, rel_tol=1e-5)
    assert np.allclose(np.array(cut) / cut[0], np.array(whole[:64]) / whole[0], rtol=1e-3)


async def test_the_work_of_a_client_that_left_is_dropped(minilm: Worker) -> None:
    before = await minilm.stats()
    async with minilm.client() as client:
        body = {"model": "m", "input": ["word " * 200] * 1000}
        asking = asyncio.create_task(client.post("/v1/embeddings", json=body))
        await minilm.until_active(1, within=60)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await minilm.until_active(0, within=60)
    after = await minilm.stats()
    assert (after["cancelled"], after["done"]) == (before["cancelled"] + 1, before["done"])


def test_options_that_are_wrong_are_named() -> None:
    with pytest.raises(DidNotStart, match="pooling"), worker_of("all-minilm-l6-v2", pooling="average"):
        pass


# ---- rerank


async def test_rerank_by_similarity_is_named_as_such(minilm: Worker) -> None:
    documents = ["Bread is baked.", {"text": "Paris is the capital of France.", "id": 7}, "Cats like fish."]
    answer = await _post(
        minilm, "/v1/rerank", query="capital of France", documents=documents, top_n=2, return_documents=True
    )
    body = answer.json()
    assert body["scoring"] == "similarity"
    assert body["results"][0]["index"] == 1
    assert len(body["results"]) == 2
    assert body["results"][0]["document"] == {"text": "Paris is the capital of France."}
    assert all(0 <= result["relevance_score"] <= 1 for result in body["results"])


@pytest.mark.parametrize("documents", [[], [{"title": "no text"}], [""], "text", [3]])
async def test_documents_that_are_none_are_refused(minilm: Worker, documents: Any) -> None:
    answer = await _post(minilm, "/v1/rerank", query="q", documents=documents)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("documents")


# ---- classification


async def test_texts_are_classified_by_similarity_to_the_labels(minilm: Worker) -> None:
    body: dict[str, Any] = {
        "input": ["Please give me my money back.", {"text": "The app crashes when I open the settings."}],
        "labels": ["technical problem", "refund request", "compliment"],
    }
    told = (await _post(minilm, "/v1/classify", **body)).json()
    assert told["scoring"] == "similarity"
    assert [row["prediction"] for row in told["data"]] == ["refund request", "technical problem"]
    assert told["usage"]["prompt_tokens"] > 20
    turned = (await _post(minilm, "/v1/classify", **{**body, "labels": body["labels"][::-1]})).json()
    for row, again in zip(told["data"], turned["data"], strict=True):
        scores = {said["label"]: said["score"] for said in row["predictions"]}
        assert sum(scores.values()) == pytest.approx(1.0)
        assert row["score"] == scores[row["prediction"]] == max(scores.values())
        assert {said["label"]: said["score"] for said in again["predictions"]} == pytest.approx(scores, abs=1e-5)


async def test_a_text_to_classify_that_is_too_long_is_refused_or_cut_and_told(minilm: Worker) -> None:
    body = {"input": ["short", "long " * 2000], "labels": ["a", "b"]}
    refused = await _post(minilm, "/v1/classify", **body)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert (await _post(minilm, "/v1/classify", **body, truncate=True)).json()["truncated"] == [1]


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """Run a "cross-encoder" whose logit is the sum of the token ids / 1000 - 40, so that tests can compute it."""
    onnx = pytest.importorskip("onnx", reason="the starter extra brings it")
    folder = tmp_path_factory.mktemp("cross")
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["seen"]),
        helper.make_node("Cast", ["seen"], ["values"], to=kinds.FLOAT),
        helper.make_node("ReduceSum", ["values", "axis"], ["sums"], keepdims=1),
        helper.make_node("Mul", ["sums", "scale"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "shift"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "sum",
        [
            helper.make_tensor_value_info(name, kinds.INT64, ["batch", "tokens"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("logits", kinds.FLOAT, ["batch", 1])],
        [
            helper.make_tensor("axis", kinds.INT64, [1], [1]),
            helper.make_tensor("scale", kinds.FLOAT, [], [0.001]),
            helper.make_tensor("shift", kinds.FLOAT, [], [40.0]),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        str(folder / "model.onnx"),
    )
    _, minilm = starter("all-minilm-l6-v2")
    assert minilm is not None
    shutil.copy(minilm / "tokenizer.json", folder)
    (folder / "roundhouse.json").write_text(json.dumps({"kind": "cross-encoder", "max_tokens": 32}))
    with worker("onnx", folder) as running:
        yield running


async def test_cross_encoder_scores_are_sigmoids_of_logits(cross_encoder: Worker) -> None:
    documents = ["fish", "a b c", "paris france paris france", "x"] * 20
    answer = (await _post(cross_encoder, "/v1/rerank", query="cat", documents=documents)).json()
    assert answer["scoring"] == "cross-encoder"
    for result in answer["results"][::7]:
        pair = documents[result["index"]]
        ids = (await _post(cross_encoder, "/tokenize", content=f"cat {pair}")).json()["tokens"]
        logit = (sum(ids) + 101 + 102 + 102) / 1000 - 40
        assert math.isclose(result["relevance_score"], 1 / (1 + math.exp(-logit)), rel_tol=1e-3)
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4


async def test_a_document_that_does_not_fit_is_an_error_a_cut_or_chunks(cross_encoder: Worker) -> None:
    long = "fish " * 100
    refused = await _post(cross_encoder, "/v1/rerank", query="cat", documents=["a", long])
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    cut = (await _post(cross_encoder, "/v1/rerank", query="cat", documents=["a", long], truncate=True)).json()
    assert cut["truncated"] == [1]
    headed = await _post(cross_encoder, "/v1/rerank", query="cat", documents=["a", long], max_tokens_per_doc=5)
    assert headed.json()["truncated"] == [1]
    chunked = await _post(cross_encoder, "/v1/rerank", query="cat", documents=["a", long], max_chunks_per_doc=10)
    assert chunked.status_code == 200
    assert "truncated" not in chunked.json()
    few = await _post(cross_encoder, "/v1/rerank", query="cat", documents=["a", long], max_chunks_per_doc=2)
    assert few.json()["truncated"] == [1]


async def test_a_cross_encoder_makes_no_embeddings(cross_encoder: Worker) -> None:
    answer = await _post(cross_encoder, "/v1/embeddings", input="x")
    assert answer.json()["error"]["code"] == "model_capability_mismatch"


CLASSIFIER_LOGITS = {"toxic": 2.0, "neutral": -1.0, "insult": 0.5}
"""The logits of every text by the classifier below."""


@pytest.fixture(scope="module", params=[False, True], ids=["one label", "many labels"])
def classifier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """Run a classifier whose labels stand in Hugging Face's config.json."""
    onnx = pytest.importorskip("onnx", reason="the starter extra brings it")
    folder = tmp_path_factory.mktemp("classifier")
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["seen"]),
        helper.make_node("Cast", ["seen"], ["values"], to=kinds.FLOAT),
        helper.make_node("ReduceSum", ["values", "axis"], ["sums"], keepdims=1),
        helper.make_node("Mul", ["sums", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "fixed"], ["logits"]),
    ]
    names = ("input_ids", "attention_mask")
    graph = helper.make_graph(
        nodes,
        "fixed",
        [helper.make_tensor_value_info(name, kinds.INT64, ["batch", "tokens"]) for name in names],
        [helper.make_tensor_value_info("logits", kinds.FLOAT, ["batch", 3])],
        [
            helper.make_tensor("axis", kinds.INT64, [1], [1]),
            helper.make_tensor("zero", kinds.FLOAT, [], [0.0]),
            helper.make_tensor("fixed", kinds.FLOAT, [1, 3], list(CLASSIFIER_LOGITS.values())),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        str(folder / "model.onnx"),
    )
    _, minilm = starter("all-minilm-l6-v2")
    assert minilm is not None
    shutil.copy(minilm / "tokenizer.json", folder)
    config: dict[str, Any] = {"id2label": {str(at): name for at, name in enumerate(CLASSIFIER_LOGITS)}}
    if request.param:
        config["problem_type"] = "multi_label_classification"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "roundhouse.json").write_text(json.dumps({"kind": "classifier", "max_tokens": 32}))
    with worker("onnx", folder) as running:
        yield running


async def test_a_trained_classifier_has_labels_of_its_own(
    classifier: Worker, request: pytest.FixtureRequest
) -> None:
    exact = np.array(list(CLASSIFIER_LOGITS.values()))
    many = "many" in request.node.callspec.id
    expected = 1 / (1 + np.exp(-exact)) if many else np.exp(exact) / np.exp(exact).sum()
    told = (await _post(classifier, "/v1/classify", input=["a", "b"])).json()
    assert told["scoring"] == "classifier"
    for row in told["data"]:
        assert row["prediction"] == "toxic"
        assert [one["label"] for one in row["predictions"]] == list(CLASSIFIER_LOGITS)
        assert [one["score"] for one in row["predictions"]] == pytest.approx(expected, rel=1e-5)
    some = (await _post(classifier, "/v1/classify", input="a", labels=["neutral", "toxic"])).json()
    assert [one["score"] for one in some["data"][0]["predictions"]] == pytest.approx(expected[[1, 0]], rel=1e-5)


async def test_a_trained_classifier_refuses_other_work_and_labels_that_it_does_not_know(
    classifier: Worker,
) -> None:
    unknown = await _post(classifier, "/v1/classify", input="a", labels=["toxic", "spam"])
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "labels")
    assert "toxic, neutral, insult" in unknown.json()["error"]["message"]
    for path, body in (("/v1/embeddings", {"input": "x"}), ("/v1/rerank", {"query": "q", "documents": ["a"]})):
        refused = await _post(classifier, path, **body)
        assert refused.json()["error"]["code"] == "model_capability_mismatch"


async def test_a_model_without_labels_of_its_own_asks_for_some(minilm: Worker) -> None:
    refused = await _post(minilm, "/v1/classify", input="a")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "labels")


async def test_an_embedding_model_ranks_only_where_its_row_says_so() -> None:
    _, path = starter("all-minilm-l6-v2")
    with worker("onnx", path) as plain:
        answer = await _post(plain, "/v1/rerank", query="q", documents=["a"])
    assert answer.json()["error"]["code"] == "model_capability_mismatch"
