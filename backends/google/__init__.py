"""Google's Gemini API behind the chat and embedding protocols."""

from backends.google.backend import GoogleBackend

__all__ = ["GoogleBackend"]
