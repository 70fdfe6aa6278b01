"""Bodies of OpenAI's wire that differ from the caller's: multipart forms, documents as texts, a default voice."""

from __future__ import annotations

from backends.base import Upstream
from backends.http.multipart import FormField, FormFile
from backends.parameters import ParameterTable, body_for, dropped_names, refuse_forbidden
from backends.wire.audio import SpeechRequest, TranscriptionRequest
from backends.wire.common import WireModel
from backends.wire.rerank import RerankRequest
from catalog.errors import InvalidRequest
from catalog.types import Json

_TIMED = frozenset({"verbose_json", "srt", "vtt"})


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
    request: SpeechRequest, upstream: Upstream, table: ParameterTable, default_voice: str | None
) -> Json:
    """The body of a request for raw audio, which the gateway frames as events where the caller wants them."""
    body = body_for(request, upstream, table)
    body.pop("stream_format", None)
    body.setdefault("response_format", request.response_format)
    if default_voice is not None and body.get("voice") is None:
        body["voice"] = default_voice
    return body


def transcription_form(
    request: TranscriptionRequest, upstream: Upstream, table: ParameterTable, *, streamed: bool
) -> tuple[list[FormField], list[FormFile]]:
    """The multipart form. Formats with times are asked for as verbose_json and written by the gateway.

    Without ``streamed`` a stream is asked for only where the caller wants one and no times: OpenAI's older models
    cannot stream, and its newer ones have no verbose_json.
    """
    refuse_forbidden(request)
    timed = request.response_format in _TIMED or "word" in request.timestamp_granularities
    form: list[FormField] = [("model", upstream.model)]
    form.append(("response_format", "verbose_json" if timed else "json"))
    if timed and not request.translate:
        form.extend(("timestamp_granularities[]", granularity) for granularity in request.timestamp_granularities)
    if streamed or (request.stream and not timed):
        form.append(("stream", "true"))
    if request.language is not None and not request.translate:
        form.append(("language", request.language))
    if request.prompt is not None:
        form.append(("prompt", request.prompt))
    if request.temperature is not None:
        form.append(("temperature", repr(request.temperature)))
    if request.vad_filter is not None and "vad_filter" not in table.drops:
        form.append(("vad_filter", "true" if request.vad_filter else "false"))
    return form, [("file", (request.filename, request.file, "application/octet-stream"))]


def _transcription_dropped(request: TranscriptionRequest, table: ParameterTable) -> tuple[str, ...]:
    """The parameters that :func:`transcription_form` leaves out although the caller set them."""
    dropped: list[str] = []
    if request.vad_filter is not None and "vad_filter" in table.drops:
        dropped.append("vad_filter")
    if request.translate and request.language is not None:
        dropped.append("language")
    dropped.extend(name for name in request.model_extra or () if name not in ("routing", "strict", "timings"))
    return tuple(dropped)


def dropped(request: WireModel, upstream: Upstream, table: ParameterTable) -> tuple[str, ...]:
    """The parameters of any request that an upstream of OpenAI's wire is not sent."""
    if isinstance(request, TranscriptionRequest):
        return _transcription_dropped(request, table)
    return dropped_names(request, upstream, table)
