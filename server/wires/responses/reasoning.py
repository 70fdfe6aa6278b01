"""Reasoning items of the Responses API: what a provider gave comes back to it, and to no other.

``encrypted_content`` of an item that the gateway writes holds the thinking blocks of the answer, the signatures of
its calls and the model's name. Clients such as Codex send back the fields that they know, and this is one of them.
"""

from __future__ import annotations

from backends.streams.sealing import decode_thinking, encode_thinking, is_encoded
from catalog.types import Json
from server.wires.translation import Losses

_MODEL, _SIGNED = "roundhouse.model", "roundhouse.call"
MADE_BY = "made_by"
"""The field of a message with the model whose reasoning it holds, until :func:`makers_in` takes it away."""


def sealed(blocks: list[Json], model: str) -> str:
    """The ``encrypted_content`` of an item of this model's reasoning."""
    return encode_thinking([*blocks, {"type": _MODEL, "model": model}])


def signed_call(call: Json) -> Json:
    """The block with the signature of a chat's tool call."""
    return {"type": _SIGNED, "id": call.get("id"), "extra_content": call["extra_content"]}


def read_reasoning(message: Json, item: Json, signatures: dict[str, Json], losses: Losses) -> None:
    """Add an item's reasoning to the assistant's message, and those of its calls to ``signatures`` by their ids.

    Reasoning that the gateway did not write is another provider's: it is left out, and named.
    """
    if not is_encoded(item.get("encrypted_content")):
        losses.add("input.reasoning")
        return
    kept: list[Json] = []
    for block in decode_thinking(item["encrypted_content"]):
        if block.get("type") == _MODEL:
            message[MADE_BY] = str(block.get("model"))
        elif block.get("type") == _SIGNED:
            signature = block.get("extra_content")
            signatures[str(block.get("id"))] = signature if isinstance(signature, dict) else {}
        else:
            kept.append(block)
    held = (item.get("content"), item.get("summary"))
    parts = [part for parts in held if isinstance(parts, list) for part in parts]
    text = "\n\n".join(
        part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)
    )
    if text:
        message["reasoning_content"] = message.get("reasoning_content", "") + text
    if kept:
        message["thinking_blocks"] = [*message.get("thinking_blocks", ()), *kept]


def makers_in(messages: list[Json]) -> dict[int, str]:
    """Takes the models whose reasoning the messages hold out of them. Returns each by its message's position."""
    return {at: message.pop(MADE_BY) for at, message in enumerate(messages) if MADE_BY in message}
