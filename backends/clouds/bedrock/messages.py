"""Translates OpenAI's messages into the system blocks and turns of Bedrock's Converse API.

Roles alternate: neighbours are merged, and the results of tools are blocks of the user's turn. Blank texts are
left out, since Converse refuses them. Source: the service model of bedrock-runtime in botocore.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from backends.adapting.arguments import object_of
from backends.adapting.marks import citing
from backends.translation import Dropped
from backends.wire.chat import ContentPart, Message
from backends.wire.media import (
    checked_base64,
    image_url,
    is_data_url,
    parts_of,
    read_data_url,
    text_of,
)
from backends.wire.seeing.videos import takes_no_videos
from catalog.errors import CapabilityMismatch, InvalidRequest, UnsupportedParameter
from catalog.types import Json

IMAGES = frozenset({"png", "jpeg", "gif", "webp"})
VIDEOS: Mapping[str, str] = {
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "video/x-matroska": "mkv",
    "video/mpeg": "mpeg",
}
DOCUMENTS: Mapping[str, str] = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
}
AUDIO = frozenset({"mp3", "opus", "wav", "aac", "flac", "mp4", "ogg", "mkv", "m4a", "mpeg", "pcm", "webm"})

_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9()\[\] -]+")
_SPACES = re.compile(r" {2,}")


class Turns:
    """Collects the conversation. ``caches`` says whether the model takes cache points."""

    def __init__(self, dropped: Dropped, *, caches: bool) -> None:
        self.system: list[Json] = []
        self.turns: list[Json] = []
        self.uses_tools = False
        self._dropped = dropped
        self._caches = caches
        self._names: set[str] = set()

    def add(self, message: Message) -> None:
        """Add one message. Raises InvalidRequest for one that Converse cannot hold."""
        match message.role:
            case "system" | "developer":
                if self.turns:
                    self._dropped.add(
                        "messages.system"
                    )  # its place: a turn of this role needs a model that has it
                text_of(message)
                parts = [part for part in parts_of(message) if (part.text or "").strip()]
                self.system += self._marked(message, [self._with_mark({"text": p.text}, p) for p in parts])
            case "assistant":
                self._append("assistant", self._marked(message, [[block] for block in self._assistant(message)]))
            case "tool":
                self.uses_tools = True
                self._append("user", self._marked(message, [[self._result(message)]]))
            case "user":
                parts = [part for part in parts_of(message) if part.type != "text" or (part.text or "").strip()]
                self._append("user", self._marked(message, [self._with_mark(self._block(p), p) for p in parts]))
            case _:
                raise UnsupportedParameter(
                    "Bedrock has no messages of the role 'function'; send 'tool' messages with tool_call_id.",
                    param="messages",
                )

    def _append(self, role: str, blocks: list[Json]) -> None:
        if not blocks:
            return
        if self.turns and self.turns[-1]["role"] == role:
            self.turns[-1]["content"] += blocks
        else:
            self.turns.append({"role": role, "content": blocks})

    def _assistant(self, message: Message) -> list[Json]:
        extra = message.model_extra or {}
        kept = extra.get("thinking_blocks")
        blocks = [made for block in kept if (made := _reasoning(block))] if isinstance(kept, list) else []
        for part in parts_of(message):
            if part.type not in ("text", "refusal"):
                raise InvalidRequest(f"An assistant message cannot hold {part.type!r}.", param="messages")
            if (text := part.text or part.refusal) and text.strip():
                blocks.append({"text": text})
        refusal = extra.get("refusal")
        if isinstance(refusal, str) and refusal.strip():
            blocks.append({"text": refusal})
        for call in message.tool_calls or ():
            if call.function is None:
                raise UnsupportedParameter("Bedrock has no custom tool calls.", param="messages")
            self.uses_tools = True
            use = {
                "toolUseId": _id(call.id),
                "name": call.function.name,
                "input": object_of(call.function.arguments),
            }
            blocks.append({"toolUse": use})
        return blocks

    def _result(self, message: Message) -> Json:
        if not message.tool_call_id:
            raise InvalidRequest("A tool message needs its tool_call_id.", param="messages")
        content = [self._block(part) for part in parts_of(message)] or [{"text": "(no output)"}]
        result: Json = {"toolUseId": _id(message.tool_call_id), "content": content}
        if (message.model_extra or {}).get("is_error") is True:
            result["status"] = "error"
        return {"toolResult": result}

    def _block(self, part: ContentPart) -> Json:
        match part.type:
            case "text":
                return {"text": part.text}
            case "image_url":
                if (part.image_url or {}).get("detail") not in (None, "auto"):
                    self._dropped.add("messages.image_url.detail")
                return _image(image_url(part))
            case "input_audio":
                return _audio(part.input_audio or {})
            case "file":
                return self._file(part.file or {}, part)
            case "video_url":
                raise takes_no_videos("Bedrock's API")
        raise InvalidRequest(f"Unknown content part {part.type!r}.", param="messages")

    def _file(self, file: Json, part: ContentPart) -> Json:
        data = file.get("file_data")
        if not isinstance(data, str) or not data:
            raise CapabilityMismatch(
                "Bedrock takes files as data only: a file part needs file_data, a data URL.", param="messages"
            )
        media_type, encoded = read_data_url(data)
        if media_type in VIDEOS:
            return {"video": {"format": VIDEOS[media_type], "source": {"bytes": encoded}}}
        if media_type not in DOCUMENTS:
            raise CapabilityMismatch(f"Bedrock takes no {media_type} documents.", param="messages")
        name = self._name(str(file.get("filename") or "document"))
        source = {"bytes": encoded}
        return {"document": {"format": DOCUMENTS[media_type], "name": name, "source": source, **citing(part)}}

    def _name(self, given: str) -> str:
        """A name that Converse takes and that no other document of the conversation has."""
        name = _SPACES.sub(" ", _NOT_IN_NAMES.sub(" ", given))[:180].strip() or "document"
        unique, number = name, 1
        while unique in self._names:
            number += 1
            unique = f"{name} {number}"
        self._names.add(unique)
        return unique

    def _with_mark(self, block: Json, part: ContentPart) -> list[Json]:
        return [block, *self._cache_point((part.model_extra or {}).get("cache_control"))]

    def _marked(self, message: Message, blocks: list[list[Json]]) -> list[Json]:
        flat = [block for group in blocks for block in group]
        return [*flat, *self._cache_point((message.model_extra or {}).get("cache_control"))] if flat else flat

    def _cache_point(self, mark: Any) -> list[Json]:
        if not isinstance(mark, dict):
            return []
        if not self._caches:
            self._dropped.add("messages.cache_control")
            return []
        ttl = {"ttl": mark["ttl"]} if mark.get("ttl") in ("5m", "1h") else {}
        return [{"cachePoint": {"type": "default", **ttl}}]


def _reasoning(block: Any) -> Json | None:
    """A thinking block with its signature; others cannot be given back."""
    if not isinstance(block, dict):
        return None
    text, signature, data = block.get("thinking"), block.get("signature"), block.get("data")
    if block.get("type") == "thinking" and isinstance(text, str) and isinstance(signature, str):
        return {"reasoningContent": {"reasoningText": {"text": text, "signature": signature}}}
    if block.get("type") == "redacted_thinking" and isinstance(data, str):
        return {"reasoningContent": {"redactedContent": data}}
    return None


def _id(given: str) -> str:
    """A tool call's id, or a digest of one that Converse does not take."""
    return given if _ID.fullmatch(given) else f"call_{sha256(given.encode()).hexdigest()[:32]}"


def _image(url: str) -> Json:
    if not is_data_url(url):
        raise CapabilityMismatch("Bedrock takes images as data only; send a data URL.", param="messages")
    media_type, data = read_data_url(url)
    kind = media_type.removeprefix("image/").replace("jpg", "jpeg")
    if kind not in IMAGES:
        raise CapabilityMismatch(f"Bedrock takes no {media_type} images.", param="messages")
    return {"image": {"format": kind, "source": {"bytes": data}}}


def _audio(given: Json) -> Json:
    data, kind = given.get("data"), given.get("format")
    if not isinstance(data, str) or kind not in AUDIO:
        raise InvalidRequest(
            f"An input_audio part needs data in base64 and a format: {', '.join(sorted(AUDIO))}.", param="messages"
        )
    return {"audio": {"format": kind, "source": {"bytes": checked_base64(data)}}}
