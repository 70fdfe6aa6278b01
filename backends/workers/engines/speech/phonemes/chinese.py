"""Mandarin: characters to pinyin with ``pypinyin``, and pinyin to the sounds that Kokoro's models know.

Sources: Duanmu, "The Phonology of Standard Chinese" (2007); Lin, "The Sounds of Chinese" (2007). Tones are arrows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from backends.workers.engines.speech.phonemes.words import Reader, Word
from catalog.errors import EngineMissing

_INITIALS: Mapping[str, str] = {
    "": "", "b": "p", "p": "pʰ", "m": "m", "f": "f", "d": "t", "t": "tʰ", "n": "n", "l": "l", "g": "k",
    "k": "kʰ", "h": "x", "j": "ʨ", "q": "ʨʰ", "x": "ɕ", "zh": "\uab67", "ch": "\uab67ʰ", "sh": "ʂ", "r": "ɻ",
    "z": "ʦ", "c": "ʦʰ", "s": "s",
}  # fmt: skip
_FINALS: Mapping[str, str] = {
    "a": "a0", "ai": "ai0", "an": "a0n", "ang": "a0ŋ", "ao": "au0", "e": "ɤ0", "ei": "ei0", "en": "ə0n",
    "eng": "ə0ŋ", "er": "ɚ0", "i": "i0", "ia": "ja0", "ian": "jɛ0n", "iang": "ja0ŋ", "iao": "jau0", "ie": "je0",
    "in": "i0n", "ing": "i0ŋ", "iong": "jʊ0ŋ", "iou": "jou0", "o": "wo0", "ong": "ʊ0ŋ", "ou": "ou0", "u": "u0",
    "ua": "wa0", "uai": "wai0", "uan": "wa0n", "uang": "wa0ŋ", "uei": "wei0", "uen": "wə0n", "ueng": "wə0ŋ",
    "uo": "wo0", "v": "y0", "van": "ɥɛ0n", "ve": "ɥe0", "vn": "y0n", "io": "jɔ0", "ê": "ɛ0", "m": "m0",
    "n": "n0", "ng": "ŋ0",
}  # fmt: skip
_TONES = {"1": "→", "2": "↗", "3": "↓", "4": "↘", "5": "", "": ""}
_BUZZING = frozenset({"zh", "ch", "sh", "r", "z", "c", "s"})
"""Initials after which ``i`` is a vowel of its own."""
_MARKS: Mapping[str, str] = {
    "、": ",", "，": ",", "。": ".", "．": ".", "！": "!", "：": ":", "；": ";", "？": "?", "《": "\u201c",
    "》": "\u201d", "「": "\u201c", "」": "\u201d", "『": "\u201c", "』": "\u201d", "【": "\u201c",
    "】": "\u201d", "（": "(", "）": ")", "\u2026": "\u2026", "\u2014": "\u2014", "«": "\u201c", "»": "\u201d",
    **{mark: mark for mark in ";:,.!?\"()\u201c\u201d"},
}  # fmt: skip
_SYMBOLS = {
    "%": "百分之",
    "％": "百分之",
    "￥": "元",
    "¥": "元",
    "$": "美元",
    "€": "欧元",
    "+": "加",
    "=": "等于",
    "°": "度",
    "℃": "摄氏度",
}
_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\u3007"
_TOKEN = re.compile(rf"\d+(?:\.\d+)?%?|[{_HAN}]+|[^\W\d_{_HAN}]+(?:['\u2019][^\W\d_{_HAN}]+)*|\s+|.", re.DOTALL)
_DIGITS = "零一二三四五六七八九"


class Chinese:
    """A reader of Mandarin. ``others`` reads words in Latin letters."""

    def __init__(self, *, others: Reader) -> None:
        self._others = others

    def __call__(self, sentence: str) -> Sequence[Word]:
        """See :class:`Reader`."""
        found: list[Word] = []
        sentence = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", sentence.strip())
        sentence = re.sub(
            r"(?<!\d)\d{4}(?=年)", lambda year: "".join(_DIGITS[int(each)] for each in year[0]), sentence
        )
        for token in _TOKEN.findall(sentence):
            if (mark := _MARKS.get(token)) is not None:
                found.append(Word(token, mark))
            elif token[0].isdigit():
                found += _read(number_of(token))
            elif token in _SYMBOLS:
                found += _read(_SYMBOLS[token])
            elif re.match(f"[{_HAN}]", token):
                found += _read(token)
            elif token[0].isalpha():
                found += self._others(token)
        return [
            Word(
                each.text,
                each.phonemes,
                not (n + 1 < len(found) and found[n + 1].phonemes in set(",.!?:;)\u201d")),
            )
            for n, each in enumerate(found)
        ]


def number_of(token: str) -> str:
    """A number in Chinese characters; one of more than sixteen digits, or with a leading zero, digit by digit."""
    percent = token.endswith("%")
    whole, _, decimals = token.rstrip("%").partition(".")
    plain = len(whole) > 16 or (len(whole) > 1 and whole[0] == "0")
    text = "".join(_DIGITS[int(digit)] for digit in whole) if plain else _cardinal(int(whole))
    if decimals:
        text += "点" + "".join(_DIGITS[int(digit)] for digit in decimals)
    return ("百分之" if percent else "") + text


def _cardinal(number: int) -> str:
    if number == 0:
        return _DIGITS[0]
    groups = []
    for unit in ("", "万", "亿", "万亿"):
        number, group = divmod(number, 10_000)
        groups.append((group, unit))
    text, gap = "", False
    for group, unit in reversed(groups):
        if not group:
            gap = gap or bool(text)
            continue
        if text and (gap or group < 1000):
            text += _DIGITS[0]
        text += _thousands(group) + unit
        gap = False
    return text.removeprefix("一") if text.startswith("一十") else text


def _thousands(number: int) -> str:
    text, gap = "", False
    for power, unit in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit, number = divmod(number, power)
        if digit:
            text += (_DIGITS[0] if gap and text else "") + _DIGITS[digit] + unit
            gap = False
        else:
            gap = True
    return text


def _read(characters: str) -> Iterator[Word]:
    """The words of a run of characters, by pypinyin's dictionary of phrases."""
    try:
        from pypinyin import Style, lazy_pinyin
        from pypinyin.seg import mmseg
    except ImportError:
        raise EngineMissing("speech", extra="speech", package="pypinyin") from None
    words = list(mmseg.seg.cut(characters))
    tones = lazy_pinyin(
        words, style=Style.FINALS_TONE3, strict=True, neutral_tone_with_five=True, tone_sandhi=True
    )
    initials = lazy_pinyin(words, style=Style.INITIALS, strict=True)
    n = 0
    for word in words:
        pairs = zip(initials[n : n + len(word)], tones[n : n + len(word)], strict=False)
        yield Word(word, "".join(syllable(initial, final) for initial, final in pairs))
        n += len(word)


def syllable(initial: str, final: str) -> str:
    """The sounds of a syllable: its initial, and its final with a tone of 1 to 5 at its end (``ian4``).

    Empty for what is no syllable, such as a rare character without a reading.
    """
    found = re.fullmatch(r"([a-zê]+)([1-5]?)", final)
    if found is None or initial not in _INITIALS:
        return ""
    core = "ɨ0" if found[1] == "i" and initial in _BUZZING else _FINALS.get(found[1], "")
    return _INITIALS[initial] + core.replace("0", _TONES[found[2]]) if core else ""
