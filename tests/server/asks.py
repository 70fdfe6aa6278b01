"""A request to each operation of ``/openapi.json``, for each media type of its answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from catalog.types import Json
from server.edge.contracts import JSON_LINES
from tests.fakes.pictures import encoded, quarters
from tests.server.api.test_chat import BODY

VIDEO = {"model": "parrot", "prompt": "A fox."}
AUDIO = {"files": {"file": ("a.wav", b"RIFF")}}
PICTURE = {"files": {"image": ("a.png", encoded(quarters(8, 6)))}}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


@dataclass(frozen=True)
class Ask:
    """One request to an operation of the document, and the media type of its answer."""

    method: str
    path: str
    media_type: str = "application/json"
    given: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.media_type}"


def post(path: str, body: Json, media_type: str = "application/json") -> Ask:
    return Ask("post", path, media_type, {"json": body})


UPLOAD = {"bytes": 2, "filename": "a", "mime_type": "text/plain", "purpose": "user_data"}
MESSAGES = [{"role": "user", "content": "Hi"}]
MESSAGE = {"custom_id": "a", "params": {"model": "parrot", "max_tokens": 9, "messages": MESSAGES}}
SSE = "text/event-stream"
WAV = b"RIFF\x24\x00\x00\x00WAVE"
CONSENT: Any = {"files": {"recording": ("a", WAV)}, "data": {"name": "a", "language": "en"}}
ASKS = (
    post("/v1/chat/completions", {**BODY, "tools": [TOOL]}),
    post("/v1/chat/completions", {**BODY, "stream": True, "stream_options": {"include_usage": True}}, SSE),
    post("/v1/completions", {"model": "parrot", "prompt": "Hi"}),
    post("/v1/completions", {"model": "parrot", "prompt": "Hi", "stream": True}, SSE),
    post("/v1/realtime/client_secrets", {"session": {"type": "realtime", "model": "parrot"}}),
    post("/v1/embeddings", {"model": "parrot", "input": ["a", "b"]}),
    post("/v1/embeddings", {"model": "parrot", "input": "a", "encoding_format": "base64"}),
    post("/v1/rerank", {"model": "r", "query": "q", "documents": ["a", "b"], "return_documents": True}),
    post("/v1/score", {"model": "r", "text_1": "q", "text_2": ["a", "b"]}),
    post("/embed", {"inputs": ["a", "b"]}),
    post("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"]}}),
    post("/predict", {"inputs": [["a"], ["b"]]}),
    Ask("get", "/info"),
    post("/tokenize", {"inputs": ["a", "b"]}),
    post("/decode", {"ids": [72, 105]}),
    post("/v1/embed", {"model": "parrot", "texts": ["a"]}),
    post("/v2/embed", {"model": "parrot", "texts": ["a"], "embedding_types": ["float", "int8", "base64"]}),
    post("/v1/classify", {"model": "r", "input": ["a"], "labels": ["good", "bad"]}),
    post(
        "/v1/ground", {"model": "parrot", "image": "https://pictures.example/a.png", "phrase": ["a cat", "a dog"]}
    ),
    post("/v1/moderations", {"model": "r", "input": ["a", "b"]}),
    *(
        Ask("post", f"/v1/audio/{what}", media_type, {**AUDIO, "data": {"model": "ear", **fields}})
        for what in ("transcriptions", "translations")
        for media_type, fields in (
            ("application/json", {}),
            ("application/json", {"response_format": "verbose_json"}),
            ("text/plain", {"response_format": "text"}),
            ("text/vtt", {"response_format": "vtt"}),
            ("application/x-subrip", {"response_format": "srt"}),
            (SSE, {"stream": "true"}),
        )
    ),
    *(
        post("/v1/audio/speech", {"model": "songbird", "input": "Hi", "response_format": name}, media_type)
        for name, media_type in (
            ("mp3", "audio/mpeg"),
            ("opus", "audio/ogg"),
            ("aac", "audio/aac"),
            ("flac", "audio/flac"),
            ("wav", "audio/wav"),
            ("pcm", "audio/pcm"),
            ("ulaw", "audio/PCMU"),
            ("alaw", "audio/PCMA"),
        )
    ),
    post("/v1/audio/speech", {"model": "songbird", "input": "Hi", "stream_format": "sse"}, SSE),
    Ask("get", "/v1/audio/voices"),
    Ask("post", "/v1/audio/voices", given={"files": {"audio_sample": ("a", WAV)}, "data": {"consent": "CONSENT"}}),
    Ask("get", "/v1/audio/voices/{voice_id}"),
    Ask("get", "/v1/audio/voices/{voice_id}/sample", "application/octet-stream"),
    Ask("get", "/v1/audio/voices/{voice_id}/sample", "audio/mpeg"),
    Ask("delete", "/v1/audio/voices/{voice_id}"),
    Ask("post", "/v1/audio/voice_consents", given=CONSENT),
    Ask("get", "/v1/audio/voice_consents"),
    Ask("get", "/v1/audio/voice_consents/{consent_id}"),
    post("/v1/audio/voice_consents/{consent_id}", {"name": "b"}),
    Ask("delete", "/v1/audio/voice_consents/{consent_id}"),
    post("/v1/images/generations", {"model": "p", "prompt": "a bird", "n": 2}),
    post("/v1/images/generations", {"model": "p", "prompt": "a bird", "stream": True}, SSE),
    post("/v1/videos", VIDEO),
    Ask("get", "/v1/videos"),
    Ask("get", "/v1/videos/{video_id}"),
    *(
        Ask("get", "/v1/videos/{video_id}/content", media_type, {"params": {"variant": variant}})
        for variant, media_type in (
            ("video", "video/mp4"),
            ("thumbnail", "image/webp"),
            ("spritesheet", "image/jpeg"),
        )
    ),
    post("/v1/videos/edits", {**VIDEO, "video": {"id": "VIDEO"}}),
    post("/v1/videos/extensions", {**VIDEO, "seconds": "4", "video": {"id": "VIDEO"}}),
    post("/v1/videos/{video_id}/remix", {"prompt": "At dusk."}),
    Ask("post", "/v1/videos/{video_id}/cancel"),
    Ask("delete", "/v1/videos/{video_id}"),
    *(
        Ask(
            "post",
            f"/v1/images/{what}",
            media_type,
            {**PICTURE, "data": {"model": "p", "prompt": "a hat", **fields}},
        )
        for what in ("edits", "variations")
        for media_type, fields in (("application/json", {}), (SSE, {"stream": "true"}))
    ),
    post("/tokenize", {"content": "Hi"}),
    post("/tokenize", {"messages": MESSAGES, "return_token_strs": True, "with_pieces": True}),
    post("/apply-template", {"messages": MESSAGES}),
    Ask("get", "/props"),
    Ask("get", "/tokenizer_info"),
    Ask("get", "/version"),
    post("/infill", {"input_prefix": "a", "input_suffix": "b"}),
    post("/infill", {"input_prefix": "a", "input_suffix": "b", "stream": True}, SSE),
    post("/detokenize", {"tokens": [72]}),
    post("/v1/responses", {"model": "parrot", "input": "Hi"}),
    post("/v1/responses", {"model": "parrot", "input": "Hi", "stream": True}, SSE),
    post("/v1/responses/input_tokens", {"model": "parrot", "input": "Hi"}),
    post("/v1/responses/compact", {"model": "parrot", "input": "Hi"}),
    Ask("get", "/v1/responses/{response_id}"),
    Ask("get", "/v1/responses/{response_id}", SSE, {"params": {"stream": "true"}}),
    Ask("post", "/v1/responses/{response_id}/cancel"),
    Ask("get", "/v1/responses/{response_id}/input_items"),
    Ask("delete", "/v1/responses/{response_id}"),
    post("/v1/conversations", {"items": MESSAGES}),
    Ask("get", "/v1/conversations/{conversation_id}"),
    post("/v1/conversations/{conversation_id}", {"metadata": {"a": "b"}}),
    Ask("delete", "/v1/conversations/{conversation_id}"),
    post("/v1/conversations/{conversation_id}/items", {"items": MESSAGES}),
    Ask("get", "/v1/conversations/{conversation_id}/items"),
    Ask("get", "/v1/conversations/{conversation_id}/items/{item_id}"),
    Ask("delete", "/v1/conversations/{conversation_id}/items/{item_id}"),
    Ask("get", "/v1/chat/completions", given={"params": {"metadata[a]": "b"}}),
    Ask("get", "/v1/chat/completions/{completion_id}"),
    post("/v1/chat/completions/{completion_id}", {"metadata": {"a": "b"}}),
    Ask("delete", "/v1/chat/completions/{completion_id}"),
    Ask("get", "/v1/chat/completions/{completion_id}/messages"),
    post("/v1/messages", {"model": "parrot", "max_tokens": 9, "messages": MESSAGES}),
    post("/v1/messages", {"model": "parrot", "max_tokens": 9, "messages": MESSAGES, "stream": True}, SSE),
    post("/v1/messages/count_tokens", {"model": "parrot", "messages": MESSAGES}),
    *(
        post(path, {"model": "parrot", **fields, "stream": media_type == JSON_LINES}, media_type)
        for path, fields in (
            ("/api/chat", {"messages": MESSAGES, "tools": [TOOL]}),
            ("/api/generate", {"prompt": "Hi"}),
        )
        for media_type in ("application/json", JSON_LINES)
    ),
    post("/api/embed", {"model": "parrot", "input": ["a", "b"]}),
    post("/api/embeddings", {"model": "parrot", "prompt": "a"}),
    Ask("get", "/api/tags"),
    Ask("get", "/api/ps"),
    Ask("get", "/api/version"),
    post("/api/show", {"model": "parrot"}),
    Ask("post", "/v1/files", given={"files": {"file": ("a", b"{}")}, "data": {"purpose": "batch"}}),
    Ask("get", "/v1/files"),
    Ask("get", "/v1/files/{file_id}"),
    Ask("get", "/v1/files/{file_id}/content", "application/octet-stream"),
    Ask("delete", "/v1/files/{file_id}"),
    post("/v1/batches", {"input_file_id": "FILE", "endpoint": "/v1/embeddings", "metadata": {"a": "b"}}),
    Ask("get", "/v1/batches"),
    Ask("get", "/v1/batches/{batch_id}"),
    Ask("post", "/v1/batches/{batch_id}/cancel"),
    post("/v1/messages/batches", {"requests": [MESSAGE]}),
    Ask("get", "/v1/messages/batches"),
    Ask("get", "/v1/messages/batches/{batch_id}"),
    Ask("post", "/v1/messages/batches/{batch_id}/cancel"),
    Ask("get", "/v1/messages/batches/{batch_id}/results", "application/x-jsonl"),
    Ask("delete", "/v1/messages/batches/{batch_id}"),
    post("/v1/uploads", UPLOAD),
    Ask("post", "/v1/uploads/{upload_id}/parts", given={"files": {"data": ("a", b"{}")}}),
    post("/v1/uploads/{upload_id}/complete", {"part_ids": ["PART"]}),
    Ask("post", "/v1/uploads/{upload_id}/cancel"),
    post("/v1/route", BODY),
    Ask("get", "/v1/traces"),
    Ask("get", "/v1/traces/{trace_id}"),
    post("/v1/outcomes", {"trace": "TRACE", "accepted": True}),
    post("/v1/admin/priors", {"benchmarks": {"parrot": {"chat": 0.5}}}),
    Ask("get", "/v1/admin/priors"),
    Ask("get", "/v1/usage"),
    Ask("get", "/v1/usage", "text/csv", {"params": {"format": "csv"}}),
    Ask("get", "/v1/admin/report"),
    Ask("get", "/v1/admin/settings"),
    Ask("get", "/v1/key"),
    Ask("get", "/v1/admin/keys"),
    post("/v1/admin/keys", {"name": "me", "admin": True}),
    Ask("get", "/v1/admin/log", "text/plain"),
    Ask("get", "/v1/admin/recommendations"),
    Ask("get", "/v1/models"),
    Ask("get", "/v1/models/{model_id}"),
    Ask("post", "/v1/models/{model_id}/load"),
    Ask("post", "/v1/models/{model_id}/unload"),
    Ask("get", "/v1/admin/workers"),
    Ask("get", "/v1/admin/workers/{model_id}/log", "text/plain"),
    Ask("get", "/"),
    Ask("get", "/openapi.json"),
    Ask("get", "/health"),
    Ask("get", "/ready"),
    Ask("get", "/metrics", "text/plain"),
)
