"""Anthropic's Messages API behind the chat protocol."""
