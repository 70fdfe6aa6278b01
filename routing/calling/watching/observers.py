"""Observers of an answer as it passes: its begin, usage and end.

:class:`ChunkObserver` and :class:`ObjectObserver` also write the catalogue's name of the model into each item,
the one change made to an answer; events and audio carry no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeGuard

from backends.wire.video.events import ACCEPTED, COMPLETED, VideoItem
from routing.accounts.reservations import characters
from routing.calling.watching.usage import MOST_TOKENS, audio_seconds, token_usage
from routing.outcomes import Usage, UsageDetails


class AnswerObserver(Protocol):
    """Observes one attempt. ``begun`` becomes true with the first item that carries content."""

    begun: bool
    usage: Usage
    finish_reason: str | None

    @property
    def streamed(self) -> int:
        """Estimated tokens of the answer so far, for one that is cut before its usage came."""
        ...

    def see(self, item: Any) -> None:
        """Record one item."""
        ...


class ChunkObserver:
    """Observes chat and text completion chunks. A chunk with only a role does not begin the answer."""

    def __init__(self, model: str, most_prompt: int = MOST_TOKENS) -> None:
        """``most_prompt`` is the most prompt tokens that are believed."""
        self.begun = False
        self.usage = Usage(known=False)
        self.finish_reason: str | None = None
        self.choices = 0
        """The choices that have ended."""
        self.tier: object = None
        """The tier of service that the answer names, the standard one included."""
        self._model = model
        self._most_prompt = most_prompt
        self._pieces = 0
        self._letters = 0

    @property
    def streamed(self) -> int:
        """A piece is a token at least; servers that join tokens are told by the length of their text."""
        return max(self._pieces, self._letters // _LETTERS)

    def see(self, item: dict[str, Any]) -> None:
        item["model"] = self._model
        if item.get("usage") is not None:
            self.tier = item.get("service_tier")
            self.usage = _regular(item, self._most_prompt)
        for choice in item.get("choices") or ():
            reason = choice.get("finish_reason")
            if reason is not None:
                self.choices += 1
                self.finish_reason = reason
                self.begun = True
            elif self.begun or _carries_content(choice):
                self.begun = True
                self._pieces += 1
                delta = choice.get("delta") or choice
                text = delta.get("content") or choice.get("text")
                self._letters += len(text) if text else characters(delta)


def ends_of(item: Any) -> int:
    """The choices that end with this chunk."""
    return sum(choice.get("finish_reason") is not None for choice in item.get("choices") or ())


def _carries_content(choice: Mapping[str, Any]) -> bool:
    delta = choice.get("delta")
    if delta is None:
        return bool(choice.get("text"))
    return any(value for key, value in delta.items() if key != "role")


_LETTERS = 4
"""Characters of an English text's token, about."""


class ObjectObserver:
    """Observes an answer that is one object: embeddings, rerank (a unit is one search), tokens."""

    streamed = 0

    def __init__(self, model: str, units: float = 0.0, most_prompt: int = MOST_TOKENS) -> None:
        """``most_prompt`` is the most prompt tokens that are believed."""
        self.begun = False
        self.usage = Usage(known=False)
        self.finish_reason: str | None = None
        self._model = model
        self._units = units
        self._most_prompt = most_prompt

    def see(self, item: dict[str, Any]) -> None:
        item["model"] = self._model
        self.begun = True
        self.finish_reason = "stop"
        if item.get("usage") is not None:
            usage = _believed(item, self._most_prompt)
            known = usage.known and bool(usage.input or usage.output or self._units)
            self.usage = replace(usage, units=self._units, known=known)
        elif self._units:
            self.usage = Usage(units=self._units)


class TranscriptObserver:
    """Observes transcription events; an empty delta does not begin the answer. Units are minutes of audio."""

    streamed = 0

    def __init__(self, guessed: float = math.inf) -> None:
        """``guessed`` are the minutes by the size of the file."""
        self._most = guessed * _TIMES_GUESSED + _MINUTE
        self.begun = False
        self.usage = Usage(known=False)
        self.finish_reason: str | None = None

    def see(self, item: dict[str, Any]) -> None:
        if item.get("type") == "transcript.text.done":
            self.begun = True
            self.finish_reason = "stop"
            self.usage = _of_transcript(item, self._most)
        elif item.get("delta"):
            self.begun = True


