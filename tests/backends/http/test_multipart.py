"""Forms are read back as they were written, with any text in their names."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import BodyPartReader, MultipartReader, StreamReader
from aiohttp.base_protocol import BaseProtocol
from multidict import CIMultiDict

from backends.http.multipart import multipart


async def test_fields_and_files_arrive_in_order_with_their_names_and_types() -> None:
    body, content_type = multipart(
        [("model", "whisper"), ("words", "é\r\nü")], [("file", ("ä.wav", b"--\r\n\0\xff", "audio/wav"))]
    )
    loop = asyncio.get_running_loop()
    stream = StreamReader(BaseProtocol(loop), 2**16, loop=loop)
    stream.feed_data(body)
    stream.feed_eof()
    read = []
    reader = MultipartReader(CIMultiDict({"content-type": content_type}), stream)
    while isinstance(part := await reader.next(), BodyPartReader):
        read.append((part.name, part.filename, part.headers.get("content-type"), bytes(await part.read())))
    assert read == [
        ("model", None, None, b"whisper"),
        ("words", None, None, "é\r\nü".encode()),
        ("file", "ä.wav", "audio/wav", b"--\r\n\0\xff"),
    ]


@pytest.mark.parametrize("name", ['a"; name="b', "a\r\nX-Evil: 1"])
def test_a_name_cannot_leave_its_quotes(name: str) -> None:
    body, _ = multipart([(name, "x")], [("file", (name, b"", "audio/wav"))])
    assert b'"; name="b' not in body
    assert b"X-Evil" not in [line.split(b":")[0] for line in body.split(b"\r\n")]
