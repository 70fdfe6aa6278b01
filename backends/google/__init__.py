"""Chat and embeddings over Google's Gemini API."""

from backends.google.backend import GoogleBackend

__all__ = ["GoogleBackend"]
