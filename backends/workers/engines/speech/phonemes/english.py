"""English by hibari's rules and dictionaries, which write the phonemes of Kokoro's own library (misaki).

No espeak, which is GPL-3, and no tagger that must be downloaded first.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.workers.engines.speech.phonemes.words import Word
from catalog.errors import EngineMissing, InvalidRequest

if TYPE_CHECKING:
    from hibari.g2p import G2P


class English:
    """Pronunciation of one accent. The rules are loaded at first use, and their cache needs a lock."""

    def __init__(self, *, british: bool) -> None:
        self._british = british
        self._lock = threading.Lock()
        self._rules: G2P | None = None

    def __call__(self, sentence: str) -> Sequence[Word]:
        """See :class:`Reader`."""
        with self._lock:
            rules = self._rules = self._rules or self._load()
            try:
                from hibari.g2p.normalize import normalize

                tokens = rules.phonemize_tokens(rules.tokenize(normalize(sentence)))
                return [Word(each.text, each.phonemes or "", bool(each.whitespace)) for each in tokens]
            except Exception as error:  # the rules are pure: any exception is caused by the text
                raise InvalidRequest(
                    f"The voice cannot read this sentence: {sentence[:60]!r}.", param="input"
                ) from error

    def _load(self) -> G2P:
        try:
            from hibari.g2p import G2P
            from hibari.g2p.oov import ASSETS, OOV
        except ImportError:
            raise EngineMissing("speech", extra="speech", package="hibari-tts") from None
        net = OOV(str(Path(ASSETS) / ("oov_gb.onnx" if self._british else "oov.onnx")))
        return G2P(oov=WholeWords(net), british=self._british)


class WholeWords:
    """Reads words that the dictionary lacks, in pieces: the net drops what is past its longest input."""

    def __init__(self, net: Any) -> None:
        self._net = net

    def __call__(self, word: str) -> str | None:
        longest = int(self._net.maxlen)
        pieces = -(-len(word) // longest)
        size = -(-len(word) // max(1, pieces))
        read = [self._net(word[start : start + size]) for start in range(0, len(word), max(1, size))]
        return " ".join(filter(None, read)) or None
