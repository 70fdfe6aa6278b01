"""Ollama's API for any model: pure translations of requests and answers.

``to_chat`` and ``to_completion`` make the request to dispatch; :class:`AnswerLines` translates its chunks into the
lines of Ollama's streams, or into one object. Source: Ollama's API reference.
"""
