"""Sound, pictures and videos of this machine's workers; a video comes in pieces of base64 after its progress."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from backends.base import Upstream
from backends.http import HttpClient
from backends.local.model.speech import speak_timed
from backends.local.parameters import table_of
from backends.local.refusals import worker_error
from backends.openai.backend import OpenAIBackend, checked
from backends.parameters import ParameterTable
from backends.translation import reading
from backends.wire.audio import SpeechRequest, TranscriptionRequest
from backends.wire.images import ImageEditRequest, ImageRequest
from backends.wire.video.events import COMPLETED, PROGRESS, VideoItem, progress
from backends.wire.video.request import VideoRequest
from catalog.errors import CapabilityMismatch, StreamBroken
from catalog.types import Json

LONGEST = 24 * 3600.0
"""Seconds in which a worker makes a video: a large model without an accelerator takes hours."""
CONTENT = "video.content"
"""The worker's event with a piece of the file."""


class WorkerWire(OpenAIBackend):
    """OpenAI's wire as workers take it: always streamed, since closing a plain call does not stop their work."""

    default_voice = None
    streams_transcripts = True

    def parameters(self, upstream: Upstream) -> ParameterTable:
        return table_of(upstream.engine)


class MediaCalls:
    """The calls of a backend of workers that hear, speak, draw and film."""

    _http: HttpClient
    _openai: WorkerWire

    async def transcribe(self, upstream: Upstream, request: TranscriptionRequest) -> AsyncGenerator[Json]:
        async with aclosing(self._openai.transcribe(upstream, request)) as events:
            async for event in events:
                yield event

    async def speak(self, upstream: Upstream, request: SpeechRequest) -> AsyncGenerator[bytes]:
        """Bytes of audio; with times of words they are :class:`~backends.streams.noted.NotedAudio`."""
        if request.timestamp_granularities:
            speech = speak_timed(self._http, upstream, request)
        else:
            speech = self._openai.speak(upstream, request)
        async with aclosing(speech) as chunks:
            async for chunk in chunks:
                yield chunk

    async def draw(self, upstream: Upstream, request: ImageRequest) -> AsyncGenerator[Json]:
        async with aclosing(self._openai.draw(upstream, request)) as events:
            async for event in events:
                yield event

    async def film(self, upstream: Upstream, request: VideoRequest) -> AsyncGenerator[VideoItem]:
        async with aclosing(film(self._http, upstream, request, self._openai.body(request, upstream))) as items:
            async for item in items:
                yield item

    async def edit(self, upstream: Upstream, request: ImageEditRequest) -> AsyncGenerator[Json]:
        async with aclosing(self._openai.edit(upstream, request)) as events:
            async for event in events:
                yield event


async def film(
    http: HttpClient, upstream: Upstream, request: VideoRequest, body: Json
) -> AsyncGenerator[VideoItem]:
    """See :class:`backends.base.Film`; ``body`` are the parameters that the engine takes.

    A worker tells that it is alive between its steps, so that silence is a fault and slowness is none. Raises
    StreamBroken for an answer that ends early.
    """
    if upstream.engine != "diffusion-video":
        raise CapabilityMismatch(
            f"'{upstream.model}' runs on {upstream.engine}, which makes no videos.", param="model"
        )
    body |= {"task": request.task, "seconds": request.seconds}
    for name, data in (("image", request.image), ("source", request.source)):
        if data is not None:
            body[name] = base64.b64encode(data).decode()
    upstream = replace(upstream, timeouts=replace(upstream.timeouts, total=max(LONGEST, upstream.timeouts.total)))
    ended = False
    async with http.open(upstream, "POST", "/videos", json=body, errors=worker_error) as response:
        async for sent in response.events():
            event = checked(sent.json(), sent.event, upstream)
            with reading(f"The worker of '{upstream.model}'"):
                item = _item(event)
            if item is not None:
                ended = ended or event["type"] == COMPLETED
                yield item
    if not ended:
        raise StreamBroken(f"The worker of '{upstream.model}' ended its answer before the video was complete.")


def _item(event: Json) -> VideoItem | None:
    kind = event["type"]
    if kind == CONTENT:
        return binascii.a2b_base64(event["data"])
    if kind == PROGRESS:
        return progress(event["progress"])
    return event if kind == COMPLETED else None
