"""The shapes of the beta of OpenAI's Realtime API (header ``OpenAI-Beta: realtime=v1``), translated to today's.

Only names and places differ: a flat session, other types of content parts, and other names of some events. Source:
OpenAI's guide "Beta to GA migration", and ``openai.types.beta.realtime`` of its SDK.
"""

from __future__ import annotations

from typing import Any

from catalog.types import Json

HEADER, VALUE = "openai-beta", "realtime=v1"
PROTOCOL = "openai-beta.realtime-v1"
_KINDS = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_EVENTS = {
    "response.output_text.delta": "response.text.delta",
    "response.output_text.done": "response.text.done",
    "response.output_audio.delta": "response.audio.delta",
    "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
    "response.output_audio_transcript.done": "response.audio_transcript.done",
    "conversation.item.added": "conversation.item.created",
}
_UNKNOWN_THERE = frozenset({"conversation.item.done"})
_PARTS = {"output_text": "text", "output_audio": "audio"}


def to_current(session: Json) -> Json:
    """A flat session, or an update of one, in today's shape; one that has it already stays."""
    flat = dict(session)
    sound: Json = {}
    heard: Json = {}
    if "modalities" in flat:
        given = flat.pop("modalities")
        flat["output_modalities"] = ["audio"] if isinstance(given, list) and "audio" in given else given
    if "max_response_output_tokens" in flat:
        flat["max_output_tokens"] = flat.pop("max_response_output_tokens")
    for name, place, key in (
        ("voice", sound, "voice"),
        ("speed", sound, "speed"),
        ("input_audio_transcription", heard, "transcription"),
        ("input_audio_noise_reduction", heard, "noise_reduction"),
        ("turn_detection", heard, "turn_detection"),
    ):
        if name in flat:
            place[key] = flat.pop(name)
    for name, place in (("input_audio_format", heard), ("output_audio_format", sound)):
        if name in flat:
            given = flat.pop(name)
            place["format"] = {"type": _KINDS.get(given, given)}
    if isinstance(heard.get("transcription"), dict) and "model" not in heard["transcription"]:
        heard["transcription"] = {**heard["transcription"], "model": "auto"}
    audio = {**({"input": heard} if heard else {}), **({"output": sound} if sound else {})}
    if audio and isinstance(flat.get("audio", {}), dict):
        flat["audio"] = {**audio, **flat.get("audio", {})}
    return flat


def to_beta(event: Json) -> Json | None:
    """An event as the beta's clients know it; None for one that they do not."""
    if event["type"] in _UNKNOWN_THERE:
        return None
    told = {**event, "type": _EVENTS.get(event["type"], event["type"])}
    if "item" in told:
        told["item"] = _item(told["item"])
    if "part" in told:
        told["part"] = _part(told["part"])
    if "session" in told:
        told["session"] = _session(told["session"])
    if isinstance(told.get("response"), dict):
        response = told["response"]
        told["response"] = {**response, "output": [_item(each) for each in response.get("output") or ()]}
        if "output_modalities" in response:
            told["response"]["modalities"] = _modalities(response["output_modalities"])
    return told


def _item(item: Json) -> Json:
    if item.get("role") != "assistant":
        return item
    return {**item, "content": [_part(part) for part in item.get("content") or ()]}


def _part(part: Json) -> Json:
    return {**part, "type": _PARTS.get(part["type"], part["type"])}


def _modalities(modalities: list[str]) -> list[str]:
    return ["audio", "text"] if "audio" in modalities else modalities


def _session(session: Json) -> Json:
    audio: dict[str, Any] = session.get("audio") or {}
    heard, sound = audio.get("input") or {}, audio.get("output") or {}
    flat = {name: value for name, value in session.items() if name not in ("audio", "type", "output_modalities")}
    flat |= {
        "input_audio_format": _NAMES.get(str((heard.get("format") or {}).get("type")), "pcm16"),
        "input_audio_transcription": heard.get("transcription"),
        "input_audio_noise_reduction": heard.get("noise_reduction"),
        "turn_detection": heard.get("turn_detection"),
    }
    if sound:
        flat |= {
            "modalities": _modalities(session.get("output_modalities") or ["audio"]),
            "output_audio_format": _NAMES.get(str((sound.get("format") or {}).get("type")), "pcm16"),
            "voice": sound.get("voice"),
            "speed": sound.get("speed"),
            "max_response_output_tokens": session.get("max_output_tokens"),
        }
    return flat
