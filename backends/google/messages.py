"""Translates OpenAI's messages into Gemini's system instruction and contents.

System and developer messages become the system instruction, in order; one that stood between turns is reported.
Roles alternate: neighbours are merged, and tool results are parts of the user's turn. Source: Google's Gemini API
reference (Content, Part).
"""

from __future__ import annotations

import mimetypes
from typing import Any
from urllib.parse import urlsplit

import orjson

from backends.adapting.arguments import object_of
from backends.adapting.results import in_call_order
from backends.google.models import GeminiTraits
from backends.google.results import parts_of_items
from backends.translation import Dropped, name_foreign
from backends.wire.chat import ContentPart, Message
from backends.wire.media import (
    checked_base64,
    image_url,
    is_data_url,
    parts_of,
    read_data_url,
    text_of,
)
from backends.wire.seeing.videos import VideoAddress, video_of
from catalog.errors import CapabilityMismatch, InvalidRequest, UnsupportedParameter
from catalog.types import Json

AUDIO_TYPES = {
    "wav": "audio/wav",
    "mp3": "audio/mp3",
    "aiff": "audio/aiff",
    "aac": "audio/aac",
    "ogg": "audio/ogg",
    "flac": "audio/flac",
}

NO_SIGNATURE = "skip_thought_signature_validator"
"""Google's documented placeholder for a tool call of another model, or one whose signature was lost."""


def translate_messages(messages: list[Message], can: GeminiTraits, dropped: Dropped) -> tuple[str, list[Json]]:
    """``(system instruction, contents)``.

    Raises :class:`InvalidRequest` for messages that Gemini's API cannot hold.
    """
    system: list[str] = []
    contents: list[Json] = []
    names: dict[str, str] = {}
    for message in in_call_order(messages):
        if message.role in ("system", "developer"):
            system.append(text_of(message))
            if contents and system[-1]:
                dropped.add("messages.system")
        elif message.role == "assistant":
            name_foreign(message, "google", dropped, images=True)
            _append(contents, "model", _model_parts(message, can, names))
        elif message.role == "tool":
            _append(contents, "user", [_tool_result(message, can, names, dropped)])
        elif message.role == "user":
            _append(contents, "user", [_part(part, dropped) for part in parts_of(message)])
        else:
            raise UnsupportedParameter(
                "Gemini's API has no messages of the role 'function'; send 'tool' messages with tool_call_id.",
                param="messages",
            )
    if not contents:
        raise InvalidRequest("Gemini needs at least one message that is not system.", param="messages")
    return "\n\n".join(text for text in system if text), contents


def _append(contents: list[Json], role: str, parts: list[Json]) -> None:
    if not parts:
        return
    if contents and contents[-1]["role"] == role:
        contents[-1]["parts"] += parts
    else:
        contents.append({"role": role, "parts": parts})


def _signature(holder: Any) -> str | None:
    """``extra_content.google.thought_signature`` of a message or a tool call."""
    extra = (holder.model_extra or {}).get("extra_content")
    google = extra.get("google") if isinstance(extra, dict) else None
    value = google.get("thought_signature") if isinstance(google, dict) else None
    return value if isinstance(value, str) and value else None


def _model_parts(message: Message, can: GeminiTraits, names: dict[str, str]) -> list[Json]:
    extra = message.model_extra or {}
    parts = parts_of_items(extra.get("server_tool_calls"))
    for part in parts_of(message):
        if part.type not in ("text", "refusal"):
            raise InvalidRequest(f"An assistant message cannot hold {part.type!r}.", param="messages")
        parts.append({"text": part.text or part.refusal or ""})
    refusal = extra.get("refusal")
    if isinstance(refusal, str) and refusal:
        parts.append({"text": refusal})
    parts += _pictures(extra.get("images"))
    signature = _signature(message)
    if signature and parts:
        parts[-1]["thoughtSignature"] = signature
    for position, call in enumerate(message.tool_calls or ()):
        if call.function is None:
            raise UnsupportedParameter("Gemini's API has no custom tool calls.", param="messages")
        names[call.id] = call.function.name
        made: Json = {"name": call.function.name, "args": object_of(call.function.arguments)}
        if can.signatures:
            made["id"] = call.id
        part_: Json = {"functionCall": made}
        signature = _signature(call) or (NO_SIGNATURE if can.signatures and position == 0 else None)
        if signature:
            part_["thoughtSignature"] = signature
        parts.append(part_)
    return parts


