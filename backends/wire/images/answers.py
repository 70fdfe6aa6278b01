"""Answers with pictures. Source: OpenAI's API reference; ``seed`` is ours."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict


class Image(TypedDict):
    b64_json: NotRequired[str]
    url: NotRequired[str]
    revised_prompt: NotRequired[str]
    seed: NotRequired[int]


class ImageList(TypedDict):
    """The pictures drawn; ``created`` is Unix seconds."""

    created: int
    data: list[Image]
    output_format: NotRequired[str]
    background: NotRequired[str]
    quality: NotRequired[str]
    size: NotRequired[str]
    usage: NotRequired[dict[str, Any]]


class ImageEvent(TypedDict):
    """One event of streamed drawing: a picture in the making, or a completed one."""

    type: Literal[
        "image_generation.partial_image",
        "image_generation.completed",
        "image_edit.partial_image",
        "image_edit.completed",
    ]
    b64_json: NotRequired[str]
    partial_image_index: NotRequired[int]
