"""Japanese: readings of Open JTalk (package ``pyopenjtalk-plus``, with its dictionary), and kana to sounds.

Source of the sounds: Kokoro's library (misaki, Apache-2.0); Vance, "The Sounds of Japanese" (2008).
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Mapping, Sequence

from backends.workers.engines.speech.phonemes.words import Reader, Word
from catalog.errors import EngineMissing

_ROWS: Mapping[str, tuple[str, str, str]] = {
    "アイウエオ": ("", "", ""),
    "カキクケコ": ("k", "kʲ", "k"),
    "ガギグゲゴ": ("ɡ", "ɡʲ", "ɡ"),
    "サシスセソ": ("s", "ɕ", "sɨ"),
    "ザジズゼゾ": ("ʣ", "ʥ", "zɨ"),
    "タチツテト": ("t", "ʨ", "ʦɨ"),
    "ダヂヅデド": ("d", "ʥ", "zɨ"),
    "ナニヌネノ": ("n", "ɲ", "n"),
    "ハヒフヘホ": ("h", "ç", "ɸ"),
    "バビブベボ": ("b", "bʲ", "b"),
    "パピプペポ": ("p", "pʲ", "p"),
    "マミムメモ": ("m", "mʲ", "m"),
    "ラリルレロ": ("ɾ", "ɾʲ", "ɾ"),
}
"""Rows of kana: the consonant before ``a e o``, before ``i`` and the small ``ya yu yo``, and before ``u`` (with
the vowel where that is ``ɨ``)."""
_OTHERS = {
    "ヤ": "ja", "ユ": "jɯ", "ヨ": "jo", "ワ": "βa", "ヰ": "i", "ヱ": "e", "ヲ": "o", "ヴ": "vɯ", "ヵ": "ka",
    "ヶ": "ke", "ウィ": "βi", "ウェ": "βe", "ウォ": "βo", "イェ": "je", "ファ": "ɸa", "フィ": "ɸʲi",
    "フェ": "ɸe", "フォ": "ɸo", "フュ": "ɸʲɨ", "ヴァ": "va", "ヴィ": "vʲi", "ヴェ": "ve", "ヴォ": "vo",
    "ティ": "tʲi", "テュ": "tʲɨ", "ディ": "dʲi", "デュ": "dʲɨ", "トゥ": "tɯ", "ドゥ": "dɯ",
    "ツァ": "ʦa", "ツィ": "ʦʲi", "ツェ": "ʦe", "ツォ": "ʦo", "クァ": "kᵝa", "クィ": "kᵝi", "クェ": "kᵝe",
    "クォ": "kᵝo", "グァ": "ɡᵝa",
}  # fmt: skip
_SMALL = {"ャ": "a", "ュ": "ɨ", "ョ": "o", "ェ": "e", "ァ": "a", "ィ": "i", "ゥ": "ɯ", "ォ": "o", "ヮ": "βa"}
_NASALS = (("mpb", "m"), ("kɡ", "ŋ"), ("ɲʨʥ", "ɲ"), ("ntdɾzʣʦ", "n"))
_MARKS: Mapping[str, str] = {
    "、": ",", "。": ".", "，": ",", "．": ".", "？": "?", "！": "!", "「": "\u201c", "」": "\u201d",
    "『": "\u201c", "』": "\u201d", "：": ":", "；": ";", "（": "(", "）": ")", "【": "(", "】": ")",
    "《": "(", "》": ")", "～": "\u2014", "〜": "\u2014", "―": "\u2014", "\u2014": "\u2014", "…": "\u2026",
    **{mark: mark for mark in ";:,.!?()\u201c\u201d"},
}  # fmt: skip
_LATIN = re.compile(r"[A-Za-z]+(?:['\u2019][A-Za-z]+)*")


def _table() -> dict[str, str]:
    """The sounds of every kana, and of those with a small one after them."""
    sounds: dict[str, str] = {}
    for row, (plain, front, back) in _ROWS.items():
        for kana, vowel in zip(row, "aiɯeo", strict=True):
            consonant = front if vowel == "i" else back if vowel == "ɯ" else plain
            sounds[kana] = consonant if consonant.endswith("ɨ") else consonant + vowel
        if front:
            sounds |= {row[1] + small: front + _SMALL[small] for small in "ャュョェ"}
    return sounds | _OTHERS | {"ー": "ː", "ッ": "ʔ", "ン": "ɴ"}


_KANA = _table()


class Japanese:
    """A reader of Japanese. ``others`` reads words in Latin letters. Open JTalk keeps state, so it has a lock."""

    def __init__(self, *, others: Reader) -> None:
        self._others = others
        self._lock = threading.Lock()

    def __call__(self, sentence: str) -> Sequence[Word]:
        """See :class:`Reader`."""
        text = unicodedata.normalize("NFKC", sentence)
        found: list[Word] = []
        at = 0
        for latin in _LATIN.finditer(text):
            found += self._japanese(text[at : latin.start()])
            found += self._others(latin[0])
            at = latin.end()
        found += self._japanese(text[at:])
        closing = frozenset(",.!?:;)\u201d")
        return [
            Word(word.text, word.phonemes, not (word.phonemes.endswith("ʔ") or _next(found, n) in closing))
            for n, word in enumerate(found)
        ]

    def _japanese(self, text: str) -> list[Word]:
        if not text.strip():
            return []
        try:
            import pyopenjtalk
        except ImportError:
            raise EngineMissing("speech", extra="japanese", package="pyopenjtalk-plus") from None
        with self._lock:
            nodes = pyopenjtalk.run_frontend(text, use_sudachi_kanji_yomi=False)
        words = []
        for node in nodes:
            written = unicodedata.normalize("NFKC", str(node["string"]))
            if (mark := _MARKS.get(written) or _MARKS.get(str(node["string"]))) is not None:
                words.append(Word(written, mark))
            else:
                words.append(Word(written, sounds_of(str(node["pron"]))))
        return words


def _next(words: Sequence[Word], place: int) -> str:
    return words[place + 1].phonemes if place + 1 < len(words) else ""


def sounds_of(kana: str) -> str:
    """The sounds of a reading in katakana; marks of unvoiced vowels, and anything else, have none."""
    kana = kana.replace("\u2019", "").replace("'", "")
    sounds: list[str] = []
    n = 0
    while n < len(kana):
        pair = kana[n : n + 2]
        if len(pair) == 2 and pair in _KANA:
            sounds.append(_KANA[pair])
            n += 2
            continue
        sounds.append(_KANA.get(kana[n]) or _SMALL.get(kana[n], ""))
        n += 1
    for place, sound in enumerate(sounds):
        following = sounds[place + 1][:1] if place + 1 < len(sounds) else ""
        if sound == "ɴ" and following:
            sounds[place] = next((nasal for letters, nasal in _NASALS if following in letters), "ɴ")
    return "".join(sounds)
