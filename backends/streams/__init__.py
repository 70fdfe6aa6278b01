"""Streams of chunks: reading server-sent events, making chunks, and assembling answers from chunks."""
