"""A session's configuration: defaults, partial updates, and the effective object that clients are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json
from routing.reading.intent import read_intent
from server.edge.json_body import as_model
from server.realtime.fields import (
    AnswerFields,
    ChosenFunction,
    InputTranscription,
    ResponseFields,
    SemanticTurns,
    ServerTurns,
    SessionFields,
    left_out_tools,
)
from server.realtime.hearing.completeness import LONGEST_MS
from server.realtime.hearing.ears import Listening
from server.realtime.sound import PCM_RATE, AudioForm

INSTRUCTIONS = (
    "You are talking with the user by voice. Answer in one or two short sentences, as they are spoken: no lists, "
    "no formatting, no emoji."
)
"""The default instructions of a session that answers with audio, shown in ``session.created`` as OpenAI does."""
_OPEN = frozenset({"audio", "input", "output"})
"""Objects of which an update replaces the named members alone."""
_LEAST, _MOST = 0.05, 0.99
"""The thresholds that tell speech from silence: the model is never as sure as 0 or 1."""
_ONCE = ("model", "type")
_SEMANTIC = Listening(threshold=0.5, prefix=300.0)


def defaults(kind: str, model: str) -> Json:
    """A new session's configuration, as a client would send it."""
    turns = {"type": "server_vad"}
    if kind == "transcription":
        return {"type": kind, "audio": {"input": {"turn_detection": turns, "transcription": {"model": model}}}}
    return {
        "type": kind,
        "model": model,
        "instructions": INSTRUCTIONS,
        "output_modalities": ["audio"],
        "tools": [],
        "tool_choice": "auto",
        "max_output_tokens": "inf",
        "audio": {"input": {"turn_detection": turns}},
    }


@dataclass(frozen=True, slots=True)
class Configuration:
    """The configuration in force. ``sent`` is the sum of what was sent, ``fields`` the same, validated."""

    id: str
    sent: Json
    fields: SessionFields
    expires_at: int
    dropped: tuple[str, ...] = field(default=())

    @classmethod
    def new(cls, id_: str, sent: Json, expires_at: int, update: Json | None = None) -> Configuration:
        """The configuration of ``sent``; what is dropped is told of ``update``, the part of it that is new.

        Raises InvalidRequest, and UnsupportedParameter for what is dropped from a strict session."""
        _check_turns(sent)
        fields = as_model(SessionFields, sent)
        if not fields.tools and needs_tools(fields):
            raise InvalidRequest("This 'tool_choice' needs 'tools'.", param="session.tool_choice")
        if fields.prompt is not None:
            raise InvalidRequest(
                "A stored prompt is its maker's alone: send its text as 'instructions'.", param="session.prompt"
            )
        dropped = _dropped(fields if update is None else as_model(SessionFields, update))
        if dropped and (fields.strict or read_intent(fields.model, fields.routing, {}).strict):
            raise UnsupportedParameter(f"The session is strict, and {dropped[0]} has no effect.", param=dropped[0])
        return cls(id_, sent, fields, expires_at, dropped)

    def updated(self, update: Json, *, spoken: bool) -> Configuration:
        """The configuration after an update; ``spoken``: there was sound, so the voice stays.

        Raises InvalidRequest as :meth:`new`, and for a change of what is fixed.
        """
        for name in _ONCE:
            if update.get(name) not in (None, self.sent.get(name, update.get(name))):
                raise InvalidRequest(
                    f"A session's {name} cannot change: open another session.", param=f"session.{name}"
                )
        made = Configuration.new(self.id, merged(self.sent, update), self.expires_at, update)
        if spoken and made.voice != self.voice:
            raise InvalidRequest(
                "The voice cannot change any more: this session has spoken.",
                param="session.audio.output.voice",
            )
        return made

    @property
    def constraints(self) -> tuple[Json | None, bool | None]:
        """``routing`` and ``strict``, which bind the hearing, the writing and the speaking."""
        return self.fields.routing, self.fields.strict

    @property
    def voice(self) -> str | None:
        voice = self.fields.audio.output.voice
        return voice if isinstance(voice, str) or voice is None else voice.id

    @property
    def speaker(self) -> str:
        """The model that speaks."""
        return self.fields.audio.output.model

    @property
    def transcriber(self) -> str | None:
        """The model that transcribes, if the session names how it is transcribed."""
        return None if self.transcription is None else self.transcription.model

    @property
    def transcribes(self) -> bool:
        """Whether this is a session of transcripts alone."""
        return self.fields.type == "transcription"

    @property
    def input_form(self) -> AudioForm:
        return AudioForm(self.fields.audio.input.format.type)

    @property
    def output_form(self) -> AudioForm:
        return AudioForm(self.fields.audio.output.format.type)

    @property
    def turns(self) -> ServerTurns | SemanticTurns | None:
        return self.fields.audio.input.turn_detection

    @property
    def transcription(self) -> InputTranscription | None:
        return self.fields.audio.input.transcription

    @property
    def listening(self) -> Listening | None:
        turns = self.turns
        if isinstance(turns, ServerTurns):
            threshold = min(max(turns.threshold, _LEAST), _MOST)
            return Listening(threshold, float(turns.prefix_padding_ms), float(turns.silence_duration_ms))
        if isinstance(turns, SemanticTurns):
            return Listening(_SEMANTIC.threshold, _SEMANTIC.prefix, LONGEST_MS[turns.eagerness])
        return None

    def public(self) -> Json:
        """The effective configuration in OpenAI's shape."""
        fields, audio = self.fields, self.fields.audio
        told: Json = {
            "type": fields.type,
            "object": f"realtime.{'transcription_session' if self.transcribes else 'session'}",
            "id": self.id,
            "expires_at": self.expires_at,
            "include": None,
            "audio": {
                "input": {
                    "format": told_form(audio.input.format.type),
                    "transcription": _dumped(audio.input.transcription),
                    "noise_reduction": None,
                    "turn_detection": _turns(audio.input.turn_detection),
                }
            },
        }
        if not self.transcribes:
            told["audio"]["output"] = {
                "format": told_form(audio.output.format.type),
                "voice": self.voice,
                "speed": audio.output.speed,
                "model": audio.output.model,
            }
            told |= {
                "model": fields.model,
                "instructions": fields.instructions or "",
                "output_modalities": fields.output_modalities or ["audio"],
                "tools": [tool.to_wire() for tool in fields.tools or () if tool.type == "function"],
                "tool_choice": _dumped(fields.tool_choice) or "auto",
                "max_output_tokens": fields.max_output_tokens or "inf",
                "truncation": _dumped(fields.truncation),
                "reasoning": _dumped(fields.reasoning),
                "parallel_tool_calls": fields.parallel_tool_calls,
                "prompt": None,
                "tracing": None,
            }
        if self.dropped:
            told["dropped"] = list(self.dropped)
        return told


