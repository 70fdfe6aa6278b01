"""ElevenLabs behind the speech and transcription protocols."""

from backends.elevenlabs.backend import ElevenLabsBackend

__all__ = ["ElevenLabsBackend"]
