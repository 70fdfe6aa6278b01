"""Holds a model's answer to a Lark grammar with llguidance, for engines that sample in our own loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from catalog.errors import UnsupportedValue


def matcher_factory(tokenizer: Any, grammar: str) -> Callable[[], Any]:
    """Compile a grammar for an ``LLTokenizer``; the function makes a fresh matcher for each answer.

    Raises UnsupportedParameter for a grammar that does not compile.
    """
    from llguidance import LLMatcher

    matcher = LLMatcher(tokenizer, grammar, log_level=0)
    if matcher.is_error():
        reason = " ".join(matcher.get_error().split())[:300]
        raise UnsupportedValue(f"This grammar cannot be enforced: {reason}", param="grammar")
    fresh: Callable[[], Any] = matcher.deep_copy
    return fresh


class GrammarMask:
    """The tokens that a grammar allows next. ``ends`` are the tokens that end an answer."""

    def __init__(self, matcher: Any, ends: frozenset[int]) -> None:
        self._matcher = matcher
        self._ends = sorted(ends)
        self._begun = False

    def allowed(self, last: int, size: int) -> npt.NDArray[np.bool_]:
        """A flag for each of ``size`` tokens, after the token ``last`` was chosen (or the prompt ended with it).

        Raises RuntimeError when the grammar became too complex: the answer must not go on unbound.
        """
        if self._begun and not self._matcher.is_stopped():
            self._matcher.consume_token(last)
        self._begun = True
        flags = np.zeros(size, dtype=bool)
        if not self._matcher.is_stopped():
            bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
            known = np.unpackbits(bits, bitorder="little")[:size]
            flags[: len(known)] = known
        if self._matcher.is_error():
            raise RuntimeError(f"the grammar failed: {self._matcher.get_error()[:200]}")
        if self._matcher.is_stopped() or self._matcher.is_accepting():
            flags[self._ends] = True
        return flags
