"""Ollama's API at the root: chats, completions, embeddings, and the models of this server.

Requests without keys of their own need none here, either, on this machine; elsewhere, Ollama's clients send the
key as ``Authorization: Bearer``. Source: Ollama's API reference.
"""
