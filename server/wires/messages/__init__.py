"""Anthropic's Messages API for any chat model: pure translations of request and answer.

``to_chat(request)`` is the chat request to dispatch. A :class:`MessageStream` translates its chunks into events:
``feed(chunk)`` for each, then ``finish()``, or ``fail(error)`` after the answer has begun. Each event is named by
its ``type``; there is no ``[DONE]``. A plain answer is ``message()`` after the same calls.
"""

from server.wires.messages.request import to_chat
from server.wires.messages.stream import MessageStream
from server.wires.messages.tools import members_called

__all__ = ["MessageStream", "members_called", "to_chat"]
