"""Videos of the fake of Google's API: interactions in the background, and Veo's operations.

Source: the types of google-genai, of which a body may have no field more.
"""

from __future__ import annotations

import base64

from aiohttp import web
from google.genai._gaos.types.interactions.createmodelinteraction import CreateModelInteractionParam
from google.genai._gaos.types.interactions.generationconfig import GenerationConfigParam
from google.genai._gaos.types.interactions.imagecontent import ImageContentParam
from google.genai._gaos.types.interactions.textcontent import TextContentParam
from google.genai._gaos.types.interactions.videoconfig import VideoConfigParam
from google.genai._gaos.types.interactions.videocontent import VideoContentParam
from google.genai._gaos.types.interactions.videoresponseformat import VideoResponseFormatParam

from catalog.types import Json
from tests.fakes.films import tiny_mp4
from tests.fakes.server import Call, FakeServer, Route

_PARTS = {"text": TextContentParam, "image": ImageContentParam, "video": VideoContentParam}


def check_interaction(body: Json) -> None:
    """Raises AssertionError for a field that the SDK's types have not."""
    assert body.keys() <= CreateModelInteractionParam.__annotations__.keys()
    assert body["response_format"].keys() <= VideoResponseFormatParam.__annotations__.keys()
    assert body["generation_config"].keys() <= GenerationConfigParam.__annotations__.keys()
    assert body["generation_config"]["video_config"].keys() <= VideoConfigParam.__annotations__.keys()
    for part in body["input"]:
        assert part.keys() <= _PARTS[part["type"]].__annotations__.keys()


class FakeGoogleVideos(FakeServer):
    """``asked`` are the bodies by the name of their work. A look at it ends it, as ``ending`` says.

    ``file_host`` is where answers say that their file is; it is served at this fake alone. With ``vertex``,
    answers hold the file, and operations are asked for by a method.
    """

    def __init__(self, *, key: str = "AIza-fake", vertex: bool = False) -> None:
        super().__init__()
        self.key = key
        self.vertex = vertex
        self.asked: dict[str, Json] = {}
        self.looks = 1
        self.seen: dict[str, int] = {}
        self.file_host = "https://generativelanguage.googleapis.com"
        self.ending: Json | None = None
        self.ended: list[tuple[str, str]] = []

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1beta"

    def routes(self) -> list[Route]:
        return [
            ("POST", "/v1beta/interactions", self.create),
            ("GET", "/v1beta/interactions/{id}", self.look),
            ("POST", "/v1beta/interactions/{id}/cancel", self.end),
            ("DELETE", "/v1beta/interactions/{id}", self.end),
            ("POST", "/v1beta/models/{call:.+}", self.method),
            ("POST", "/v1/projects/{rest:.+}", self.method),
            ("GET", "/v1beta/models/{model}/operations/{id}", self.operation),
            ("GET", "/v1beta/files/{name}", self.file),
        ]

    def error(self, status: int, message: str, *, code: str | None = None, kind: str | None = None) -> Json:
        return {"error": {"code": status, "message": message, "status": kind or "INVALID_ARGUMENT"}}

    async def create(self, request: web.Request, call: Call) -> web.StreamResponse:
        assert call.headers["x-goog-api-key"] == self.key
        check_interaction(call.body)
        seconds = call.body["response_format"].get("duration")
        if seconds is not None and not 3 <= float(seconds.removesuffix("s")) <= 15:
            return self.refused(call, 400, "The duration must be from 3 to 15 seconds.")
        name = f"v1_{len(self.asked) + 1}"
        self.asked[name] = call.body
        return await self.document(request, call, {"id": name, "status": "in_progress", "object": "interaction"})

    def _at_work(self, name: str) -> bool:
        self.seen[name] = self.seen.get(name, 0) + 1
        return self.seen[name] <= self.looks

    async def look(self, request: web.Request, call: Call) -> web.StreamResponse:
        assert call.headers["x-goog-api-key"] == self.key
        name = request.match_info["id"]
        if name not in self.asked:
            return self.refused(call, 404, "Not found.", kind="NOT_FOUND")
        if self._at_work(name):
            return await self.document(request, call, {"id": name, "status": "in_progress"})
        if self.ending is not None:
            return await self.document(request, call, {"id": name, **self.ending})
        inline = self.asked[name]["response_format"]["delivery"] == "inline"
        video = (
            {"data": base64.b64encode(tiny_mp4()).decode()}
            if inline
            else {"uri": f"{self.file_host}/v1beta/files/abc123:download?alt=media"}
        )
        content = [{"type": "video", "mime_type": "video/mp4", **video}]
        steps = [{"type": "thought"}, {"type": "model_output", "content": content}]
        return await self.document(request, call, {"id": name, "status": "completed", "steps": steps})

    async def end(self, request: web.Request, call: Call) -> web.StreamResponse:
        name = request.match_info["id"]
        self.ended.append((call.method, name))
        if call.method == "POST" and not self._at_work(name):
            return self.refused(call, 400, "It has ended.")
        return await self.document(request, call, {})

    async def method(self, request: web.Request, call: Call) -> web.StreamResponse:
        path = call.path
        if path.endswith(":predictLongRunning"):
            model = path.rpartition("/")[2].partition(":")[0]
            assert call.body.keys() == {"instances", "parameters"}
            assert isinstance(call.body["parameters"]["durationSeconds"], int)
            if call.body["parameters"]["durationSeconds"] not in (4, 6, 8):
                return self.refused(call, 400, "durationSeconds must be 4, 6 or 8.")
            head = path.partition(":")[0].removeprefix("/v1/").removeprefix("/v1beta/")
            name = (
                f"{head}/operations/op{len(self.asked) + 1}" if self.vertex else f"models/{model}/operations/op1"
            )
            self.asked[name] = call.body
            return await self.document(request, call, {"name": name})
        assert path.endswith(":fetchPredictOperation")
        return await self._operated(request, call, call.body["operationName"])

    async def operation(self, request: web.Request, call: Call) -> web.StreamResponse:
        return await self._operated(request, call, call.path.removeprefix("/v1beta/"))

    async def _operated(self, request: web.Request, call: Call, name: str) -> web.StreamResponse:
        assert name in self.asked
        told: Json = {"name": name}
        if self._at_work(name):
            return await self.document(request, call, told)
        told["done"] = True
        if self.ending is not None:
            return await self.document(request, call, {**told, **self.ending})
        if self.vertex:
            data = base64.b64encode(tiny_mp4()).decode()
            told["response"] = {"videos": [{"bytesBase64Encoded": data, "mimeType": "video/mp4"}]}
        else:
            uri = f"{self.file_host}/v1beta/files/abc123:download?alt=media"
            told["response"] = {"generateVideoResponse": {"generatedSamples": [{"video": {"uri": uri}}]}}
        return await self.document(request, call, told)

    async def file(self, request: web.Request, call: Call) -> web.StreamResponse:
        assert call.headers["x-goog-api-key"] == self.key
        assert (request.match_info["name"], call.query["alt"]) == ("abc123:download", "media")
        return await self.stream(request, call, [tiny_mp4()], content_type="video/mp4")
