"""Bodies of OpenAI's wire that differ from the caller's: multipart forms, documents as texts, a default voice."""

from __future__ import annotations

import base64

from backends.base import Upstream
from backends.http.multipart import FormField, FormFile
from backends.openai.pictures import left_out
from backends.openai.videos import unsent
from backends.parameters import ParameterTable, body_for, dropped_names, refuse_forbidden
from backends.voices import mapped, openai_voice
from backends.wire.audio import ClonedSpeech, SpeechRequest, TranscriptionRequest
from backends.wire.common import WireModel
from backends.wire.images import ImageEditRequest
from backends.wire.rerank import RerankRequest
from backends.wire.video.request import VideoRequest
from catalog.errors import InvalidRequest, RoundhouseError, UnsupportedParameter
from catalog.types import Json

_TIMED = frozenset({"verbose_json", "srt", "vtt"})
_SPOKEN = frozenset({"voice", "response_format"})
_HINTS = frozenset(
    {
        *("stability", "similarity_boost", "style", "use_speaker_boost", "clone_strength", "voice_settings"),
        *("previous_text", "next_text", "previous_request_ids", "next_request_ids", "seed", "use_pvc_as_ivc"),
        *("apply_text_normalization", "apply_language_text_normalization", "pronunciation_dictionary_locators"),
        *("audio_effects", "optimize_streaming_latency", "enable_logging"),
    }
)
"""ElevenLabs' parameters of speech."""
_PROTECTS = frozenset({"enable_logging", "entity_redaction"})
"""ElevenLabs' parameters about privacy: an answer of a server without them would be another than was asked for."""


def rerank_body(request: RerankRequest, upstream: Upstream, table: ParameterTable) -> Json:
    """The body with documents as texts. ``return_documents`` is left to the gateway, which has them."""
    body = body_for(request, upstream, table)
    body["documents"] = document_texts(request)
    body.pop("return_documents", None)
    return body


def document_texts(request: RerankRequest) -> list[str]:
    """The text of each document. Raises InvalidRequest for an object without one."""
    texts: list[str] = []
    for index, document in enumerate(request.documents):
        text = document if isinstance(document, str) else document.get("text")
        if not isinstance(text, str) or not text:
            raise InvalidRequest(f"Document {index} has no text.", param=f"documents[{index}]")
        texts.append(text)
    return texts


def speech_body(
    request: SpeechRequest,
    upstream: Upstream,
    table: ParameterTable,
    default_voice: str | None,
    *,
    timed: bool = False,
) -> Json:
    """The body of a request for raw audio, which the gateway frames as events where the caller wants them.

    ``timed``: the server may be asked for the times of what is spoken. Raises UnsupportedParameter for those where
    it may not, and for privacy that this wire cannot ask for.
    """
    if request.timestamp_granularities and not timed:
        raise UnsupportedParameter(
            f"'{upstream.model}' does not tell the times of what it speaks; Kokoro and ElevenLabs' models do.",
            param="timestamp_granularities",
        )
    _refuse_protection(request, upstream)
    body = body_for(request, upstream, table)
    body.pop("stream_format", None)
    body.setdefault("response_format", request.response_format)
    for name in _hints(request, table):
        del body[name]
    voice = spoken_voice(request, upstream, table)[0]
    if isinstance(request, ClonedSpeech):
        body["recording"] = base64.b64encode(request.recording).decode()
    if voice is None:
        voice = default_voice
    if voice is not None and voice != request.voice_name:
        body["voice"] = voice
    return body


def _hints(request: SpeechRequest, table: ParameterTable) -> tuple[str, ...]:
    """Names of what another provider's voice would be told: OpenAI refuses it, and speaks as well without."""
    return tuple(name for name in request.model_extra or () if table.voices and name in _HINTS)


def spoken_voice(request: SpeechRequest, upstream: Upstream, table: ParameterTable) -> tuple[str | None, bool]:
    """The voice to send, and whether it is only the nearest that the server has to the one asked for."""
    voice = mapped(request, upstream)
    own = voice is None or voice != request.voice or not table.voices
    if voice is None or own or voice.casefold() in table.voices:
        return voice, False
    nearest = openai_voice(voice)
    return (voice, False) if nearest is None else (nearest, True)


def of_this_model(error: RoundhouseError) -> RoundhouseError:
    """The error of a refused speech; another model may have the voice or the format, so that it can be asked."""
    if type(error) is not InvalidRequest or error.param not in _SPOKEN:
        return error
    other = UnsupportedParameter(error.message, param=error.param)
    other.code = error.code
    return other


