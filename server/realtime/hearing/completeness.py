"""Whether what a speaker has said so far sounds complete, judged by its last words.

This is the semantic half of ``semantic_vad``: the transcript of a turn at a pause decides how long the silence may
last. It is a rule, no model: words that demand another word (articles, prepositions, conjunctions, fillers) and
open punctuation say that a speaker goes on; a question or an end of a sentence says that it is the other's turn.
The words are those of six languages; in any other the punctuation decides alone.
"""

from __future__ import annotations

import re
from typing import Literal

Eagerness = Literal["low", "medium", "high", "auto"]
LONGEST_MS = {"low": 8000.0, "medium": 4000.0, "auto": 4000.0, "high": 2000.0}
"""Silence after which a turn ends in any case. Source: OpenAI's API reference, ``eagerness``."""
SHORTEST_MS = {"low": 900.0, "medium": 400.0, "auto": 400.0, "high": 224.0}
"""Silence after which a complete sentence ends a turn."""
_WORDS = """
a an the and or but because if when while which whose with without of from into my your its our their um uh erm hmm
i'm than und oder aber weil wenn dass der die ein eine einen mit ohne von für ähm äh et ou mais parce quand le la
les un une des de du avec sans pour dans à je euh y o pero porque cuando el los las una unos con sin para en eh e
ma perché se quando il lo gli uno con senza per ehm mas quando os as uma com sem para em hum
"""
_OPEN = frozenset(_WORDS.split())
_QUOTES = "\"'\u2019\u201d)\\]"
_LAST = re.compile(r"([^\W\d_][\w'\u2019]*)\W*$")
_DONE = re.compile(rf"[.!?\u3002\uff01\uff1f\u061f\u0964][{_QUOTES}]*$")
_GOES_ON = re.compile(rf"(\.\.\.|\u2026|[,;:\u2013\u2014-])[{_QUOTES}]*$")
_ASKS = ("?", "\uff1f", "\u061f")


def completeness(text: str) -> float:
    """How likely a turn with this transcript is at its end, from 0 to 1."""
    said = text.strip()
    if not said:
        return 0.3
    if _GOES_ON.search(said):
        return 0.05
    last = _LAST.search(said)
    if said.endswith(_ASKS):
        return 0.95
    if last is not None and last[1].lower().replace("\u2019", "'") in _OPEN:
        return 0.1  # a transcriber ends what breaks off with a full stop, too
    return 0.9 if _DONE.search(said) else 0.5


def silence_for(text: str, eagerness: Eagerness) -> float:
    """Milliseconds of silence that end a turn with this transcript."""
    shortest, longest = SHORTEST_MS[eagerness], LONGEST_MS[eagerness]
    open_ = 1.0 - completeness(text)
    return shortest + (longest - shortest) * min(1.0, max(0.0, (open_ - 0.1) / 0.8))
