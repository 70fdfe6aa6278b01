"""A chat's prompt as a chain of blocks: tools and system messages, then each message.

A boundary is a digest of all blocks up to it, as engines key their caches of prompts (vLLM's automatic prefix
caching, SGLang's radix tree). The chain is computed only for a request that several models may answer, and for all
where such requests came lately.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

from backends.wire.chat import ContentPart, Message, Tool

_KEPT = 128
"""Boundaries of the latest messages that are kept: a later turn adds a few messages, not more than these."""
_LEADING = frozenset({"system", "developer"})
_MEDIA_LETTERS = 3200
"""Letters of text that a picture, a sound or a file counts as."""


class Boundary(NamedTuple):
    """The end of a block: the digest of all up to it, and their share of the prompt, in (0, 1]."""

    digest: bytes
    share: float


class Prefix:
    """The boundaries of one prompt. It refers to the messages until :meth:`settle`.

    ``key`` is the caller's: callers do not see by the choice of a model what others have sent.
    """

    __slots__ = ("_boundaries", "_has_head", "_key", "_messages", "_tools")

    def __init__(self, key: str, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> None:
        self._key = key
        self._messages: Sequence[Message] = messages
        self._tools: Sequence[Tool] = tools
        self._boundaries: tuple[Boundary, ...] | None = None
        self._has_head = False

    @property
    def known(self) -> bool:
        """Whether the boundaries were computed, or can no longer be."""
        return self._boundaries is not None

    @property
    def head(self) -> Boundary | None:
        """The end of the tools and leading system messages, which many conversations share; None without any."""
        found = self.boundaries
        return found[0] if self._has_head else None

    @property
    def whole(self) -> Boundary | None:
        """The end of the prompt; None if nothing is known of it."""
        found = self.boundaries
        return found[-1] if len(found) > self._has_head else None

    @property
    def turns(self) -> Sequence[Boundary]:
        """The ends of messages before the last, the latest first: where an earlier turn may have ended."""
        return self.boundaries[-2 : -len(self.boundaries) - 1 + self._has_head : -1]

    @property
    def boundaries(self) -> tuple[Boundary, ...]:
        """The head's, if any, and those of the latest messages; empty if :meth:`settle` did not want them."""
        if self._boundaries is None:
            self._boundaries = self._computed()
            self._messages, self._tools = (), ()
        return self._boundaries

    def settle(self, *, wanted: bool) -> None:
        """Compute the boundaries now if they are ``wanted``, and let the messages go in either case."""
        if self._boundaries is None:
            self._boundaries = self._computed() if wanted else ()
            self._messages, self._tools = (), ()

    def _computed(self) -> tuple[Boundary, ...]:
        chain = blake2b(self._key.encode("utf-8", "surrogatepass"), digest_size=12)
        letters, ends = 0, []
        for tool in self._tools:
            text = tool.model_dump_json(exclude_unset=True)
            chain.update(text.encode("utf-8", "surrogatepass"))
            letters += len(text)
        messages = self._messages
        leading = next((at for at, one in enumerate(messages) if one.role not in _LEADING), len(messages))
        self._has_head = bool(leading or self._tools)
        if self._has_head and not leading:
            ends.append((chain.digest(), letters))
        for at, message in enumerate(messages):
            chain.update(b"\0" + message.role.encode())
            for text, counted in _texts(message):
                chain.update(b"\1" + text.encode("utf-8", "surrogatepass"))
                letters += counted
            if (at + 1 >= leading and at + 1 + _KEPT > len(messages)) or at + 1 == leading:
                ends.append((chain.digest(), letters))
        return tuple(Boundary(digest, (end + 1) / (letters + 1)) for digest, end in ends)


def _texts(message: Message) -> list[tuple[str, int]]:
    """The parts of a message that a model reads, each with the letters that it counts as."""
    content = message.content
    found: list[tuple[str, int]] = []
    if isinstance(content, str):
        found.append((content, len(content)))
    elif content is not None:
        found += [_part(part) for part in content]
    for call in message.tool_calls or ():
        if call.function is not None:
            text = f"{call.function.name} {call.function.arguments}"
            found.append((text, len(text)))
    return found


def _part(part: ContentPart) -> tuple[str, int]:
    text = part.text if part.text is not None else part.refusal
    if text is not None:
        return text, len(text)
    return str(part.image_url or part.input_audio or part.file), _MEDIA_LETTERS
