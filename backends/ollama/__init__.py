"""Ollama over its own API; its OpenAI-compatible ``/v1`` where a server has no other."""

from backends.ollama.backend import OllamaBackend

__all__ = ["OllamaBackend"]
