"""A fake of ElevenLabs: speech, transcription and voices. Source: ElevenLabs' API reference and SDK types."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import get_args

import orjson
from aiohttp import web
from elevenlabs.text_to_speech.types import TextToSpeechConvertRequestOutputFormat
from elevenlabs.types import Model

from backends.elevenlabs.voices import PREMADE
from catalog.types import Json
from tests.fakes.openai_chat import words
from tests.fakes.server import Call, FakeServer, Route

FORMATS = frozenset(get_args(get_args(TextToSpeechConvertRequestOutputFormat)[0]))
GEORGE = "JBFqnCBsd6RMkjVDRZzb"
RACHEL = "21m00Tcm4TlvDq8ikWAM"
WHOLE = frozenset(each for each in FORMATS if each.startswith("wav_"))


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
            ("POST", "/v1/text-to-speech/{voice}/with-timestamps", self.speak),
            ("POST", "/v1/text-to-speech/{voice}/stream/with-timestamps", self.speak),
            ("POST", "/v1/speech-to-text", self.transcribe),
            ("GET", "/v2/voices", self.voices),
            ("GET", "/v1/models", self.models),
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
        form = call.query.get("output_format", "mp3_44100_128")
        if form not in FORMATS or ("/stream" in call.path and form in WHOLE):
            return self.refused(call, 400, f"Invalid output format {form}", code="invalid_output_format")
        if request.match_info["voice"] not in (RACHEL, *PREMADE.values()):
            return self.refused(call, 404, "A voice with that voice_id was not found.", code="voice_not_found")
        speed = call.body.get("voice_settings", {}).get("speed", 1.0)
        if not 0.7 <= speed <= 1.2:
            return self.refused(call, 400, "Invalid setting for speed", code="invalid_voice_settings")
        spoken = words(call.body["text"])
        if call.path.endswith("/with-timestamps"):
            return await self.timed(request, call, spoken)
        pieces = [form, *spoken]
        return await self.stream(
            request,
            call,
            (piece.encode() for piece in pieces),
            content_type="audio/mpeg",
            headers={"request-id": "req_fake"},
        )

    async def timed(self, request: web.Request, call: Call, spoken: list[str]) -> web.StreamResponse:
        """A character takes a tenth of a second; the first word is cut in two pieces."""
        at, lines = 0, []
        for piece in (spoken[0][:2], spoken[0][2:], *spoken[1:]):
            times = {
                "characters": list(piece),
                "character_start_times_seconds": [(at + n) / 10 for n in range(len(piece))],
                "character_end_times_seconds": [(at + n + 1) / 10 for n in range(len(piece))],
            }
            at += len(piece)
            audio = base64.b64encode(piece.encode()).decode()
            line = {"audio_base64": audio, "alignment": times, "normalized_alignment": times}
            lines.append(orjson.dumps(line) + b"\n\n")
        return await self.stream(
            request, call, lines, content_type="application/json", headers={"request-id": "req_fake"}
        )

    async def transcribe(self, request: web.Request, call: Call) -> web.StreamResponse:
        if refusal := self.rejected(call):
            return refusal
        if not call.files.get("file"):
            return self.refused(call, 400, "The file is not audio.", code="invalid_audio")
        pieces = []
        speaker = 1
        for at, word in enumerate(self.reply.split(" ")):
            who = {"speaker_id": f"speaker_{speaker}"} if call.body.get("diarize") == "true" else {}
            if at:
                pieces.append({"text": " ", "start": at - 0.2, "end": at, "type": "spacing", "logprob": 0.0})
            pieces.append({"text": word, "start": at, "end": at + 0.8, "type": "word", "logprob": -0.5, **who})
            speaker -= word.endswith(".")
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

    async def models(self, request: web.Request, call: Call) -> web.StreamResponse:
        """A model that speaks, and one that changes voices."""
        if refusal := self.rejected(call):
            return refusal
        languages = [{"language_id": "en", "name": "English"}, {"language_id": "de", "name": "German"}]
        speaks = {
            "model_id": "eleven_v9",
            "name": "Eleven v9",
            "can_do_text_to_speech": True,
            "languages": languages,
        }
        changes = {"model_id": "eleven_sts", "name": "Changer", "can_do_text_to_speech": False}
        for model in (speaks, changes):
            Model.model_validate(model)
        return await self.document(request, call, [speaks, changes])
