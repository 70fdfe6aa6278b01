"""A session's configuration as clients send it. Source: the types of OpenAI's SDK, ``openai.types.realtime``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from backends.wire.audio import MAX_TERMS, Language, Term, VoiceId
from backends.wire.chat import MAX_TOOLS, ToolName
from backends.wire.common import Effort, Finite, Identifier, Metadata, ModelName, Text, WireModel
from backends.wire.schema import Schema

Milliseconds = Annotated[int, Field(ge=0, le=60_000)]
Modalities = Annotated[list[Literal["text", "audio"]], Field(min_length=1, max_length=1)]
MostTokens = Annotated[int, Field(ge=1, le=10_000_000)] | Literal["inf"]


class AudioFormatField(WireModel):
    """One of the three formats. The rate is always 24 kHz for pcm, and 8 kHz for the others."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: Literal[24000, 8000] | None = None


class InputTranscription(WireModel):
    """How the input is transcribed. ``model`` is any that transcribes, or ``auto``."""

    model: ModelName = "auto"
    language: Language | None = None
    languages: Annotated[list[Language], Field(max_length=32)] | None = None
    prompt: Annotated[str, StringConstraints(max_length=20_000)] | None = None
    keywords: Annotated[list[Term], Field(max_length=MAX_TERMS)] | None = None


class ServerTurns(WireModel):
    """Turns by silence (``server_vad``)."""

    type: Literal["server_vad"]
    threshold: Annotated[Finite, Field(ge=0, le=1)] = 0.5
    prefix_padding_ms: Milliseconds = 300
    silence_duration_ms: Annotated[int, Field(ge=64, le=60_000)] = 500
    create_response: bool = True
    interrupt_response: bool = True
    idle_timeout_ms: Annotated[int, Field(ge=1000, le=600_000)] | None = None


class SemanticTurns(WireModel):
    """Turns by silence whose length depends on how complete the words sound (``semantic_vad``)."""

    type: Literal["semantic_vad"]
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True


class AudioInput(WireModel):
    format: AudioFormatField = AudioFormatField()
    transcription: InputTranscription | None = None
    turn_detection: Annotated[ServerTurns | SemanticTurns, Field(discriminator="type")] | None = None
    noise_reduction: dict[str, Any] | None = None


class AudioOutput(WireModel):
    """``model`` is ours: any that speaks, or ``auto``."""

    format: AudioFormatField = AudioFormatField()
    voice: Identifier | VoiceId | None = None
    speed: Annotated[Finite, Field(ge=0.25, le=4.0)] = 1.0
    model: ModelName = "auto"


class SessionAudio(WireModel):
    input: AudioInput = AudioInput()
    output: AudioOutput = AudioOutput()


class RealtimeFunction(WireModel):
    """A tool. Others than functions are left out and named."""

    type: Identifier
    name: ToolName | None = None
    description: Text | None = None
    parameters: Schema | None = None


class ChosenFunction(WireModel):
    type: Identifier = "function"
    name: ToolName | None = None


class SessionReasoning(WireModel):
    effort: Effort | None = None


class KeptShare(WireModel):
    type: Literal["retention_ratio"]
    retention_ratio: Annotated[Finite, Field(ge=0, le=1)]


class AnswerFields(WireModel):
    """The fields that a session and a single response share."""

    instructions: Text | None = None
    output_modalities: Modalities | None = None
    tools: Annotated[list[RealtimeFunction], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenFunction | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: MostTokens | None = None
    reasoning: SessionReasoning | None = None
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    prompt: dict[str, Any] | None = None


class SessionFields(AnswerFields):
    """A session. ``routing`` and ``strict`` are ours, as on every endpoint."""

    type: Literal["realtime", "transcription"] = "realtime"
    model: ModelName = "auto"
    audio: SessionAudio = SessionAudio()
    include: Annotated[list[Identifier], Field(max_length=16)] | None = None
    tracing: Any = None
    truncation: Literal["auto", "disabled"] | KeptShare = "auto"
    routing: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseAudio(WireModel):
    output: AudioOutput | None = None


class ResponseFields(AnswerFields):
    """A response's own fields, which take the place of the session's."""

    conversation: Identifier | None = None
    input: Annotated[list[dict[str, Any]], Field(max_length=1024)] | None = None
    metadata: Metadata | None = None
    audio: ResponseAudio | None = None


def left_out_tools(tools: list[RealtimeFunction] | None) -> list[str]:
    """The types of the tools that are no functions, which nothing here runs."""
    return sorted({tool.type for tool in tools or () if tool.type != "function"})
