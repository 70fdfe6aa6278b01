"""Translates transcriptions to and from ElevenLabs' speech-to-text (Scribe).

Source: ElevenLabs' API reference and SDK types.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from backends.base import Upstream
from backends.http.multipart import FormField, FormFile
from backends.translation import Dropped
from backends.wire.audio import MAX_TERMS, TranscriptionRequest
from catalog.errors import CapabilityMismatch, UnsupportedParameter
from catalog.names.languages import two_letters
from catalog.types import Json

SENTENCE_ENDS = (".", "?", "!", "…", "。", "？", "！", "؟", "।")  # noqa: RUF001  full-width marks are intended
LONG_PAUSE = 1.0
"""Seconds of silence that end a segment within a sentence."""


_FLAGS = ("tag_audio_events", "diarize", "no_verbatim", "use_speaker_library", "detect_speaker_roles")
_PASSED = (
    *("num_speakers", "diarization_threshold", "seed", "numbers_format", "transcript_edit", "file_format"),
    *("entity_detection", "entity_redaction", "entity_redaction_mode", *_FLAGS),
)
"""Parameters of Scribe's own, as texts of the form."""
_REFUSED = {
    "use_multi_channel": "Send a file per channel.",
    "webhook": "The answer comes with the request.",
    "cloud_storage_url": "Send the file itself.",
    "source_url": "Send the file itself.",
    "additional_formats": "Ask with response_format for srt or vtt.",
}
_TERM = re.compile(r"[^<>{}\[\]\\]{1,50}")
_MOST_WORDS = 5


def translate(
    request: TranscriptionRequest, upstream: Upstream
) -> tuple[list[FormField], list[FormFile], tuple[str, ...]]:
    """``(fields, files, names of the dropped parameters)`` of the form.

    A ``prompt`` that lists terms, separated by commas or lines, becomes ``keyterms`` (ElevenLabs charges 20% more
    for them); any other is dropped. Raises :class:`CapabilityMismatch` for a translation, which Scribe cannot
    make, and :class:`UnsupportedParameter` for keywords that it does not take, samples of known speakers, and
    parameters of its own that would change the shape of the answer.
    """
    if request.translate:
        raise CapabilityMismatch("ElevenLabs transcribes speech; it does not translate it.", param="model")
    extra = request.model_extra or {}
    for name, advice in _REFUSED.items():
        if str(extra.get(name, "false")).lower() not in ("false", "0", ""):
            raise UnsupportedParameter(f"'{name}' cannot be used here. {advice}", param=name)
    if request.known_speaker_references:
        raise UnsupportedParameter(
            "Scribe does not take samples of known speakers; register them in ElevenLabs' speaker library and ask "
            "with 'use_speaker_library'.",
            param="known_speaker_references",
        )
    dropped = Dropped()
    fields = [("model_id", upstream.model), ("timestamps_granularity", "word")]
    fields += _languages(request, upstream, dropped)
    if request.temperature is not None:
        fields.append(("temperature", str(request.temperature)))
    own = {"tag_audio_events": "false", **{name: extra[name] for name in _PASSED if extra.get(name) is not None}}
    if request.response_format == "diarized_json":
        own["diarize"] = "true"
        if request.known_speaker_names:
            own.setdefault("num_speakers", len(request.known_speaker_names))
            dropped.add("known_speaker_names")  # without samples of their voices, names cannot be told apart
    elif request.known_speaker_names:
        dropped.add("known_speaker_names")
    fields += ((name, str(value)) for name, value in own.items())
    fields += (("keyterms", term) for term in _terms(request, dropped))
    dropped.add(*(name for name in ("vad_filter", "chunking_strategy", "include") if getattr(request, name)))
    silent = {*_PASSED, *_REFUSED, "routing", "user", "strict", "timings", "enable_logging"}
    dropped.add(*(name for name in extra if name not in silent))
    files = [("file", (request.filename or "audio", request.file, "application/octet-stream"))]
    return fields, files, dropped.as_tuple()


