"""The language inside: OpenAI request types, bounded, and the reader and writer of event streams."""