def _refuse_protection(request: WireModel, upstream: Upstream) -> None:
    extra = request.model_extra or {}
    for name in sorted(_PROTECTS & extra.keys()):
        unlogged = str(extra[name]).lower() in ("false", "0")
        if name == "entity_redaction" or (unlogged and upstream.engine is None):  # this machine keeps no record
            raise UnsupportedParameter(f"'{upstream.model}' does not take '{name}'.", param=name)


def transcription_form(
    request: TranscriptionRequest, upstream: Upstream, table: ParameterTable, *, streamed: bool
) -> tuple[list[FormField], list[FormFile]]:
    """The multipart form. Formats with times are asked for as verbose_json and written by the gateway.

    Without ``streamed`` a stream is asked for only where the caller wants one and no times: OpenAI's older models
    cannot stream, and its newer ones have no verbose_json. Raises UnsupportedParameter for speakers where the
    server is a worker of this machine, which cannot tell them apart, and for a redacted transcript.
    """
    refuse_forbidden(request)
    _refuse_protection(request, upstream)
    diarized = request.response_format == "diarized_json"
    if diarized and upstream.engine is not None:
        raise UnsupportedParameter(
            f"'{upstream.model}' does not tell speakers apart. Pull 'resemblyzer', which does for it; Scribe and "
            "gpt-4o-transcribe-diarize do so themselves.",
            param="response_format",
        )
    timed = request.response_format in _TIMED or "word" in request.timestamp_granularities
    form: list[FormField] = [("model", upstream.model)]
    form.append(("response_format", "diarized_json" if diarized else "verbose_json" if timed else "json"))
    all_fields = streamed or not request.translate  # OpenAI's endpoint of translations takes fewer
    if timed and all_fields:
        form.extend(("timestamp_granularities[]", granularity) for granularity in request.timestamp_granularities)
    if streamed or (request.stream and not timed):
        form.append(("stream", "true"))
    if request.language is not None and all_fields:
        form.append(("language", request.language))
    if request.prompt is not None and "prompt" not in table.drops:
        form.append(("prompt", request.prompt))
    if request.temperature is not None and "temperature" not in table.drops:
        form.append(("temperature", repr(request.temperature)))
    if request.vad_filter is not None and "vad_filter" not in table.drops:
        form.append(("vad_filter", "true" if request.vad_filter else "false"))
    form.extend((f"{name}[]", value) for name in _LISTED - table.drops for value in getattr(request, name))
    if streamed:  # a worker of this machine names what it has no use for
        extra = request.model_extra or {}
        form.extend((name, str(extra[name])) for name in sorted(table.extras & extra.keys()))
    if request.chunking_strategy is not None and "chunking_strategy" not in table.drops:
        form.extend(_nested("chunking_strategy", request.chunking_strategy))
    return form, [("file", (request.filename, request.file, "application/octet-stream"))]


_LISTED = frozenset({"include", "keywords", "known_speaker_names", "known_speaker_references", "languages"})
"""Fields of the form that may have several values."""


def _nested(name: str, value: str | dict[str, str]) -> list[FormField]:
    """A field of the form whose value may be an object, written as OpenAI's SDKs do."""
    if isinstance(value, str):
        return [(name, value)]
    return [(f"{name}[{key}]", inner) for key, inner in value.items()]


def _transcription_dropped(
    request: TranscriptionRequest, table: ParameterTable, taken: frozenset[str]
) -> tuple[str, ...]:
    """The parameters that :func:`transcription_form` leaves out although the caller set them."""
    dropped: list[str] = []
    if request.vad_filter is not None and "vad_filter" in table.drops:
        dropped.append("vad_filter")
    others = {"chunking_strategy", "prompt", "temperature"}
    dropped += (name for name in sorted(table.drops & (_LISTED | others)) if getattr(request, name))
    if request.translate and request.language is not None:
        dropped.append("language")
    known = {"routing", "strict", "timings", *taken}
    dropped.extend(name for name in request.model_extra or () if name not in known)
    return tuple(dropped)


def dropped(request: WireModel, upstream: Upstream, table: ParameterTable) -> tuple[str, ...]:
    """The parameters of any request that an upstream of OpenAI's wire is not sent."""
    if isinstance(request, TranscriptionRequest):
        taken = frozenset() if upstream.engine is None else table.extras
        return _transcription_dropped(request, table, taken)
    if isinstance(request, VideoRequest):
        return unsent(request, upstream, table)
    names = dropped_names(request, upstream, table)
    if isinstance(request, ImageEditRequest):
        names += left_out(request, table)
    if isinstance(request, SpeechRequest):
        names += _hints(request, table)
        if spoken_voice(request, upstream, table)[1]:
            names += ("voice",)
    return names
