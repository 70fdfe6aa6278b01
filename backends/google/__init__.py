"""Google's Gemini API behind the chat and embedding protocols."""

from backends.google.backend import GoogleBackend, dropped

__all__ = ["GoogleBackend", "dropped"]
