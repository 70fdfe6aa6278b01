"""Small videos, and the fake of OpenAI's Videos API, as strict about a form as the real one."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

from aiohttp import web

from catalog.types import Json
from tests.fakes.server import Call, FakeServer, Route


@cache
def tiny_mp4(frames: int = 8, width: int = 64, height: int = 48, fps: int = 4) -> bytes:
    """A video whose frames grow brighter: ``frames / fps`` seconds."""
    import av
    import numpy as np

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as opened:
        stream: Any = opened.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            pixels = np.full((height, width, 3), number * 255 // max(1, frames - 1), np.uint8)
            opened.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        opened.mux(stream.encode(None))
    return file.getvalue()


def brightness(data: bytes) -> list[int]:
    """The mean of each frame of an MP4, 0 to 255."""
    import av

    opening: Any = av.open(io.BytesIO(data), format="mp4")
    with opening as opened:
        return [round(float(frame.to_ndarray(format="gray").mean())) for frame in opened.decode(video=0)]


class VideoRoutes(FakeServer):
    """``videos`` are the videos by id, ``video_calls`` the calls that made them.

    ``video_looks`` is the number of looks at one at work, ``video_ending`` the members of a finished one. With
    ``takes_all`` a form may have fields that OpenAI's has not, as at other servers of its wire.
    """

    prefix = "/v1"
    OWN = frozenset({"model", "prompt", "seconds", "size", "input_reference"})

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.videos: dict[str, Json] = {}
        self.video_calls: dict[str, Call] = {}
        self.removed_videos: list[str] = []
        self.video_looks = 1
        self.video_ending: Json = {"status": "completed", "progress": 100}
        self.video_file = tiny_mp4()
        self.takes_all = False

    def video_routes(self) -> list[Route]:
        one = self.prefix + "/videos/{id}"
        return [
            ("POST", f"{self.prefix}/videos", self.create_video),
            ("POST", f"{self.prefix}/videos/edits", self.create_video),
            ("POST", f"{self.prefix}/videos/extensions", self.create_video),
            ("POST", f"{one}/remix", self.create_video),
            ("GET", one, self.look_at_video),
            ("GET", f"{one}/content", self.video_content),
            ("DELETE", one, self.remove_video),
        ]

    async def create_video(self, request: web.Request, call: Call) -> web.StreamResponse:
        fields = call.body.keys() | call.files.keys()
        if not self.takes_all and call.path.endswith("/videos") and (unknown := fields - self.OWN):
            return self.refused(call, 400, f"Unknown parameter: '{min(unknown)}'.")
        if call.body.get("seconds", "4") not in ("4", "8", "12"):
            return self.refused(call, 400, "Invalid value: 'seconds' must be one of '4', '8', '12'.")
        if (source := request.match_info.get("id")) is not None and source not in self.videos:
            return self.refused(call, 404, f"Video with id '{source}' not found.")
        name = f"video_{len(self.videos) + 1}"
        self.videos[name] = {
            "id": name,
            "object": "video",
            "model": call.body.get("model", "fake-film"),
            "status": "queued",
            "progress": 0,
            "created_at": 1,
            "seconds": call.body.get("seconds", "4"),
            "size": call.body.get("size", "720x1280"),
            "prompt": call.body["prompt"],
        }
        self.video_calls[name] = call
        return await self.document(request, call, self.videos[name])

    async def look_at_video(self, request: web.Request, call: Call) -> web.StreamResponse:
        video = self.videos.get(request.match_info["id"])
        if video is None:
            return self.refused(call, 404, "Video not found.")
        seen = video["seen"] = video.get("seen", 0) + 1
        video |= {"status": "in_progress", "progress": 40} if seen <= self.video_looks else self.video_ending
        return await self.document(request, call, video)

    async def video_content(self, request: web.Request, call: Call) -> web.StreamResponse:
        if self.videos[request.match_info["id"]]["status"] != "completed":
            return self.refused(call, 404, "The video is not ready.")
        whole = self.video_file or tiny_mp4()
        parts = [whole[at : at + 500] for at in range(0, len(whole), 500)]
        return await self.stream(request, call, parts, content_type="video/mp4")

    async def remove_video(self, request: web.Request, call: Call) -> web.StreamResponse:
        name = request.match_info["id"]
        if self.videos.pop(name, None) is None:
            return self.refused(call, 404, "Video not found.")
        self.removed_videos.append(name)
        return await self.document(request, call, {"id": name, "object": "video.deleted", "deleted": True})