class AudioObserver:
    """Observes bytes of speech. Units are the characters spoken, known from the facts."""

    streamed = 0

    def __init__(self, characters: float) -> None:
        self.begun = False
        self.usage = Usage(units=characters)
        self.finish_reason: str | None = None

    def see(self, item: bytes) -> None:
        self.begun = self.begun or bool(item)


class ImageObserver:
    """Observes image events. Units are pictures, at most as many as were asked for; the last of these ends it."""

    streamed = 0

    def __init__(self, asked: float = 1.0) -> None:
        self.begun = False
        self.usage = Usage(known=False)
        self.finish_reason: str | None = None
        self._asked = asked
        self._images = 0

    def see(self, item: dict[str, Any]) -> None:
        self.begun = True
        if item.get("type", "").endswith(".completed"):
            self._images = int(min(self._images + 1, self._asked))
            if self._images >= self._asked:
                self.finish_reason = "stop"
            tokens = Usage() if item.get("usage") is None else self._read(item)
            self.usage = replace(tokens, units=self._images)

    def bill(self, told: dict[str, Any]) -> None:
        """Count the usage of a drawing of which the last part came to nothing."""
        self.usage = replace(self._read({"usage": told}), units=self._images)

    def _read(self, item: dict[str, Any]) -> Usage:
        usage = _drawn(_believed(item), item)
        if usage.output <= self._asked * _TOKENS_OF_PICTURE:
            return usage
        del item["usage"]
        return Usage(known=False)


class RealtimeObserver:
    """Observes the events of a realtime session's response, of which ``response.done`` has the usage.

    An event that is no response's, such as the first one of a session, costs nothing. From ``response.created`` on
    the answer may be billed: one that is cut short is told by the text and the sound that came of it.
    """

    def __init__(self) -> None:
        self.begun = False
        self.usage = Usage()
        self.finish_reason: str | None = None
        self._letters = 0
        self._sound = 0
        self._bytes_per_token = _SOUND_TOKENS["audio/pcm"]

    @property
    def streamed(self) -> int:
        return 0 if self.usage.known else 1 + self._letters // _LETTERS + self._sound // self._bytes_per_token

    def see(self, item: dict[str, Any]) -> None:
        self.begun = True
        kind = item.get("type", "")
        if kind == "response.created":
            self.finish_reason, self.usage = None, Usage(known=False)
            self._note_format(item.get("response"))
        elif kind == "response.done":
            self.finish_reason = "stop"
            response = item.get("response")
            told = response.get("usage") if isinstance(response, dict) else None
            usage = (
                {**told, "output_tokens_details": told.get("output_token_details")} if _is_object(told) else None
            )
            self.usage = (None if usage is None else token_usage(usage)) or Usage(known=False)
        elif isinstance(delta := item.get("delta"), str):
            if kind in _SOUND_DELTAS:
                self._sound += len(delta) * 3 // 4
            else:
                self._letters += len(delta)
        elif self.usage.known:
            self.finish_reason = "stop"

    def _note_format(self, response: Any) -> None:
        """Note how many bytes of the response's sound are a token."""
        for name in ("audio", "output", "format", "type"):
            response = response.get(name) if isinstance(response, dict) else None
        self._bytes_per_token = _SOUND_TOKENS.get(response if isinstance(response, str) else "", 2400)


_SOUND_DELTAS = frozenset({"response.output_audio.delta", "response.audio.delta"})
_SOUND_TOKENS: Mapping[str, int] = {"audio/pcm": 2400, "audio/pcmu": 400, "audio/pcma": 400}
"""Bytes of 50 ms, which are a token of an answer. Source: OpenAI's guide, "Realtime costs"."""


def _is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


