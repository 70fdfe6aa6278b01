"""The endpoints besides the three of conversations: a value for every parameter, and for this server's own."""

from __future__ import annotations

import base64
from types import MappingProxyType
from typing import Any

from tests.conformance.features.doors import PICTURE, PNG, WAV, Door, Sample, plain

_CUT: dict[str, Any] = {"truncate": True}

EMBEDDINGS = Door(
    "/v1/embeddings",
    {"input": "mark-text"},
    (
        *plain(
            dimensions=5, encoding_format="base64", user="mark-user", input_type="query", instruction="mark-task",
            **_CUT,
        ),
        Sample("input: several texts", {"input": ["mark-one", "mark-two"]}),
        Sample("input: tokens", {"input": [5, 6]}),
    ),
    gateway=MappingProxyType({"model": "chooses the row"}),
    own={"encoding_format": "the gateway encodes the vectors"},
)  # fmt: skip

COMPLETIONS = Door(
    "/v1/completions",
    {"prompt": "mark-text"},
    (
        *plain(
            best_of=2, echo=True, frequency_penalty=0.5, logit_bias={"15": 5}, logprobs=2, max_tokens=7, n=2,
            presence_penalty=0.5, seed=7, stop=["mark-stop"], suffix="mark-suffix", temperature=0.5, top_p=0.5,
            user="mark-user", top_k=5, min_p=0.1, repeat_penalty=1.1, stream=True,
        ),
        Sample("echo: with logprobs", {"echo": True, "logprobs": 1}),
        Sample("prompt: several texts", {"prompt": ["mark-one", "mark-two"]}),
        Sample("prompt: tokens", {"prompt": [15, 16]}),
        Sample("response_format: json_object", {"response_format": {"type": "json_object"}}),
        Sample("stream_options", {"stream": True, "stream_options": {"include_usage": True}}),
        Sample("stream_options: continuous_usage_stats", {
            "stream": True, "stream_options": {"continuous_usage_stats": True},
        }),
    ),
    gateway=MappingProxyType({"model": "chooses the row"}),
    own={
        "stream": "the gateway asks for a stream as it needs one", "stream_options": "the gateway counts",
        "echo": "the gateway repeats the prompt", "n": "one call for each choice",
        "best_of": "the gateway compares the tries",
    },
)  # fmt: skip

RERANK = Door(
    "/v1/rerank",
    {"query": "mark-query", "documents": ["mark-one", "mark-two"]},
    (
        *plain(
            top_n=1, return_documents=True, max_tokens_per_doc=50, max_chunks_per_doc=2, instruction="mark-task",
            **_CUT,
        ),
        Sample("documents: objects", {"documents": [{"text": "mark-one"}, {"text": "mark-two"}]}),
    ),
    own={"return_documents": "the gateway has them", "documents: objects": "the gateway sends their texts"},
)  # fmt: skip

CLASSIFY = Door(
    "/v1/classify",
    {"input": "mark-text", "labels": ["mark-good", "mark-bad"]},
    (
        *plain(user="mark-user", **_CUT),
        Sample("input: objects", {"input": [{"text": "mark-one"}]}),
    ),
)

MODERATIONS = Door(
    "/v1/moderations",
    {"input": "mark-text"},
    (
        Sample("input: several texts", {"input": ["mark-one", "mark-two"]}),
        Sample("input: text in parts", {"input": [{"type": "text", "text": "mark-one"}]}),
        Sample("input: picture", {"input": [{"type": "image_url", "image_url": {"url": PICTURE}}]}),
    ),
    gateway=MappingProxyType({"model": "chooses the row"}),
)

_OF_PICTURES = MappingProxyType({
    "response_format": "the gateway asks for the picture, and names it by an address of its own",
    "stream": "the gateway writes the events",
})  # fmt: skip

IMAGES = Door(
    "/v1/images/generations",
    {"prompt": "mark-text"},
    (
        *plain(
            background="opaque", complexity="high", frame_count=2, frame_duration_ms=50, moderation="low", n=2,
            output_compression=50, output_format="webp", quality="low", safety_identifier="mark-safe",
            size="1024x1024", style="mark-style", svg=True, user="mark-user", negative_prompt="mark-not", seed=7,
            steps=5, guidance_scale=3.5,
        ),
        Sample("partial_images", {"stream": True, "partial_images": 1}),
        Sample("response_format: b64_json", {"response_format": "b64_json"}),
        Sample("response_format: url", {"response_format": "url"}),
        Sample("stream", {"stream": True}),
    ),
    gateway=MappingProxyType({"model": "chooses the row", "prompt": "the request itself"}),
    own=_OF_PICTURES,
)  # fmt: skip