def merged(base: Mapping[str, Any], update: Mapping[str, Any]) -> Json:
    """``base`` with the members of ``update``; of audio, its input and its output, member by member."""
    result = dict(base)
    for key, value in update.items():
        inside = key in _OPEN and isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if inside else value
    return result


def needs_tools(fields: AnswerFields) -> bool:
    """Whether a tool must be called."""
    return fields.tool_choice == "required" or isinstance(fields.tool_choice, ChosenFunction)


def _check_turns(sent: Json) -> None:
    """Raises InvalidRequest for a way to find turns that does not exist."""
    found: Any = sent
    for name in ("audio", "input", "turn_detection"):
        found = found.get(name) if isinstance(found, dict) else None
    if isinstance(found, dict) and found.get("type") not in ("server_vad", "semantic_vad"):
        raise InvalidRequest(
            "Turns are found by 'server_vad' or 'semantic_vad'; without 'turn_detection' the client commits.",
            param="session.audio.input.turn_detection.type",
        )


def check_response(fields: ResponseFields, session: SessionFields) -> None:
    """Raises InvalidRequest for what no response can have."""
    if fields.prompt is not None:
        raise InvalidRequest(
            "A stored prompt is its maker's alone: send its text as 'instructions'.", param="response.prompt"
        )
    if needs_tools(fields) and not (session.tools if fields.tools is None else fields.tools):
        raise InvalidRequest("This 'tool_choice' needs 'tools'.", param="response.tool_choice")
    if fields.conversation not in (None, "auto", "none"):
        raise InvalidRequest(
            "A response belongs to the session's conversation ('auto') or to none ('none').",
            param="response.conversation",
        )


def _dropped(fields: SessionFields) -> tuple[str, ...]:
    """The names of what was sent and has no effect."""
    names = []
    if fields.audio.input.noise_reduction is not None:
        names.append("audio.input.noise_reduction")
    if fields.tracing is not None:
        names.append("tracing")
    names += [f"include: {each}" for each in fields.include or ()]
    names += [f"tools: {kind}" for kind in left_out_tools(fields.tools)]
    names += sorted(fields.model_extra or ())
    for where, part in (("audio.input", fields.audio.input), ("audio.output", fields.audio.output)):
        names += [f"{where}.{name}" for name in sorted(part.model_extra or ())]
    if fields.audio.input.transcription is not None:
        names += [
            f"audio.input.transcription.{each}" for each in fields.audio.input.transcription.model_extra or ()
        ]
    known = {"id", "object", "expires_at", "client_secret", "dropped"}
    return tuple(name for name in names if name not in known)


def told_form(kind: str) -> Json:
    """A format of audio as clients are told it."""
    return {"type": kind, "rate": PCM_RATE} if kind == "audio/pcm" else {"type": kind}


def _turns(turns: ServerTurns | SemanticTurns | None) -> Json | None:
    return None if turns is None else turns.model_dump(mode="json")


def _dumped(value: Any) -> Any:
    return value.to_wire() if hasattr(value, "to_wire") else value
