"""OpenAI's Responses API in front of any chat model: pure translations of the request and of the answer.

An endpoint does ``chat = to_chat(request)``, has ``chat`` answered, and writes ``stream = ResponseStream(...)``'s
events: ``start()``, ``feed(chunk)`` for every chunk, ``finish()``; or ``fail(error)`` once the answer has begun.
For a plain answer it runs through the same events and sends ``stream.response()``.
"""

from server.wires.responses.request import to_chat
from server.wires.responses.stream import ResponseStream

__all__ = ["ResponseStream", "to_chat"]
