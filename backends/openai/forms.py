"""Bodies of OpenAI's wire that are not simply the caller's: forms, and fields with other names."""

from __future__ import annotations

from backends.base import Upstream
from backends.http.multipart import FormField, FormFile
from backends.parameters import dropped_names, prepare, refuse_forbidden
from backends.wire.audio import SpeechRequest, TranscriptionRequest
from backends.wire.common import WireModel
from backends.wire.rerank import RerankRequest
from catalog.errors import InvalidRequest
from catalog.types import Json

_DEFAULT_VOICE = "alloy"
_TIMED = frozenset({"verbose_json", "srt", "vtt"})


def rerank_body(request: RerankRequest, upstream: Upstream) -> Json:
    """Documents as texts. ``return_documents`` is left to the gateway, which has them."""
    body = prepare(request, upstream).body
    body["documents"] = document_texts(request)
    body.pop("return_documents", None)
    return body


def document_texts(request: RerankRequest) -> list[str]:
    """The text of every document. Raises InvalidRequest for an object without one."""
    texts: list[str] = []
    for index, document in enumerate(request.documents):
        text = document if isinstance(document, str) else document.get("text")
        if not isinstance(text, str) or not text:
            raise InvalidRequest(f"Document {index} has no text.", param=f"documents.{index}")
        texts.append(text)
    return texts


def speech_body(request: SpeechRequest, upstream: Upstream) -> Json:
    """A text to speak as raw audio; framing it as events is the gateway's."""
    body = prepare(request, upstream).body
    body.pop("stream_format", None)
    body.setdefault("response_format", request.response_format)
    if upstream.protocol != "worker" and body.get("voice") is None:
        body["voice"] = _DEFAULT_VOICE
    return body


def transcription_form(
    request: TranscriptionRequest, upstream: Upstream
) -> tuple[list[FormField], list[FormFile]]:
    """The multipart form. Formats with times are asked for as verbose_json and written by the gateway.

    A worker is always asked for a stream, which it can be told to stop; a provider only when the caller wants
    one, since its older models cannot stream and its newer ones have no verbose_json.
    """
    refuse_forbidden(request)
    local = upstream.protocol == "worker"
    timed = request.response_format in _TIMED or "word" in request.timestamp_granularities
    form: list[FormField] = [("model", upstream.model)]
    form.append(("response_format", "verbose_json" if timed else "json"))
    if timed and not request.translate:
        form.extend(("timestamp_granularities[]", granularity) for granularity in request.timestamp_granularities)
    if local or (request.stream and not timed):
        form.append(("stream", "true"))
    if request.language is not None and not request.translate:
        form.append(("language", request.language))
    if request.prompt is not None:
        form.append(("prompt", request.prompt))
    if request.temperature is not None:
        form.append(("temperature", repr(request.temperature)))
    if local and request.vad_filter is not None:
        form.append(("vad_filter", "true" if request.vad_filter else "false"))
    return form, [("file", (request.filename, request.file, "application/octet-stream"))]


def transcription_dropped(request: TranscriptionRequest, upstream: Upstream) -> tuple[str, ...]:
    """What :func:`transcription_form` leaves out although the caller asked for it."""
    dropped: list[str] = []
    if upstream.protocol != "worker" and request.vad_filter is not None:
        dropped.append("vad_filter")
    if request.translate and request.language is not None:
        dropped.append("language")
    dropped.extend(name for name in request.model_extra or () if name not in ("routing", "strict"))
    return tuple(dropped)


def dropped(request: WireModel, upstream: Upstream) -> tuple[str, ...]:
    """The parameters of any request that an upstream of OpenAI's wire will not be sent."""
    if isinstance(request, TranscriptionRequest):
        return transcription_dropped(request, upstream)
    return dropped_names(request, upstream)
