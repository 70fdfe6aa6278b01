"""Anthropic's Messages API in front of any chat model: pure translations of the request and of the answer.

An endpoint does ``chat = to_chat(request)``, has ``chat`` answered, and writes ``stream = MessageStream(...)``'s
events: ``feed(chunk)`` for every chunk, then ``finish()``; or ``fail(error)`` once the answer has begun. Each
event is named by its ``type``; there is no ``[DONE]``. For a plain answer it runs through the same events and
sends ``stream.message()``."""

from server.wires.messages.request import to_chat
from server.wires.messages.stream import MessageStream

__all__ = ["MessageStream", "to_chat"]
