"""Anthropic's Messages API for any chat model: pure translations of request and answer.

``to_chat(request)`` is the chat request to dispatch. ``stream_of(request)`` translates its chunks into events:
``feed(chunk)`` for each, then ``finish()``, or ``fail(error)`` after the answer has begun. Each event is named by
its ``type``; there is no ``[DONE]``. A plain answer is ``message()`` after the same calls.
"""

from backends.wire.messages import MessagesRequest
from server.wires.messages.request import compaction_of, to_chat
from server.wires.messages.stream import MessageStream
from server.wires.messages.tools import members_called

__all__ = ["MessageStream", "stream_of", "to_chat"]


def stream_of(request: MessagesRequest, *, trace: str, prompt_tokens: int) -> MessageStream:
    """The answer to a request; ``prompt_tokens`` is the estimate for its first event."""
    members = members_called(request.tools)
    return MessageStream(
        message_id=f"msg_{trace}",
        prompt_tokens=prompt_tokens,
        stop_sequences=request.stop_sequences or (),
        members=members,
        names=members.keys() | {str(tool.get("name")) for tool in request.tools or ()},
        compacts=compaction_of(request) is not None,
    )
