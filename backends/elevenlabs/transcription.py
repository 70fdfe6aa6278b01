"""Translates transcriptions to and from ElevenLabs' speech-to-text (Scribe).

Source: ElevenLabs' API reference and SDK types.
"""

from __future__ import annotations

from collections.abc import Iterator

from backends.base import Upstream
from backends.http.multipart import FormField, FormFile
from backends.translation import Dropped
from backends.wire.audio import TranscriptionRequest
from catalog.errors import CapabilityMismatch
from catalog.types import Json

SENTENCE_ENDS = (".", "?", "!", "…", "。", "？", "！", "؟", "।")  # noqa: RUF001  full-width marks are intended
LONG_PAUSE = 1.0
"""Seconds of silence that end a segment within a sentence."""

_ISO_639_1 = {
    "eng": "en",
    "deu": "de",
    "ger": "de",
    "fra": "fr",
    "fre": "fr",
    "spa": "es",
    "por": "pt",
    "ita": "it",
    "nld": "nl",
    "dut": "nl",
    "pol": "pl",
    "rus": "ru",
    "ukr": "uk",
    "ces": "cs",
    "cze": "cs",
    "slk": "sk",
    "swe": "sv",
    "dan": "da",
    "nor": "no",
    "nob": "no",
    "fin": "fi",
    "hun": "hu",
    "ron": "ro",
    "rum": "ro",
    "bul": "bg",
    "ell": "el",
    "gre": "el",
    "tur": "tr",
    "ara": "ar",
    "heb": "he",
    "fas": "fa",
    "per": "fa",
    "hin": "hi",
    "ben": "bn",
    "urd": "ur",
    "tam": "ta",
    "tel": "te",
    "mar": "mr",
    "guj": "gu",
    "pan": "pa",
    "zho": "zh",
    "chi": "zh",
    "cmn": "zh",
    "jpn": "ja",
    "kor": "ko",
    "vie": "vi",
    "tha": "th",
    "ind": "id",
    "msa": "ms",
    "may": "ms",
    "fil": "tl",
    "hrv": "hr",
    "srp": "sr",
    "slv": "sl",
    "lit": "lt",
    "lav": "lv",
    "est": "et",
    "isl": "is",
    "ice": "is",
    "cat": "ca",
    "glg": "gl",
    "eus": "eu",
    "afr": "af",
    "swa": "sw",
}
"""Two-letter codes, as in OpenAI's API, of ElevenLabs' three-letter ones; others stay as they are."""


def translate(
    request: TranscriptionRequest, upstream: Upstream
) -> tuple[list[FormField], list[FormFile], tuple[str, ...]]:
    """``(fields, files, names of the dropped parameters)`` of the form.

    Raises :class:`CapabilityMismatch` for a translation, which Scribe cannot make.
    """
    if request.translate:
        raise CapabilityMismatch("ElevenLabs transcribes speech; it does not translate it.", param="model")
    dropped = Dropped()
    fields = [
        ("model_id", upstream.model),
        ("timestamps_granularity", "word"),
        ("tag_audio_events", "false"),
    ]
    if request.language is not None:
        fields.append(("language_code", request.language.split("-")[0].lower()))
    if request.temperature is not None:
        fields.append(("temperature", str(request.temperature)))
    if request.response_format == "diarized_json":
        fields.append(("diarize", "true"))
    if request.prompt:
        dropped.add("prompt")
    if request.vad_filter is not None:
        dropped.add("vad_filter")
    dropped.add(*(name for name in request.model_extra or () if name not in ("routing", "user")))
    files = [("file", (request.filename or "audio", request.file, "application/octet-stream"))]
    return fields, files, dropped.as_tuple()


def events(answer: Json, request: TranscriptionRequest) -> Iterator[Json]:
    """``transcript.text.delta`` and ``transcript.text.done`` of a whole answer."""
    text = answer["text"]
    words = [word for word in answer.get("words") or () if word.get("type") == "word" and "start" in word]
    code = str(answer.get("language_code") or "")
    duration = answer.get("audio_duration_secs")
    if duration is None:
        duration = max((word["end"] for word in words), default=0.0)
    if text:
        yield {"type": "transcript.text.delta", "delta": text}
    done: Json = {
        "type": "transcript.text.done",
        "text": text,
        "language": _ISO_639_1.get(code, code),
        "duration": duration,
        "segments": list(_segments(answer.get("words") or [])),
    }
    if "word" in request.timestamp_granularities:
        done["words"] = [{"word": word["text"], "start": word["start"], "end": word["end"]} for word in words]
    yield done


def _segments(pieces: list[Json]) -> Iterator[Json]:
    """Segments, which end with a sentence, at a long pause, or where another speaker begins."""
    held: list[Json] = []
    number = 0
    for piece in pieces:
        spoken = piece.get("type") != "spacing"
        if held and spoken and _parts(held, piece):
            yield _segment(number, held)
            number, held = number + 1, []
        held.append(piece)
    if any(piece.get("type") != "spacing" for piece in held):
        yield _segment(number, held)


def _parts(held: list[Json], piece: Json) -> bool:
    last = next((one for one in reversed(held) if one.get("type") != "spacing"), None)
    if last is None:
        return False
    pause = (piece.get("start") or 0.0) - (last.get("end") or 0.0)
    return (
        last["text"].rstrip("\"'”»)").endswith(SENTENCE_ENDS)
        or pause >= LONG_PAUSE
        or piece.get("speaker_id") != last.get("speaker_id")
    )


def _segment(number: int, pieces: list[Json]) -> Json:
    spoken = [piece for piece in pieces if piece.get("type") != "spacing"]
    scores = [piece["logprob"] for piece in spoken if isinstance(piece.get("logprob"), int | float)]
    segment: Json = {
        "id": number,
        "start": spoken[0].get("start") or 0.0,
        "end": spoken[-1].get("end") or 0.0,
        "text": "".join(piece["text"] for piece in pieces).strip(),
    }
    if scores:
        segment["avg_logprob"] = sum(scores) / len(scores)
    if spoken[0].get("speaker_id") is not None:
        segment["speaker"] = spoken[0]["speaker_id"]
    return segment
