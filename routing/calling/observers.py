"""Observers of an answer as it passes: its begin, usage and end.

:class:`ChunkObserver` and :class:`ObjectObserver` also write the catalogue's name of the model into each item,
the one change made to an answer; events and audio carry no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from routing.outcomes import Usage


class AnswerObserver(Protocol):
    """Observes one attempt. ``begun`` becomes true with the first item that carries content."""

    begun: bool
    usage: Usage
    finish_reason: str | None

    def see(self, item: Any) -> None:
        """Record one item."""
        ...


class ChunkObserver:
    """Observes chat and text completion chunks. A chunk with only a role does not begin the answer."""

    def __init__(self, model: str) -> None:
        self.begun = False
        self.usage = Usage(known=False)
        self.finish_reason: str | None = None
        self._model = model

    def see(self, item: dict[str, Any]) -> None:
        item["model"] = self._model
        usage = item.get("usage")
        if usage is not None:
            self.usage = token_usage(usage)
        for choice in item.get("choices") or ():
            reason = choice.get("finish_reason")
            if reason is not None:
                self.finish_reason = reason
                self.begun = True
            elif not self.begun:
                self.begun = _carries_content(choice)


def _carries_content(choice: Mapping[str, Any]) -> bool:
    delta = choice.get("delta")
    if delta is None:
        return bool(choice.get("text"))
    return any(value for key, value in delta.items() if key != "role")


class ObjectObserver:
    """Observes an answer that is one object: embeddings, rerank (a unit is one search), tokens."""

    def __init__(self, model: str, units: float = 0.0) -> None:
        self.begun = False
        self.usage = Usage(known=False)
        self.finish_reason: str | None = None
        self._model = model
        self._units = units

    def see(self, item: dict[str, Any]) -> None:
        item["model"] = self._model
        self.begun = True
        self.finish_reason = "stop"
        usage = item.get("usage")
        if usage is not None or self._units:
            self.usage = replace(token_usage(usage or {}), units=self._units)


class TranscriptObserver:
    """Observes transcription events; an empty delta does not begin the answer. Units are minutes of audio."""

    def __init__(self) -> None:
        self.begun = False
        self.usage = Usage(known=False)
        self.finish_reason: str | None = None

    def see(self, item: dict[str, Any]) -> None:
        if item.get("type") == "transcript.text.done":
            self.begun = True
            self.finish_reason = "stop"
            usage = token_usage(item.get("usage") or {})
            minutes = float(item.get("duration") or 0.0) / 60
            self.usage = Usage(input=usage.input, output=usage.output, units=minutes)
        elif item.get("delta"):
            self.begun = True


class AudioObserver:
    """Observes bytes of speech. Units are the characters spoken, known from the facts."""

    def __init__(self, characters: float) -> None:
        self.begun = False
        self.usage = Usage(units=characters)
        self.finish_reason: str | None = None

    def see(self, item: bytes) -> None:
        self.begun = self.begun or bool(item)


class ImageObserver:
    """Observes image events. Units are pictures."""

    def __init__(self) -> None:
        self.begun = False
        self.usage = Usage(known=False)
        self.finish_reason: str | None = None
        self._images = 0

    def see(self, item: dict[str, Any]) -> None:
        self.begun = True
        if item.get("type", "").endswith(".completed"):
            self._images += 1
            self.finish_reason = "stop"
            usage = token_usage(item.get("usage") or {})
            self.usage = Usage(input=usage.input, output=usage.output, units=self._images)


def token_usage(usage: Mapping[str, Any]) -> Usage:
    """OpenAI's usage object in either of its spellings (``prompt_tokens`` or ``input_tokens``)."""
    prompt = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    output = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    return Usage(
        input=int(usage.get("prompt_tokens") or usage.get("input_tokens") or 0),
        output=int(usage.get("completion_tokens") or usage.get("output_tokens") or 0),
        cached=int(prompt.get("cached_tokens") or 0),
        reasoning=int(output.get("reasoning_tokens") or 0),
        cache_write=int(prompt.get("cache_write_tokens") or 0),
    )
