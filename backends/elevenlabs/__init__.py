"""Speech and transcription over ElevenLabs' API."""

from backends.elevenlabs.backend import ElevenLabsBackend

__all__ = ["ElevenLabsBackend"]