def _pictures(images: Any) -> list[Json]:
    """The pictures that the model made in an earlier turn, with their signatures."""
    parts: list[Json] = []
    for image in images if isinstance(images, list) else ():
        held = image.get("image_url") if isinstance(image, dict) else None
        url = held.get("url") if isinstance(held, dict) else None
        if isinstance(url, str) and url:
            extra = image.get("extra_content")
            google = extra.get("google") if isinstance(extra, dict) else None
            signature = google.get("thought_signature") if isinstance(google, dict) else None
            signed = {"thoughtSignature": signature} if isinstance(signature, str) and signature else {}
            parts.append({**media_part(url), **signed})
    return parts


def _tool_result(message: Message, can: GeminiTraits, names: dict[str, str], dropped: Dropped) -> Json:
    call_id = message.tool_call_id
    if not call_id or call_id not in names:
        raise InvalidRequest(
            "A tool message must answer a tool call of an earlier assistant message (tool_call_id).",
            param="messages",
        )
    texts, media = [], []
    for part in parts_of(message):
        if part.type == "text":
            texts.append(part.text or "")
        elif can.signatures:
            media.append(_part(part, dropped))
        else:
            raise CapabilityMismatch("This Gemini model takes only text as a tool's result.", param="messages")
    text = "\n".join(texts)
    failed = (message.model_extra or {}).get("is_error") is True
    result: Json = {"name": names[call_id], "response": {"error": text} if failed else _as_object(text)}
    if can.signatures:
        result["id"] = call_id
    if media:
        result["parts"] = media
    return {"functionResponse": result}


def _as_object(text: str) -> Json:
    """The result as an object: itself if it is a JSON object, else under ``output``, as Google's SDK does."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    return value if isinstance(value, dict) else {"output": text}


def _part(part: ContentPart, dropped: Dropped) -> Json:
    match part.type:
        case "text":
            return {"text": part.text}
        case "image_url":
            if (part.image_url or {}).get("detail") not in (None, "auto"):
                dropped.add("messages.image_url.detail")
            return media_part(image_url(part))
        case "input_audio":
            return _audio(part.input_audio or {})
        case "file":
            return _file(part.file or {})
        case "video_url":
            return _video(video_of(part), dropped)
        case _:
            raise InvalidRequest(f"Unknown content part {part.type!r}.", param="messages")


def _video(asked: VideoAddress, dropped: Dropped) -> Json:
    for name in ("max_frames", "detail"):
        if getattr(asked, name) not in (None, "auto"):
            dropped.add(f"messages.video_url.{name}")
    made = media_part(asked.url)
    return made if asked.fps is None else {**made, "videoMetadata": {"fps": asked.fps}}


def media_part(url: str) -> Json:
    """The part of a data URL, or of an address."""
    if is_data_url(url):
        media_type, data = read_data_url(url)
        return {"inlineData": {"mimeType": media_type, "data": data}}
    media_type_guess, _ = mimetypes.guess_type(urlsplit(url).path)
    kind = {"mimeType": media_type_guess} if media_type_guess else {}
    return {"fileData": {"fileUri": url, **kind}}


def _audio(audio: Json) -> Json:
    media_type = AUDIO_TYPES.get(str(audio.get("format")))
    if media_type is None:
        raise CapabilityMismatch(
            f"Gemini takes audio as {', '.join(AUDIO_TYPES)}, not {str(audio.get('format'))[:40]!r}.",
            param="messages",
        )
    return {"inlineData": {"mimeType": media_type, "data": checked_base64(str(audio.get("data") or ""))}}


def _file(file: Json) -> Json:
    for key in ("file_data", "file_url"):
        value = file.get(key)
        if isinstance(value, str) and value:
            if key == "file_data" and not is_data_url(value):
                break
            return media_part(value)
    raise UnsupportedParameter(
        "A file part needs file_data (a data URL) or file_url; uploaded files are not kept here.", param="messages"
    )