def query_of(request: TranscriptionRequest) -> dict[str, str]:
    """The query of the call: whether ElevenLabs may keep a record of it."""
    logging = (request.model_extra or {}).get("enable_logging")
    return {} if logging is None else {"enable_logging": str(logging).lower()}


def _languages(request: TranscriptionRequest, upstream: Upstream, dropped: Dropped) -> list[FormField]:
    """The language of the audio, and for the third Scribe those that may be in it, too."""
    named = (*((request.language,) if request.language is not None else ()), *request.languages)
    codes = list(dict.fromkeys(code.split("-")[0].lower() for code in named))
    if len(codes) > 1 and "scribe_v3" not in upstream.model:
        dropped.add("languages")  # one of several would be taken for the only one
        codes = codes[:1] if request.language is not None else []
    names = ("language_code", *["secondary_language_codes"] * len(codes))
    return list(zip(names, codes, strict=False))


def _terms(request: TranscriptionRequest, dropped: Dropped) -> list[str]:
    """``keywords``, and the terms of a prompt that is a list of them. Raises UnsupportedParameter."""
    for term in request.keywords:
        if not _is_term(term):
            raise UnsupportedParameter(
                f"Scribe takes keywords of at most 50 characters and {_MOST_WORDS} words, without brackets and "
                f"backslashes; {term!r} is not one.",
                param="keywords",
            )
    terms = list(request.keywords)
    if request.prompt:
        listed = [part.strip(" .") for part in re.split(r"[,;\n]", request.prompt) if part.strip(" .")]
        if listed and all(map(_is_term, listed)) and len(terms) + len(listed) <= MAX_TERMS:
            terms += listed
        else:
            dropped.add("prompt")
    return list(dict.fromkeys(terms))


def _is_term(text: str) -> bool:
    return _TERM.fullmatch(text) is not None and 0 < len(text.split()) <= _MOST_WORDS


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
    segments = list(_segments(answer.get("words") or [], _Labels()))
    if request.stream and request.response_format == "diarized_json":
        for segment in segments:
            told: Json = {name: segment[name] for name in ("start", "end", "text", "speaker") if name in segment}
            yield {"type": "transcript.text.segment", "id": f"seg_{segment['id']}", **told}
    done: Json = {
        "type": "transcript.text.done",
        "text": text,
        "language": two_letters(code),
        "duration": duration,
        "segments": segments,
        **{name: answer[name] for name in _ADDED if answer.get(name) is not None},
    }
    if "word" in request.timestamp_granularities:
        done["words"] = [{"word": word["text"], "start": word["start"], "end": word["end"]} for word in words]
    yield done


_ADDED = ("entities", "edited_transcript", "language_probability")
"""Parts of an answer that go on as they are: what Scribe's own parameters ask for, and how sure it is."""


class _Labels:
    """OpenAI's labels of speakers: "A", "B", ... in the order in which they speak; roles and names stay."""

    def __init__(self) -> None:
        self._labels: dict[str, str] = {}

    def of(self, speaker: str) -> str:
        if re.fullmatch(r"speaker_\d+", speaker) is None:
            return speaker
        position = len(self._labels)
        letters = chr(ord("A") + position % 26) * (1 + position // 26)
        return self._labels.setdefault(speaker, letters)


def _segments(pieces: list[Json], labels: _Labels) -> Iterator[Json]:
    """Segments, which end with a sentence, at a long pause, or where another speaker begins."""
    held: list[Json] = []
    number = 0
    for piece in pieces:
        spoken = piece.get("type") != "spacing"
        if held and spoken and _parts(held, piece):
            yield _segment(number, held, labels)
            number, held = number + 1, []
        held.append(piece)
    if any(piece.get("type") != "spacing" for piece in held):
        yield _segment(number, held, labels)


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


def _segment(number: int, pieces: list[Json], labels: _Labels) -> Json:
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
        segment["speaker"] = labels.of(str(spoken[0]["speaker_id"]))
    return segment
