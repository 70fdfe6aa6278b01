"""A fake of Ollama: its own API for lists, details and loading, and OpenAI's below ``/v1``."""

from __future__ import annotations

from aiohttp import web

from catalog.types import Json
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Call, Route

_CREATED = "2026-01-01T00:00:00Z"


class FakeOllama(FakeOpenAI):
    """``loaded`` maps the models in memory to how long they are kept, as Ollama was last told."""

    def __init__(self) -> None:
        super().__init__()
        self.models = ["fake-chat", "fake-embed"]
        self.loaded: dict[str, Json] = {}

    def routes(self) -> list[Route]:
        return [
            *super().routes(),
            ("GET", "/api/tags", self.tags),
            ("GET", "/api/ps", self.ps),
            ("POST", "/api/show", self.show),
            ("POST", "/api/generate", self.generate),
        ]

    async def tags(self, request: web.Request, call: Call) -> web.StreamResponse:
        rows = [
            {
                "name": name,
                "model": name,
                "modified_at": _CREATED,
                "size": 1_000_000,
                "digest": "0" * 64,
                "details": {
                    "format": "gguf",
                    "family": "llama",
                    "parameter_size": "135M",
                    "quantization_level": "Q4_1",
                },
            }
            for name in self.models
        ]
        return await self.document(request, call, {"models": rows})

    async def ps(self, request: web.Request, call: Call) -> web.StreamResponse:
        rows = [{"name": name, "model": name, "size": 1, "size_vram": 0} for name in self.loaded]
        return await self.document(request, call, {"models": rows})

    async def show(self, request: web.Request, call: Call) -> web.StreamResponse:
        if call.body.get("model") not in self.models:
            return web.json_response({"error": f"model '{call.body.get('model')}' not found"}, status=404)
        capabilities = ["embedding"] if "embed" in call.body["model"] else ["completion", "tools"]
        info = {"general.architecture": "llama", "llama.context_length": 2048}
        return await self.document(request, call, {"capabilities": capabilities, "model_info": info})

    async def generate(self, request: web.Request, call: Call) -> web.StreamResponse:
        """An empty prompt loads the model, or unloads it with a ``keep_alive`` of 0."""
        keep = call.body.get("keep_alive")
        if keep == 0:
            self.loaded.pop(call.body["model"], None)
        else:
            self.loaded[call.body["model"]] = {"keep_alive": keep}
        reason = "unload" if keep == 0 else "load"
        answer = {"model": call.body["model"], "created_at": _CREATED, "response": "", "done": True}
        return await self.document(request, call, {**answer, "done_reason": reason})
