"""A fake of ElevenLabs: speech, transcription and voices. Source: ElevenLabs' API reference and SDK types."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from catalog.types import Json
from tests.fakes.openai_chat import words
from tests.fakes.server import Call, FakeServer, Route

GEORGE = "JBFqnCBsd6RMkjVDRZzb"
RACHEL = "21m00Tcm4TlvDq8ikWAM"
STREAMED = frozenset({"mp3_44100_128", "mp3_24000_48", "mp3_22050_32", "opus_48000_128"})


class FakeElevenLabs(FakeServer):
    """Hears ``reply`` in every recording; its audio is the output format's name, then the words."""

    def __init__(self, *, uds: Path | None = None, key: str = "xi-fake") -> None:
        super().__init__(uds=uds)
        self.key = key
        self.reply = "The quick brown fox. It jumps over the lazy dog."

    def routes(self) -> list[Route]:
        return [
            ("POST", "/v1/text-to-speech/{voice}", self.speak),
            ("POST", "/v1/text-to-speech/{voice}/stream", self.speak),
            ("POST", "/v1/speech-to-text", self.transcribe),
            ("GET", "/v2/voices", self.voices),
        ]

    def error(self, status: int, message: str, *, code: str | None = None, kind: str | None = None) -> Json:
        del kind
        return {"detail": {"status": code or "error", "message": message}}

    def rejected(self, call: Call) -> web.Response | None:
        if call.headers.get("xi-api-key") == self.key:
            return None
        return self.refused(call, 401, "Invalid API key", code="invalid_api_key")

    async def speak(self, request: web.Request, call: Call) -> web.StreamResponse:
        if refusal := self.rejected(call):
            return refusal
        form = call.query["output_format"]
        streamed = call.path.endswith("/stream")
        if form not in STREAMED and not form.startswith("pcm_") and (streamed or not form.startswith("wav_")):
            return self.refused(call, 400, f"Invalid output format {form}", code="invalid_output_format")
        if request.match_info["voice"] not in (GEORGE, RACHEL):
            return self.refused(call, 404, "A voice with that voice_id was not found.", code="voice_not_found")
        speed = call.body.get("voice_settings", {}).get("speed", 1.0)
        if not 0.7 <= speed <= 1.2:
            return self.refused(call, 400, "Invalid setting for speed", code="invalid_voice_settings")
        pieces = [form, *words(call.body["text"])]
        return await self.stream(request, call, (piece.encode() for piece in pieces), content_type="audio/mpeg")

    async def transcribe(self, request: web.Request, call: Call) -> web.StreamResponse:
        if refusal := self.rejected(call):
            return refusal
        if not call.files.get("file"):
            return self.refused(call, 400, "The file is not audio.", code="invalid_audio")
        pieces = []
        for at, word in enumerate(self.reply.split(" ")):
            if at:
                pieces.append({"text": " ", "start": at - 0.2, "end": at, "type": "spacing", "logprob": 0.0})
            pieces.append({"text": word, "start": at, "end": at + 0.8, "type": "word", "logprob": -0.5})
        answer = {
            "language_code": "eng",
            "language_probability": 0.98,
            "text": self.reply,
            "words": pieces,
            "audio_duration_secs": len(self.reply.split(" ")) + 0.5,
        }
        return await self.document(request, call, answer)

    async def voices(self, request: web.Request, call: Call) -> web.StreamResponse:
        """Two pages of one voice each."""
        if refusal := self.rejected(call):
            return refusal
        second = call.query.get("next_page_token") == "2"
        voice = {"voice_id": RACHEL, "name": "Rachel"} if second else {"voice_id": GEORGE, "name": "George - Warm"}
        page: Json = {
            "voices": [{**voice, "labels": {"language": "en"}}],
            "has_more": not second,
            "total_count": 2,
        }
        page["next_page_token"] = None if second else "2"
        return await self.document(request, call, page)