EDITS = Door(
    "/v1/images/edits",
    {"prompt": "mark-text"},
    (
        *plain(
            background="opaque", complexity="high", frame_count="2", frame_duration_ms="50", input_fidelity="high",
            n="2", output_compression="50", output_format="webp", quality="low", safety_identifier="mark-safe",
            size="1024x1024", user="mark-user", negative_prompt="mark-not", seed="7", steps="5",
            guidance_scale="3.5", strength="0.5",
        ),
        Sample("partial_images", {"stream": "true", "partial_images": "1"}),
        Sample("response_format: b64_json", {"response_format": "b64_json"}),
        Sample("response_format: url", {"response_format": "url"}),
        Sample("stream", {"stream": "true"}),
        Sample("svg: model", {"svg[model]": "mark-svg"}),
    ),
    gateway=MappingProxyType({
        "model": "chooses the row", "prompt": "the request itself", "image": "the request itself",
        "mask": "a file", "markup": "a file",
    }),
    own=_OF_PICTURES,
    file=base64.b64decode(PNG),
    field="image",
)  # fmt: skip

SPEECH = Door(
    "/v1/audio/speech",
    {"input": "mark-text", "voice": "alloy"},
    (
        *plain(instructions="mark-mood", speed=1.1, language="en", sample_rate=24000),
        *(Sample(f"response_format: {name}", {"response_format": name}) for name in (
            "mp3", "opus", "aac", "flac", "wav", "pcm", "ulaw", "alaw",
        )),
        Sample("stream_format: sse", {"stream_format": "sse"}),
        Sample("voice: of the model", {"voice": "mark-voice"}),
        Sample("timestamp_granularities", {"timestamp_granularities": ["character"], "stream_format": "sse"}),
    ),
    gateway=MappingProxyType({"model": "chooses the row", "input": "the request itself", "voice": "a sample"}),
    own={"stream_format": "the gateway frames the audio"},
)  # fmt: skip

TRANSCRIPTIONS = Door(
    "/v1/audio/transcriptions",
    {},
    (
        *plain(language="en", prompt="mark-prompt", temperature="0.5", stream="true"),
        *(Sample(f"response_format: {name}", {"response_format": name}) for name in (
            "text", "verbose_json", "srt", "vtt", "diarized_json",
        )),
        Sample("timestamp_granularities", {
            "response_format": "verbose_json", "timestamp_granularities[]": ["word"],
        }),
        Sample("include", {"include[]": ["logprobs"]}),
        Sample("keywords", {"keywords[]": ["mark-word"]}),
        Sample("languages", {"languages[]": ["en"]}),
        Sample("chunking_strategy", {"chunking_strategy": "auto"}),
        Sample("known_speaker_names", {"known_speaker_names[]": ["mark-name"]}),
        Sample("known_speaker_references", {"known_speaker_references[]": ["data:audio/wav;base64,bWFyaw=="]}),
        Sample("vad_filter", {"vad_filter": "true"}),
    ),
    gateway=MappingProxyType({"model": "chooses the row", "file": "the request itself"}),
    own={
        "stream": "the gateway writes the events", "response_format: srt": "the gateway writes it",
        "response_format: vtt": "the gateway writes it", "response_format: text": "the gateway writes it",
    },
    file=base64.b64decode(WAV),
)  # fmt: skip

OLLAMA = Door(
    "/api/chat",
    {"messages": [{"role": "user", "content": "Say it."}], "stream": False},
    (
        *plain(stream=True, keep_alive="5m", think=True, format="json"),
        Sample("format: schema", {"format": {
            "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
        }}),
        Sample("tools", {"tools": [{"type": "function", "function": {
            "name": "weather", "description": "mark-tool", "parameters": {"type": "object", "properties": {}},
        }}]}),
        *(Sample(f"options.{name}", {"options": {name: value}}) for name, value in {
            "temperature": 0.5, "top_k": 5, "top_p": 0.5, "min_p": 0.1, "seed": 7, "num_predict": 77,
            "stop": ["mark-stop"], "repeat_penalty": 1.1, "num_ctx": 2048,
        }.items()),
    ),
    own={"stream": "the gateway writes the lines", "keep_alive": "the gateway keeps its own workers loaded"},
)  # fmt: skip

OTHERS = MappingProxyType(
    {
        "Embeddings": EMBEDDINGS,
        "Completions": COMPLETIONS,
        "Rerank": RERANK,
        "Classify": CLASSIFY,
        "Moderations": MODERATIONS,
        "Images": IMAGES,
        "Image edits": EDITS,
        "Speech": SPEECH,
        "Transcriptions": TRANSCRIPTIONS,
        "Ollama's chat": OLLAMA,
    }
)
