"""A model under examination, asked through the dispatcher as a background probe."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from backends.streams.assemble import ChatAssembler
from backends.wire.audio import SpeechRequest, TranscriptionRequest
from backends.wire.chat import ChatRequest
from backends.wire.classify import ClassifyRequest, classification
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.rerank import RerankRequest
from catalog.errors import (
    AnswerInvalid,
    PriceUnknown,
    RateLimited,
    RoundhouseError,
    StreamBroken,
    UpstreamProtocolError,
)
from catalog.model import Capability, Model
from catalog.types import Json
from server import jobs
from server.answers.whole import SingleItem
from server.probing.comparing import compare
from server.probing.prober import Probed, Prober, PurseEmpty

REASONING_TOKENS = 2000
"""Tokens added to the bound of an answer for models that reason before it."""
TRIES = 3
LONGEST_WAIT = 20.0
_FINAL = "transcript.text.done"


class Examinee:
    """One model. Every method asks it once, again where an error may pass.

    Raises PurseEmpty where the budget does not pay for the question; else the error of the answer.
    """

    def __init__(self, prober: Prober, row: Model, helper: Helper) -> None:
        self.row = row
        self.helper = helper
        self._prober = prober

    async def text(self, prompt: str, *, tokens: int, **fields: Any) -> str:
        """The text of the answer to a prompt; empty if it has none."""
        return str((await self.chat(prompt, tokens=tokens, **fields)).get("content") or "")

    async def chat(self, prompt: str, *, tokens: int, **fields: Any) -> Json:
        """The message that answers a prompt; empty for an answer that does not have the form asked for.

        ``tokens`` bounds it.
        """
        try:
            told = await self.timed(prompt, tokens=tokens, **fields)
        except AnswerInvalid:
            return {}
        message: Json = told.value["choices"][0]["message"]
        return message

    async def timed(self, prompt: str, *, tokens: int, **fields: Any) -> Probed:
        """The whole answer to a prompt, with its times."""
        reasons = Capability.REASONING in self.row.capabilities
        bound = tokens + REASONING_TOKENS if reasons else tokens
        if not reasons:
            fields = {"temperature": 0, **fields}
        body = ChatRequest.model_validate(
            {
                "model": self.row.id,
                "messages": [{"role": "user", "content": prompt}],
                "max_completion_tokens": bound,
                **fields,
            }
        )
        return await asked(self._prober, lambda: jobs.chat_job(body, self._prober.origin()), ChatAssembler)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector per text."""
        body = EmbeddingRequest.model_validate(
            {"model": self.row.id, "input": list(texts), "encoding_format": "float"}
        )
        told = await asked(self._prober, lambda: jobs.embedding_job(body, self._prober.origin()), SingleItem)
        return [row["embedding"] for row in sorted(told.value["data"], key=lambda row: int(row["index"]))]

    async def rerank(self, query: str, documents: Sequence[str]) -> list[float]:
        """A score per document."""
        body = RerankRequest.model_validate({"model": self.row.id, "query": query, "documents": list(documents)})
        told = await asked(self._prober, lambda: jobs.rerank_job(body, self._prober.origin()), SingleItem)
        scores = {row["index"]: float(row["relevance_score"]) for row in told.value["results"]}
        return [scores.get(place, float("-inf")) for place in range(len(documents))]

    async def classify(self, text: str, labels: Sequence[str]) -> str:
        """The likeliest label, by the endpoint of classification."""
        body = ClassifyRequest.model_validate({"model": self.row.id, "input": [text], "labels": list(labels)})
        told = await asked(self._prober, lambda: jobs.classification_job(body, self._prober.origin()), SingleItem)
        answer = told.value
        return str(classification(0, answer["data"][0]["scores"], answer["labels"])["prediction"])

    async def compared(self, request: str, answer: str, reference: str) -> float:
        """The judge's score of an answer beside a reference."""
        return await self.helper.not_worse(request, answer, reference)

    async def transcribe(self, audio: bytes) -> str:
        """The words of a WAV file."""
        return await transcribed(self._prober, self.row.id, audio)

    async def speak(self, text: str) -> bytes:
        """A WAV file of a text."""
        return await spoken(self._prober, self.row.id, text)


class Helper:
    """The models that help to examine others: voices and transcribers of this machine, and a judge."""

    def __init__(self, prober: Prober, judge: str | None = None) -> None:
        self._prober = prober
        self._judge = judge
        self._spoken: dict[str, bytes] = {}

    async def not_worse(self, request: str, answer: str, reference: str) -> float:
        """The share of both orders in which the judge does not find an answer worse than the reference."""
        assert self._judge is not None, "judged subjects are examined only where there is a judge"
        if not answer.strip():
            return 0.0
        verdict = await compare(self._prober, self._judge, request, answer, reference)
        if verdict is None:
            raise UpstreamProtocolError(f"The judge '{self._judge}' gave no verdict.")
        return ((verdict.first > 0) + (verdict.second > 0)) / 2

    async def speak(self, text: str) -> bytes:
        """A WAV file of a text; the same bytes for the same text."""
        if text not in self._spoken:
            self._spoken[text] = await spoken(self._prober, "auto:local", text)
        return self._spoken[text]

    async def transcribe(self, audio: bytes) -> str:
        """The words of a WAV file."""
        return await transcribed(self._prober, "auto:local", audio)


async def transcribed(prober: Prober, model: str, audio: bytes) -> str:
    """The words that a model hears in a WAV file."""
    body = TranscriptionRequest(model=model, file=audio, filename="question.wav", response_format="json")
    told = await asked(prober, lambda: jobs.transcription_job(body, prober.origin()), _Transcript)
    return str(told.value.get("text") or "")


async def spoken(prober: Prober, model: str, text: str) -> bytes:
    """A WAV file in which a model speaks a text."""
    body = SpeechRequest(model=model, input=text, response_format="wav")
    told = await asked(prober, lambda: jobs.speech_job(body, prober.origin()), _Sound)
    return bytes(told.value)


async def asked(prober: Prober, make: Any, assembler: Any) -> Probed:
    """Ask a probe, up to :data:`TRIES` times while its error may pass. ``make`` makes the job anew."""
    for attempt in range(1, TRIES + 1):
        try:
            return await prober.ask(make(), assembler)
        except RoundhouseError as error:
            final = isinstance(error, PurseEmpty | PriceUnknown | AnswerInvalid) or attempt == TRIES
            if final or not (error.retryable or isinstance(error, RateLimited)):
                raise
            wait = error.retry_after if error.retry_after is not None else 2.0**attempt / 2
            if wait > LONGEST_WAIT:
                raise
        await asyncio.sleep(wait)
    raise AssertionError("unreachable")


class _Transcript(SingleItem):
    def add(self, item: Any) -> None:
        if item.get("type") == _FINAL:
            super().add(item)


class _Sound:
    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def add(self, item: bytes) -> None:
        self._pieces.append(bytes(item))

    def result(self) -> bytes:
        if not self._pieces:
            raise StreamBroken("The upstream ended without sending sound.")
        return b"".join(self._pieces)
