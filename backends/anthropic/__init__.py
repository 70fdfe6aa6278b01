"""Chat over Anthropic's Messages API."""

from backends.anthropic.backend import AnthropicBackend

__all__ = ["AnthropicBackend"]
