"""Vectors of the converted all-MiniLM-L6-v2 against a reference.

The reference (``tests/data/minilm_reference.json``) was computed with torch 2.13.0 and transformers 5.23.0 from
the same safetensors: for each text ``tokenizer([text], truncation=True, max_length=256)``, ``AutoModel`` in eval
mode, the mean of ``last_hidden_state`` over ``attention_mask``, L2 norm, rounded to six decimals.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalog import starter
from catalog.catalog import Catalog
from catalog.errors import PullError
from catalog.store import bert_onnx
from tests.conformance.starter_store import starter_store

REFERENCE = Path(__file__).parents[2] / "data" / "minilm_reference.json"


def vectors(folder: Path, texts: list[str], *, batch: bool) -> Any:
    """Compute embeddings ``[texts, 384]`` as ``roundhouse.json`` prescribes."""
    import onnxruntime
    from tokenizers import Tokenizer

    card = json.loads((folder / bert_onnx.CARD).read_text())
    assert (card["kind"], card["pooling"], card["normalize"]) == ("embedding", "mean", True)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(card["max_tokens"])
    tokenizer.enable_padding()
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    groups = [texts] if batch else [[text] for text in texts]
    rows = []
    for group in groups:
        encoded = tokenizer.encode_batch(group)
        ids = np.array([e.ids for e in encoded], dtype=np.int64)
        mask = np.array([e.attention_mask for e in encoded], dtype=np.int64)
        (hidden,) = session.run(["last_hidden_state"], {"input_ids": ids, "attention_mask": mask})
        pooled = (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        rows.append(pooled / np.linalg.norm(pooled, axis=1, keepdims=True))
    return np.concatenate(rows)


@pytest.fixture(scope="module")
def reference() -> list[dict[str, Any]]:
    texts: list[dict[str, Any]] = json.loads(REFERENCE.read_text("utf-8"))["texts"]
    return texts


def folder_of(model_id: str) -> Path:
    return starter.ensure(Catalog.builtin(), starter_store(), also=[model_id])[model_id]


@pytest.mark.engine
@pytest.mark.parametrize("batch", [False, True], ids=["one by one", "in one padded batch"])
def test_the_vectors_equal_the_references(reference: list[dict[str, Any]], batch: bool) -> None:
    ours = vectors(folder_of("all-minilm-l6-v2"), [entry["text"] for entry in reference], batch=batch)
    theirs = np.array([entry["vector"] for entry in reference])
    cosines = (ours * theirs).sum(axis=1)
    assert ours.shape == (len(reference), 384)
    assert cosines.min() >= 0.9999


@pytest.mark.engine
def test_the_int8_twin_is_close_and_smaller(reference: list[dict[str, Any]]) -> None:
    folder = folder_of("all-minilm-l6-v2-int8")
    ours = vectors(folder, [entry["text"] for entry in reference], batch=False)
    cosines = (ours * np.array([entry["vector"] for entry in reference])).sum(axis=1)
    assert cosines.min() >= 0.95
    assert np.median(cosines) >= 0.985
    assert (folder / "model.onnx").stat().st_size < 60_000_000


def test_the_reference_tells_its_texts_apart(reference: list[dict[str, Any]]) -> None:
    theirs = np.array([entry["vector"] for entry in reference])
    similarity = theirs @ theirs.T
    different = [
        similarity[i, j]
        for i in range(len(theirs))
        for j in range(i)
        if reference[i]["text"].strip() != reference[j]["text"].strip()
    ]
    assert float(np.median(different)) < 0.5


def test_another_kind_of_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta", "hidden_act": "gelu"}))
    with pytest.raises(PullError, match="BERT"):
        bert_onnx.prepare(tmp_path, max_tokens=256, dimensions=384)
    bert = {"model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-3}
    (tmp_path / "config.json").write_text(json.dumps(bert))
    with pytest.raises(PullError, match="epsilon"):
        bert_onnx.prepare(tmp_path, max_tokens=256, dimensions=384)
    with pytest.raises(PullError, match="precision"):
        bert_onnx.prepare(tmp_path, precision="int4", max_tokens=256, dimensions=384)