class VideoObserver:
    """Observes a video in the making. Units are seconds of video; the answer begins with its first progress.

    A server that has accepted the work, and goes on without a connection, has begun, too.
    """

    streamed = 0

    def __init__(self, asked: float, resolution: tuple[str, ...] = ()) -> None:
        """``asked`` are seconds, which count where the server tells none; ``resolution`` is the tier."""
        self.tier = resolution
        self.begun = False
        self.usage = Usage(known=False)
        self.finish_reason: str | None = None
        self._asked = asked

    def see(self, item: VideoItem) -> None:
        if isinstance(item, bytes):
            self.begun = self.begun or bool(item)
            return
        kind = item["type"]
        self.begun = self.begun or kind == ACCEPTED or bool(item.get("progress"))
        if kind == COMPLETED:
            self.begun = True
            self.finish_reason = "stop"
            told = item.get("seconds")
            made = self._asked if told is None else float(told)
            details = UsageDetails(tiers=self.tier) if self.tier else None
            if 0 <= made <= self._asked + _LONGER:
                self.usage = Usage(units=made, details=details)


_TOKENS_OF_PICTURE = 32_768
"""Tokens of an answer with a picture, and of thoughts about it, are no more (Google's image models)."""
_LONGER = 10.0
"""Seconds by which a video is longer than was asked for, at a server that makes some lengths alone."""
_TIMES_GUESSED, _MINUTE = 20, 1.0
"""Sound has at most this multiple of the minutes at 64 kbit/s, and a short one is charged as a whole minute."""


def _drawn(usage: Usage, item: dict[str, Any]) -> Usage:
    """The tokens of an answer of pictures, which are of the pictures unless the answer says otherwise."""
    details = usage.details or UsageDetails()
    if not usage.output or details.image_output or _has_words(item):
        return usage
    return replace(usage, details=replace(details, image_output=usage.output))


def _regular(chunk: dict[str, Any], most_prompt: int) -> Usage:
    """The usage of a chunk, which gets OpenAI's names and whole numbers in it.

    Zeros for all are a placeholder of servers that do not count: they pass on, and the usage is unknown.
    """
    believed = _believed(chunk, most_prompt)
    if not believed.known:
        return believed
    usage = chunk["usage"]
    usage["prompt_tokens"], usage["completion_tokens"] = believed.input, believed.output
    if type(usage.get("total_tokens")) is not int:
        usage["total_tokens"] = believed.input + believed.output
    return believed if believed.input or believed.output else Usage(known=False)


def _has_words(item: dict[str, Any]) -> bool:
    told = item["usage"].get("output_tokens_details")
    return isinstance(told, dict) and bool(told.get("text_tokens"))


def _of_transcript(done: dict[str, Any], most: float) -> Usage:
    """The tokens and minutes of a transcript: it has either, or both; one with neither has no known usage.

    More than ``most`` minutes are not believed.
    """
    usage = done.get("usage")
    seconds = done.get("duration")
    of_time = False
    if isinstance(usage, dict) and usage.get("type") == "duration":
        of_time = True
        seconds = usage.get("seconds") if seconds is None else seconds
    tokens = Usage(known=seconds is not None) if usage is None or of_time else _believed(done)
    if seconds is None:
        return replace(tokens, known=tokens.known and bool(tokens.input or tokens.output))
    known = audio_seconds(seconds)
    if known is None or known > most * 60:
        done.pop("duration", None)
        if of_time:
            del done["usage"]
        return Usage(known=False)
    return replace(tokens, units=known / 60)


def _believed(item: dict[str, Any], most_prompt: int = MOST_TOKENS) -> Usage:
    """The usage of an item, in which it is made regular. One that cannot be true is unknown, and taken out."""
    usage = token_usage(item.get("usage"), item.get("service_tier"), most_prompt)
    if usage is None:
        item.pop("usage", None)
        return Usage(known=False)
    told = item["usage"]
    if type(told.get("total_tokens")) is not int:
        told["total_tokens"] = usage.input + usage.output
    if told.get("prompt_tokens") is None and told.get("input_tokens") is None:
        told["prompt_tokens"] = usage.input
    for name in _DETAILS & told.keys():
        if told[name]:
            told[name] = {key: count for key, count in told[name].items() if type(count) is int}
    return usage


_DETAILS = frozenset(
    {"prompt_tokens_details", "completion_tokens_details", "input_tokens_details", "output_tokens_details"}
)
