"""Engine ``onnx``: embeddings, classification by embeddings, and cross-encoders with ONNX Runtime.

A model is a folder with the graph (``model.onnx``, or ``options.file``), ``tokenizer.json`` and
``roundhouse.json``: ``{"kind": "embedding" | "cross-encoder" | "classifier", "pooling", "normalize", "max_tokens",
"dimensions", "matryoshka", "prompts": {"query", "document"}, "labels", "multi_label"}``; the row's options
override it. A classifier's labels may stand in Hugging Face's ``config.json`` instead.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from backends.wire.classify import NO_LABELS, ClassifyRequest, classification
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.rerank import RerankRequest
from backends.workers.engines.common.batching import Batcher, Tokens
from backends.workers.engines.common.options import EngineOptions, read_options
from backends.workers.engines.common.prompts import Prompts
from backends.workers.engines.common.text_tokenizer import TextTokenizer
from backends.workers.engines.common.token_routes import token_routes
from backends.workers.engines.onnx.session import (
    LANES,
    TOKENS_A_THREAD,
    TOKENS_ON_GPU,
    Floats,
    OnnxBatchRunner,
    Pooling,
    normalized,
    open_session,
)
from backends.workers.program.app import cancel_on_disconnect, dropped, json_response, parse, serve_engine
from backends.workers.program.threads import WorkerStats
from backends.workers.spec import Ready, WorkerSpec
from catalog.errors import (
    CapabilityMismatch,
    EngineMissing,
    InvalidRequest,
    ModelUnavailable,
    UnsupportedValue,
)

SHARPNESS = 20.0
"""Factor of cosines before the softmax: the scale of sentence-transformers' ``MultipleNegativesRankingLoss``, with
which such models are trained, so that the results are probabilities.
"""


class OnnxOptions(EngineOptions):
    """The options in ``roundhouse.json`` and in the catalogue row."""

    kind: Literal["embedding", "cross-encoder", "classifier"] = "embedding"
    labels: tuple[str, ...] = Field(default=(), description="of a classifier, in the order of its outputs")
    multi_label: bool = Field(default=False, description="a classifier judges each label for itself")
    file: str = Field(default="model.onnx", pattern=r"^[\w][\w.-]*\.onnx$")
    pooling: Pooling = "mean"
    normalize: bool = True
    max_tokens: int = Field(default=512, gt=0)
    dimensions: int | None = Field(default=None, gt=0)
    matryoshka: bool = False
    prompts: Prompts = Prompts()
    precision: str | None = Field(default=None, description="of the weights, set when the folder was prepared")
    rerank: Literal["similarity"] | None = Field(default=None, description="let an embedding model rerank")
    batch_tokens: int | None = Field(
        default=None, gt=0, description="padded tokens of one batch; default: 96 per thread, on a GPU 8192"
    )

    def needed(self, folder: Path) -> tuple[str, ...]:
        named = self.file if "file" in self.model_fields_set else describe(folder).get("file", self.file)
        return "tokenizer.json", str(named)


def serve(spec: WorkerSpec, ready: Ready) -> None:
    """Run the worker; see ``backends.workers.spec.EngineEntryPoint``. Raises as ``load`` does."""
    serve_engine(spec, OnnxEngine(spec), ready)


def describe(folder: Path) -> dict[str, Any]:
    """Read this engine's options from ``roundhouse.json``. Raises ModelUnavailable if it is damaged."""
    path = folder / "roundhouse.json"
    try:
        told = orjson.loads(path.read_bytes()) if path.is_file() else {}
        return {name: value for name, value in told.items() if name in OnnxOptions.model_fields}
    except (orjson.JSONDecodeError, AttributeError) as error:
        raise ModelUnavailable(f"{path.name} of the model is damaged. Pull the model again.") from error


_WORK = {"embedding": "makes embeddings", "cross-encoder": "ranks documents", "classifier": "classifies texts"}


