"""Transcripts of the engines that hear: the form of a request, and the events of the answer.

The events are OpenAI's: a ``transcript.text.delta`` per segment, then ``transcript.text.done``, which has all
fields of verbose_json. Ours are ``progress`` of a delta (the seconds that were heard, and those of the whole file
or null), ``segment`` of a delta where times of words are asked for (its times, text and words), and of the end
``language_probability`` and, of a translation, ``source_language``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from contextlib import aclosing

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from backends.wire.audio import MAX_TERMS, TranscriptionRequest
from backends.workers.program.app import dropped, invalid_request, sse_event, stream_response
from backends.workers.program.threads import CancelSignal, ThreadRunner
from catalog.errors import InvalidRequest, UnsupportedMediaType
from catalog.types import Json

_LISTS = (
    *("timestamp_granularities", "keywords", "languages"),
    *("known_speaker_names", "known_speaker_references"),
)


async def read_form(http: Request) -> TranscriptionRequest:
    """Read the multipart form of a transcription, or by its path a translation.

    Raises InvalidRequest, UnsupportedMediaType.
    """
    if not http.headers.get("content-type", "").startswith("multipart/form-data"):
        raise UnsupportedMediaType("A transcription is asked for with multipart/form-data.")
    fields: Json = {"translate": http.url.path.endswith("/translations")}
    listed: dict[str, list[str]] = {name: [] for name in _LISTS}
    async with http.form(max_files=1, max_fields=64 + MAX_TERMS) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                fields[name] = await value.read()
                fields["filename"] = value.filename or "audio"
            elif name.removesuffix("[]") in listed:
                listed[name.removesuffix("[]")].append(value)
            else:
                fields[name.removesuffix("[]")] = value
    fields |= {name: tuple(values) for name, values in listed.items() if values}
    if not isinstance(fields.get("file"), bytes):
        raise InvalidRequest("The form has no file.", param="file")
    try:
        return TranscriptionRequest.model_validate(fields, strict=False)
    except ValidationError as error:
        raise invalid_request(error) from None


async def answer_events(
    http: Request,
    runner: ThreadRunner,
    produce: Callable[[CancelSignal], Generator[Json, None, None]],
    *,
    unused: Iterable[str],
) -> Response:
    """Answer with the events of ``produce``, which runs in a thread of ``runner`` until the caller leaves.

    ``unused`` are the parameters without effect.
    """

    async def events() -> AsyncGenerator[bytes, None]:
        async with aclosing(runner.stream(produce)) as bodies:
            async for body in bodies:
                yield sse_event(body)

    return await stream_response(http, events(), media_type="text/event-stream", headers=dropped(unused))


class Transcript:
    """The transcript so far of a file of ``whole`` seconds (``None``: it is not known).

    ``duration`` are the seconds of the pieces that are finished. ``language`` is that of the speech with its
    ``probability``, where it was detected; ``guess`` has both of the likeliest one where none was sure.
    """

    def __init__(self, request: TranscriptionRequest, *, whole: float | None) -> None:
        self.with_words = "word" in request.timestamp_granularities
        self.text = ""
        self.duration = 0.0
        self.language: str | None = None
        self.probability: float | None = None
        self.guess: tuple[str | None, float | None] = (None, None)
        self.segments: list[Json] = []
        self.words: list[Json] = []
        self._task = "translate" if request.translate else "transcribe"
        self._whole = whole
        self._told = 0
        self._heard = 0.0
        self._spoke = True

    def begin_piece(self) -> Iterator[Json]:
        """Begin the next piece, with an event of no text if the last had none: hours of silence show progress."""
        if not self._spoke:
            yield self.delta("")
        self._spoke = False

    def add(self, text: str, segment: Json, until: float) -> Json:
        """Add a segment, which ends ``until`` seconds after the beginning of the piece; returns its event."""
        self._spoke = True
        delta = text if self.text else text.lstrip()
        self.text += delta
        self.segments.append(segment)
        event = self.delta(delta, until)
        if self.with_words:
            told, self._told = self.words[self._told :], len(self.words)
            times = {name: segment[name] for name in ("start", "end", "text")}
            event["segment"] = {**times, "words": told}
        return event

    def delta(self, text: str, until: float = 0.0) -> Json:
        """The event of further text, perhaps of none.

        The seconds never decrease: a last segment may claim to end after its piece.
        """
        self._heard = max(self._heard, self.duration + until)
        heard = self._heard if self._whole is None else min(self._heard, self._whole)
        whole = None if self._whole is None else round(self._whole, 3)
        progress = {"seconds": round(heard, 3), "of": whole}
        return {"type": "transcript.text.delta", "delta": text, "progress": progress}

    def done(self) -> Json:
        """The event of the whole transcript. A translation's language is that of its text, English."""
        language, sure = (self.language, self.probability) if self.language is not None else self.guess
        done: Json = {
            "type": "transcript.text.done",
            "text": self.text,
            "task": self._task,
            "language": language,
            "duration": round(self.duration, 3),
            "segments": self.segments,
            "usage": {"type": "duration", "seconds": round(self.duration, 3)},
        }
        if self._task == "translate":
            done |= {"language": "en", "source_language": language}
        if sure is not None:
            done["language_probability"] = round(sure, 4)
        return {**done, "words": self.words} if self.with_words else done
