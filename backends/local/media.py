"""Checks pictures and other media in a chat before a worker gets them."""

from __future__ import annotations

import asyncio
from typing import Any

from backends.fetch import Fetcher
from backends.wire.media import decoded, is_data_url, read_data_url
from backends.wire.pictures import checked_picture
from catalog.errors import InvalidRequest, PayloadTooLarge
from catalog.types import Json

MAX_PICTURES = 64


async def with_media(body: Json, fetcher: Fetcher) -> Json:
    """The chat's body with every picture in it as a ``data:`` URL of checked bytes.

    Workers fetch nothing and open no files, so a URL is fetched here or refused. Raises InvalidRequest,
    UndecodableMedia, PayloadTooLarge.
    """
    pictures = 0
    messages = []
    for message in body["messages"]:
        content = message.get("content")
        if isinstance(content, list):
            pictures += sum(_is_picture(part) for part in content)
            if pictures > MAX_PICTURES:
                raise PayloadTooLarge(f"A request may hold at most {MAX_PICTURES} pictures.", param="messages")
            message = {**message, "content": [await _part(part, fetcher) for part in content]}
        messages.append(message)
    return {**body, "messages": messages}


def _is_picture(part: Any) -> bool:
    return isinstance(part, dict) and part.get("image_url") is not None


async def _part(part: Json, fetcher: Fetcher) -> Json:
    if _is_picture(part):
        url = part["image_url"].get("url")
        if not isinstance(url, str) or not url:
            raise InvalidRequest("An image_url part needs image_url.url.", param="messages")
        return {**part, "image_url": {**part["image_url"], "url": await _picture(url, fetcher)}}
    if part.get("file") is not None:
        raise InvalidRequest("Local models take no files in a chat.", param="messages")
    return part


async def _picture(url: str, fetcher: Fetcher) -> str:
    if not is_data_url(url):
        return await fetcher.fetch(url)
    kind, data = read_data_url(url)
    if not kind.startswith("image/"):
        raise InvalidRequest("An image_url must hold a picture.", param="messages")
    await asyncio.to_thread(lambda: checked_picture(decoded(data)))
    return url
