"""OpenAI's Realtime API: a spoken conversation over a WebSocket, with any chat model.

A session hears (:mod:`hearing`: voice activity, turns, transcription), asks a chat model, and speaks
(:mod:`speaking`: sentences, voices) while the model still writes. Each of these is a job like a handler's.
Nothing here knows the WebSocket but :mod:`socket`.
"""
