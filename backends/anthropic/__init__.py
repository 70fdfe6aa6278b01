"""Anthropic's Messages API behind the chat protocol."""

from backends.anthropic.backend import AnthropicBackend

__all__ = ["AnthropicBackend"]
