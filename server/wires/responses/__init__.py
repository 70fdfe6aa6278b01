"""OpenAI's Responses API for any chat model: pure translations of request and answer.

``to_chat(request)`` is the chat request to dispatch. A :class:`ResponseStream` translates its chunks into events:
``start()``, ``feed(chunk)`` for each, then ``finish()``, or ``fail(error)`` after the answer has begun. A plain
answer is ``response()`` after the same calls.
"""

from server.wires.responses.request import to_chat
from server.wires.responses.stream import ResponseStream

__all__ = ["ResponseStream", "to_chat"]
