"""A FAKE of Apple's SDK (``apple-fm-sdk``), which runs on macOS alone: no test here has met the real model.

It has the names, signatures and errors that Apple documents, and nothing else: a session streams the whole text so
far, and keeps the transcript that it was made from.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, ClassVar


class FoundationModelsError(Exception): ...


class GenerationError(FoundationModelsError): ...


class ExceededContextWindowSizeError(GenerationError): ...


class AssetsUnavailableError(GenerationError): ...


class GuardrailViolationError(GenerationError): ...


class UnsupportedLanguageOrLocaleError(GenerationError): ...


class RateLimitedError(GenerationError): ...


class RefusalError(GenerationError): ...


class SystemLanguageModelGuardrails(IntEnum):
    DEFAULT = 0
    PERMISSIVE_CONTENT_TRANSFORMATIONS = 1


class SystemLanguageModelUnavailableReason(IntEnum):
    APPLE_INTELLIGENCE_NOT_ENABLED = 0
    DEVICE_NOT_ELIGIBLE = 1
    MODEL_NOT_READY = 2


class SystemLanguageModel:
    unavailable: ClassVar[SystemLanguageModelUnavailableReason | None] = None

    def __init__(self, guardrails: SystemLanguageModelGuardrails = SystemLanguageModelGuardrails.DEFAULT) -> None:
        self.guardrails = guardrails

    def is_available(self) -> tuple[bool, SystemLanguageModelUnavailableReason | None]:
        return self.unavailable is None, self.unavailable


@dataclass
class SamplingMode:
    mode: str
    top: int | None = None
    probability_threshold: float | None = None
    seed: int | None = None

    @classmethod
    def greedy(cls) -> SamplingMode:
        return cls("greedy")

    @classmethod
    def random(
        cls, top: int | None = None, probability_threshold: float | None = None, seed: int | None = None
    ) -> SamplingMode:
        if top is not None and probability_threshold is not None:
            raise ValueError("Cannot specify both 'top' and 'probability_threshold'.")
        return cls("random", top, probability_threshold, seed)


@dataclass
class GenerationOptions:
    sampling: SamplingMode | None = None
    temperature: float | None = None
    maximum_response_tokens: int | None = None


class Transcript:
    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    @classmethod
    async def from_dict(cls, content: dict[str, Any]) -> Transcript:
        for entry in content["transcript"]["entries"]:
            assert entry["role"] in ("instructions", "user", "response")
            assert {"id", "contents"} <= entry.keys()
        return cls(content)


@dataclass
class LanguageModelSession:
    """``script`` are the texts and errors that the next sessions stream; ``made`` all sessions."""

    instructions: str | None = None
    model: SystemLanguageModel | None = None
    transcript: Transcript | None = None
    prompt: str = ""
    options: GenerationOptions | None = None
    closed: bool = False
    script: ClassVar[list[str | Exception | asyncio.Event]] = []
    made: ClassVar[list[LanguageModelSession]] = []
    _: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.made.append(self)

    @classmethod
    def from_transcript(cls, transcript: Transcript, model: SystemLanguageModel) -> LanguageModelSession:
        return cls(model=model, transcript=transcript)

    async def stream_response(self, prompt: str, options: GenerationOptions | None = None) -> AsyncIterator[str]:
        self.prompt, self.options = prompt, options
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    yield step
        finally:
            self.closed = True