def labels_of(folder: Path) -> dict[str, Any]:
    """A classifier's labels by Hugging Face's ``config.json``. Raises ModelUnavailable if it has none."""
    try:
        config = orjson.loads((folder / "config.json").read_bytes())
        named = {int(index): str(label) for index, label in config["id2label"].items()}
        labels = tuple(named[index] for index in range(len(named)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnavailable(
            "The classifier's labels are unknown: give [model.options] labels, or id2label in config.json."
        ) from error
    return {"labels": labels, "multi_label": config.get("problem_type") == "multi_label_classification"}


class OnnxEngine:
    """Serves embeddings, reranking and classification; all requests share one batcher."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._batcher: Batcher[Floats] | None = None

    @property
    def stats(self) -> WorkerStats:
        return self._batcher.stats if self._batcher else WorkerStats()

    def load(self) -> None:
        try:
            import tokenizers  # noqa: F401
        except ImportError:
            raise EngineMissing("onnx", extra="onnx", package="tokenizers") from None
        folder = Path(self._spec.path or "")
        self._options = read_options(OnnxOptions, "onnx", {**describe(folder), **self._spec.options})
        classifies = self._options.kind == "classifier"
        if classifies and not self._options.labels:
            self._options = self._options.model_copy(update=labels_of(folder))
        limit = min(self._options.max_tokens, self._spec.context or self._options.max_tokens)
        self._tokenizer = TextTokenizer(folder / "tokenizer.json", model=self._spec.model_id, max_tokens=limit)
        session = open_session(folder / self._options.file, device=self._spec.device, threads=self._spec.threads)
        cross = self._options.kind == "cross-encoder"
        pooling = "none" if cross or classifies else self._options.pooling
        device = OnnxBatchRunner(session, pooling=pooling, pad_id=self._tokenizer.pad_id)
        self._width = device.width()
        if classifies and self._width != len(self._options.labels):
            raise ModelUnavailable(
                f"'{self._spec.model_id}' has {self._width} outputs, and {len(self._options.labels)} labels."
            )
        if cross and self._width > 2:
            raise ModelUnavailable(f"'{self._spec.model_id}' has {self._width} labels; a reranker has one or two.")
        on_cpu = self._spec.device == "cpu"
        fitting = TOKENS_A_THREAD * self._spec.threads if on_cpu else TOKENS_ON_GPU
        self._batcher = Batcher(device, budget=self._options.batch_tokens or fitting, lanes=LANES if on_cpu else 1)

    def close(self) -> None:
        if self._batcher:
            self._batcher.close()

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/v1/embeddings", self._embeddings, methods=["POST"]),
            Route("/v1/rerank", self._rerank, methods=["POST"]),
            Route("/v1/classify", self._classify, methods=["POST"]),
            *token_routes(lambda: self._tokenizer),
        ]

    # ---- embeddings

    async def _embeddings(self, http: Request) -> Response:
        request = parse(EmbeddingRequest, await http.body())
        if self._options.kind != "embedding":
            raise CapabilityMismatch(
                f"'{self._spec.model_id}' {_WORK[self._options.kind]}; it makes no embeddings.", param="model"
            )
        size = self._dimensions(request.dimensions)
        extra = dict(request.model_extra or {})
        truncate, counted = _flag(extra, "truncate"), _flag(extra, "token_counts")
        prompts = self._options.prompts
        prompt = prompts.before(request.input_type, request.instruction)
        unused = [*extra, *prompts.without_effect(request.input_type, request.instruction)]

        async def work() -> tuple[list[Tokens], list[int], Floats]:
            tokens, cut = await asyncio.to_thread(self._encode, request.items(), prompt, truncate)
            return tokens, cut, await self._vectors(tokens)

        tokens, cut, vectors = await cancel_on_disconnect(http, work())
        if size < self._width:
            vectors = vectors[:, :size]
            vectors = normalized(vectors) if self._options.normalize else vectors
        as_text = request.encoding_format == "base64"
        used = sum(len(text) for text in tokens)
        body = {
            "object": "list",
            "model": self._spec.model_id,
            "data": [
                {
                    "object": "embedding",
                    "index": i,
                    "embedding": _base64(row) if as_text else row,
                    **({"tokens": len(tokens[i])} if counted else {}),
                }
                for i, row in enumerate(np.ascontiguousarray(vectors))
            ],
            "usage": {"prompt_tokens": used, "total_tokens": used},
            **({"truncated": cut} if cut else {}),
        }
        return json_response(body, headers=dropped(unused))

    def _dimensions(self, asked: int | None) -> int:
        if asked is None or asked == self._width:
            return self._width
        if not self._options.matryoshka:
            raise UnsupportedValue(
                f"'{self._spec.model_id}' gives {self._width} dimensions, which cannot be cut to {asked}: "
                "leave 'dimensions' out, or name a model that can.",
                param="dimensions",
            )
        if asked > self._width:
            raise InvalidRequest(
                f"'{self._spec.model_id}' gives at most {self._width} dimensions.", param="dimensions"
            )
        return asked

    def _encode(
        self, inputs: Sequence[str] | Sequence[list[int]], prompt: str, truncate: bool
    ) -> tuple[list[Tokens], list[int]]:
        if isinstance(inputs[0], str):
            texts = [prompt + str(text) for text in inputs]
            return self._tokenizer.texts(texts, truncate=truncate, param="input")
        lists = [list(ids) for ids in inputs if not isinstance(ids, str)]
        if prompt:
            before = [i for i, _ in self._tokenizer.tokenize(prompt, add_special=False)]
            lists = [[*before, *ids] for ids in lists]
        return self._tokenizer.framed(lists, truncate=truncate)

    async def _vectors(self, tokens: Sequence[Tokens]) -> Floats:
        """Embed the texts: [texts, width], of length 1 if the model normalises."""
        vectors = await self._outputs(tokens)
        return normalized(vectors) if self._options.normalize else vectors

    async def _outputs(self, tokens: Sequence[Tokens]) -> Floats:
        """Run the texts: [texts, width]."""
        assert self._batcher is not None
        return np.stack(await self._batcher.run(tokens))

    # ---- rerank

    async def _rerank(self, http: Request) -> Response:
        request = parse(RerankRequest, await http.body())
        if self._options.kind != "cross-encoder" and self._options.rerank is None:
            raise CapabilityMismatch(
                f"'{self._spec.model_id}' {_WORK[self._options.kind]}; it does not rank.", param="model"
            )
        extra = dict(request.model_extra or {})
        truncate = _flag(extra, "truncate")
        documents = [_document_text(document, i) for i, document in enumerate(request.documents)]
        scores, used, cut = await cancel_on_disconnect(http, self._scores(request, documents, truncate))
        order = sorted(range(len(documents)), key=lambda i: (-scores[i], i))[: request.top_n]
        results: list[dict[str, Any]] = [{"index": i, "relevance_score": scores[i]} for i in order]
        if request.return_documents:
            for result in results:
                result["document"] = {"text": documents[result["index"]]}
        body = {
            "object": "list",
            "model": self._spec.model_id,
            "results": results,
            "scoring": "similarity" if self._options.kind == "embedding" else "cross-encoder",
            "usage": {"prompt_tokens": used, "total_tokens": used},
            **({"truncated": cut} if cut else {}),
        }
        unused = [*extra, *self._options.prompts.without_effect(None, request.instruction)]
        return json_response(body, headers=dropped(unused))

    async def _scores(
        self, request: RerankRequest, documents: Sequence[str], truncate: bool
    ) -> tuple[list[float], int, list[int]]:
        """Return a score in [0, 1] for each document, the tokens used, and the indices of truncated documents."""
        chunks, owners, cut = await asyncio.to_thread(self._chunks, request, documents)
        query = self._options.prompts.before("query", request.instruction) + request.query
        if self._options.kind == "embedding":
            texts = [query, *(self._options.prompts.before("document") + chunk for chunk in chunks)]
            tokens, short = await asyncio.to_thread(
                lambda: self._tokenizer.texts(texts, truncate=truncate, param="documents")
            )
            vectors = normalized(await self._vectors(tokens))
            found = (1 + (vectors[1:] @ vectors[0]).astype(np.float64)) / 2
            short = [owners[i - 1] for i in short if i > 0]
        else:
            pairs = [(query, chunk) for chunk in chunks]
            tokens, short = await asyncio.to_thread(
                lambda: self._tokenizer.pairs(pairs, truncate=truncate, param="documents")
            )
            assert self._batcher is not None
            found = probabilities(np.stack(await self._batcher.run(tokens)))
            short = [owners[i] for i in short]
        best = np.zeros(len(documents))
        np.maximum.at(best, owners, np.clip(found, 0.0, 1.0))
        return [float(score) for score in best], sum(map(len, tokens)), sorted({*cut, *short})

    def _chunks(self, request: RerankRequest, documents: Sequence[str]) -> tuple[list[str], list[int], list[int]]:
        """Split the documents; return the chunks, each chunk's document, and the indices of truncated documents.

        ``max_tokens_per_doc`` keeps a document's beginning. ``max_chunks_per_doc`` splits a document that exceeds
        the window into at most that many chunks; its score is that of the best one.
        """
        cap, most = request.max_tokens_per_doc, request.max_chunks_per_doc
        cross = self._options.kind == "cross-encoder"
        room = self._tokenizer.max_tokens - self._tokenizer.pair_overhead
        if cross:
            before = self._options.prompts.before("query", request.instruction)
            room -= self._tokenizer.count(before + request.query)
        else:
            room -= self._tokenizer.count(self._options.prompts.before("document"))
        chunks: list[str] = []
        owners: list[int] = []
        cut: list[int] = []
        for i, document in enumerate(documents):
            text = document
            if cap is not None:
                head, *rest = self._tokenizer.split(text, size=cap)
                text = head
                if rest:
                    cut.append(i)
            parts = self._tokenizer.split(text, size=max(1, room)) if most is not None else [text]
            if most is not None and len(parts) > most:
                cut.append(i)
                parts = parts[:most]
            chunks += parts
            owners += [i] * len(parts)
        return chunks, owners, cut

    # ---- classification

    async def _classify(self, http: Request) -> Response:
        request = parse(ClassifyRequest, await http.body())
        if self._options.kind == "cross-encoder":
            raise CapabilityMismatch(
                f"'{self._spec.model_id}' ranks documents; it does not classify.", param="model"
            )
        extra = dict(request.model_extra or {})
        truncate = _flag(extra, "truncate")
        trained = self._options.labels if self._options.kind == "classifier" else None
        if trained is None and request.labels is None:
            raise InvalidRequest(NO_LABELS, param="labels")
        labels = list(trained or ()) if request.labels is None else request.labels
        if trained is not None and (unknown := [label for label in labels if label not in trained]):
            raise InvalidRequest(
                f"'{self._spec.model_id}' was trained on the labels {', '.join(trained)}; it knows no "
                f"'{unknown[0]}'.",
                param="labels",
            )
        compared = labels if trained is None else ()
        first = len(compared)
        prompt = self._options.prompts.before("query")
        texts = [prompt + text for text in (*compared, *request.texts())]

        async def work() -> tuple[list[Tokens], list[int], Floats]:
            tokens, cut = await asyncio.to_thread(
                lambda: self._tokenizer.texts(texts, truncate=truncate, param="input")
            )
            return tokens, cut, await self._outputs(tokens)

        tokens, cut, outputs = await cancel_on_disconnect(http, work())
        if trained is None:
            vectors = normalized(outputs)
            chances = softmax(SHARPNESS * (vectors[first:] @ vectors[:first].T))
        else:
            chances = sigmoid(outputs) if self._options.multi_label else softmax(outputs)
            chances = chances[:, [trained.index(label) for label in labels]]
        used = sum(map(len, tokens))
        body = {
            "model": self._spec.model_id,
            "data": [classification(index, row, labels) for index, row in enumerate(chances.tolist())],
            "scoring": "similarity" if trained is None else "classifier",
            "usage": {"prompt_tokens": used, "total_tokens": used},
            **({"truncated": [i - first for i in cut if i >= first]} if cut else {}),
        }
        return json_response(body, headers=dropped(extra))


def probabilities(logits: Floats) -> NDArray[np.float64]:
    """Convert logits to the probability of "relevant": [texts, 1] by the sigmoid, [texts, 2] (no, yes) by the
    softmax.

    Computed in float64 through the logarithm, so that very improbable documents keep their order.
    """
    margin = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
    chances: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -margin.astype(np.float64)))
    return chances


def sigmoid(logits: Floats) -> NDArray[np.float64]:
    """Convert logits [texts, labels] to the probability of each label for itself."""
    chances: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))
    return chances


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Convert logits [texts, labels] to probabilities, row by row."""
    exact = logits.astype(np.float64)
    weights = np.exp(exact - exact.max(axis=1, keepdims=True))
    chances: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return chances


def _document_text(document: str | dict[str, Any], index: int) -> str:
    text = document if isinstance(document, str) else document.get("text")
    if not isinstance(text, str) or not text:
        raise InvalidRequest(f"Document {index} has no text in 'text'.", param=f"documents.{index}")
    return text


def _flag(extra: dict[str, Any], name: str) -> bool:
    """Remove a boolean from the fields beyond OpenAI's. Raises InvalidRequest for another type."""
    value = extra.pop(name, None)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be true or false.", param=name)
    return bool(value)


def _base64(row: Floats) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()
