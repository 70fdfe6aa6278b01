"""Formats a transcript in each of OpenAI's formats.

``done`` is the ``transcript.text.done`` event of a backend: ``text``, ``language``, ``duration`` in seconds,
``segments`` and ``words`` with ``start`` and ``end`` in seconds. Sources: OpenAI's API reference; WebVTT (W3C);
SubRip's format as players read it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from backends.wire.audio import TranscriptFormat, TranscriptionRequest
from catalog.errors import UnsupportedParameter
from catalog.types import Json

MEDIA: dict[TranscriptFormat, str] = {
    "json": "application/json",
    "verbose_json": "application/json",
    "diarized_json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}


def plain_json(done: Json) -> Json:
    """The transcript as ``{"text", "usage"}``."""
    return {"text": done.get("text", ""), "usage": _usage(done), **_added(done)}


def verbose_json(done: Json, request: TranscriptionRequest) -> Json:
    """The transcript with language, duration and the granularities asked for."""
    answer: Json = {
        "task": "translate" if request.translate else "transcribe",
        "language": done.get("language"),
        "duration": done.get("duration"),
        "text": done.get("text", ""),
    }
    answer |= {name: done[name] for name in ("source_language", "language_probability") if name in done}
    if "segment" in request.timestamp_granularities:
        answer["segments"] = done.get("segments") or []
    if "word" in request.timestamp_granularities:
        answer["words"] = done.get("words") or []
    answer["usage"] = _usage(done)
    return answer | _added(done)


def diarized_json(done: Json) -> Json:
    """The segments with their speakers. Raises UnsupportedParameter if the model does not tell them apart."""
    return {
        "task": "transcribe",
        "duration": done.get("duration") or 0.0,
        "text": done.get("text", ""),
        "segments": spoken_segments(done),
        "usage": _usage(done),
        **_added(done),
    }


def spoken_segments(done: Json) -> list[Json]:
    """OpenAI's ``transcript.text.segment`` objects. Raises UnsupportedParameter for segments without speakers."""
    segments = done.get("segments") or []
    if any("speaker" not in segment for segment in segments):
        raise UnsupportedParameter("This model does not tell speakers apart.", param="response_format")
    return [
        {
            "type": "transcript.text.segment",
            "id": segment["id"] if isinstance(segment.get("id"), str) else f"seg_{number}",
            **{name: segment[name] for name in ("start", "end", "text", "speaker")},
        }
        for number, segment in enumerate(segments)
    ]


def _added(done: Json) -> Json:
    """The further results that a provider's own parameters asked for."""
    return {name: done[name] for name in ("entities", "edited_transcript") if name in done}


def srt(segments: Iterable[Json]) -> str:
    """SubRip: numbered cues, ``00:00:01,500``."""
    cues = (
        f"{number}\n{_stamp(cue, ',')}\n{_cue_text(cue['text'])}\n"
        for number, cue in enumerate(_with_text(segments), start=1)
    )
    return "\n".join(cues)


def vtt(segments: Iterable[Json]) -> str:
    """WebVTT: a header and cues, ``00:00:01.500``; ``-->`` and markup in the text are escaped."""
    cues = (f"{_stamp(cue, '.')}\n{_escape(_cue_text(cue['text']))}\n" for cue in _with_text(segments))
    return "WEBVTT\n\n" + "\n".join(cues)


def clock(seconds: float, separator: str) -> str:
    """A time as ``HH:MM:SS`` and milliseconds; hours may exceed 99."""
    milliseconds = max(0, round(seconds * 1000))
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    whole, rest = divmod(rest, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{separator}{rest:03d}"


def _with_text(segments: Iterable[Json]) -> Iterable[Json]:
    return (segment for segment in segments if str(segment.get("text", "")).strip())


def _stamp(segment: Json, separator: str) -> str:
    start = float(segment.get("start") or 0)
    end = max(start, float(segment.get("end") or start))
    return f"{clock(start, separator)} --> {clock(end, separator)}"


def _cue_text(text: Any) -> str:
    # A blank line would end the cue.
    return "\n".join(line for line in str(text).strip().splitlines() if line.strip())


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _usage(done: Json) -> Json | None:
    usage: Json | None = done.get("usage")
    if usage is not None:
        return usage
    duration = done.get("duration")
    return None if duration is None else {"type": "duration", "seconds": duration}
