"""Anthropic's Messages API behind the chat protocol."""

from backends.anthropic.backend import AnthropicBackend, dropped

__all__ = ["AnthropicBackend", "dropped"]
