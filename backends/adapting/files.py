"""Files with text for servers that take documents of another kind, or none: a part of text holds them."""

from __future__ import annotations

from collections.abc import Sequence

from backends.wire.chat import ChatRequest, ContentPart, Message
from backends.wire.media import decoded_text, is_text, media_type_of, read_data_url
from catalog.errors import UnsupportedParameter


def has_files(messages: Sequence[Message]) -> bool:
    """Whether a message has a part of the type ``file``."""
    return any(
        part.type == "file"
        for message in messages
        if isinstance(message.content, list)
        for part in message.content
    )


def with_text_files(request: ChatRequest) -> ChatRequest:
    """The request with each text file as a part of text; itself if it has no files. Raises UndecodableMedia."""
    if not has_files(request.messages):
        return request
    return request.model_copy(update={"messages": with_texts(request.messages)})


def with_texts(messages: Sequence[Message]) -> list[Message]:
    """The messages with each text file as a part of text, under its name. Raises UndecodableMedia."""
    return [
        message.model_copy(update={"content": [_as_text(part) for part in message.content]})
        if isinstance(message.content, list)
        else message
        for message in messages
    ]


def refuse_links(messages: Sequence[Message], model: str) -> None:
    """Raises UnsupportedParameter for a file that is given by its address."""
    for message in messages:
        for part in message.content if isinstance(message.content, list) else ():
            if part.type == "file" and (part.file or {}).get("file_url"):
                raise UnsupportedParameter(
                    f"'{model}' takes no file by its address; send its data in file_data.", param="messages"
                )


def _as_text(part: ContentPart) -> ContentPart:
    file = part.file or {}
    if part.type != "file" or not is_text(media_type_of(file.get("file_data"))):
        return part
    text = decoded_text(read_data_url(file["file_data"])[1])
    name = file.get("filename")
    head = f"File {name}:\n\n" if isinstance(name, str) and name else ""
    return ContentPart.model_validate({**(part.model_extra or {}), "type": "text", "text": f"{head}{text}"})
