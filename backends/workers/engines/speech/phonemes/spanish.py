"""Spanish (Castilian): letters to sounds. Source of the rules: RAE, "Ortografía de la lengua española" (2010)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from backends.workers.engines.speech.phonemes.rules import STRESS, thousands, words
from backends.workers.engines.speech.phonemes.words import Word

_WEAK, _STRONG, _ACCENTED = "iuü", "aeoáéóíú", "áéíóú"
_PLAIN = str.maketrans("áéíóúü", "aeiouu")
_VOWELS = frozenset("aeiouáéíóúü")
_UNSTRESSED = frozenset(
    words(
        "el la los las lo de del a al y e o u que se me te le les nos os su sus mi mis tu tus con por sin en ni si"
    )
)
_WHOLE: Mapping[str, str] = {
    "méxico": "mˈexiko", "mexicano": "mexikˈano", "mexicana": "mexikˈana", "texas": "tˈexas", "oaxaca": "oaxˈaka",
    "y": "i", "o": "o", "e": "e", "u": "u", "web": "wˈeb", "whisky": "wˈiski",
}  # fmt: skip
_LETTERS = {
    "b": "be", "c": "θe", "d": "de", "f": "ˈefe", "g": "xe", "h": "ˈaʧe", "j": "xˈota", "k": "ka", "l": "ˈele",
    "m": "ˈeme", "n": "ˈene", "ñ": "ˈeɲe", "p": "pe", "q": "ku", "r": "ˈere", "s": "ˈese", "t": "te", "v": "ˈuβe",
    "w": "ˈuβe dˈoβle", "x": "ˈekis", "z": "θˈeta",
}  # fmt: skip
_UNITS = words(
    "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis "
    "diecisiete "
    "dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro veinticinco veintiséis veintisiete "
    "veintiocho veintinueve"
)
_TENS = words("treinta cuarenta cincuenta sesenta setenta ochenta noventa")
_HUNDREDS = [
    "ciento",
    "doscientos",
    "trescientos",
    "cuatrocientos",
    "quinientos",
    "seiscientos",
    "setecientos",
    "ochocientos",
    "novecientos",
]


class Spanish:
    """See :class:`Language`."""

    script = "LATIN"
    symbols: Mapping[str, str] = {
        "%": "por ciento", "€": "euros", "$": "dólares", "&": "y", "+": "más", "=": "igual a", "@": "arroba",
        "°": "grados", "/": "barra", "£": "libras", "#": "almohadilla",
    }  # fmt: skip
    point = "coma"

    def cardinal(self, number: int) -> str:
        """See :class:`Language`."""
        return thousands(
            number,
            below=_below_thousand,
            scales=(
                (10**12, lambda many, n: "un billón" if n == 1 else f"{_short(many)} billones"),
                (10**6, lambda many, n: "un millón" if n == 1 else f"{_short(many)} millones"),
                (1000, lambda many, n: "mil" if n == 1 else f"{_short(many)} mil"),
            ),
        )

    def word(self, word: str, before: Sequence[Word]) -> str:
        """See :class:`Language`."""
        if word in _WHOLE:
            return _WHOLE[word]
        if not _VOWELS & set(word) and "y" not in word:
            return " ".join(_LETTERS.get(letter, "") for letter in word).strip()
        linked = bool(before) and before[-1].phonemes[-1:] not in set("mnŋl")
        return _sounds(word, linked=linked, stressed=word not in _UNSTRESSED)


def _short(number: str) -> str:
    """``uno`` before a noun."""
    return re.sub(r"veintiuno$", "veintiún", re.sub(r"\buno$", "un", number))


def _below_thousand(number: int) -> str:
    if number < 30:
        return _UNITS[number]
    if number < 100:
        tens, unit = divmod(number, 10)
        return _TENS[tens - 3] + (f" y {_UNITS[unit]}" if unit else "")
    if number == 100:
        return "cien"
    hundreds, rest = divmod(number, 100)
    return _HUNDREDS[hundreds - 1] + (f" {_below_thousand(rest)}" if rest else "")


def _sounds(word: str, *, linked: bool, stressed: bool) -> str:
    """``linked``: no pause, nasal or ``l`` is before the word, so that ``b d g`` are soft."""
    sounds: list[str] = []
    nuclei: list[int] = []
    accent: int | None = None
    n = 0
    while n < len(word):
        letter, rest = word[n], word[n:]
        if letter in _VOWELS or (letter == "y" and (len(rest) == 1 or rest[1] not in _VOWELS)):
            end = n + 1
            while end < len(word) and (word[end] in _VOWELS or (word[end] == "y" and end == len(word) - 1)):
                end += 1
            for sound, place, accented in _nuclei(word[n:end]):
                if accented:
                    accent = len(nuclei)
                nuclei.append(len(sounds) + place)
                sounds += sound
            n = end
            continue
        soft = (bool(sounds) and sounds[-1][-1] not in "mnŋl") or (not sounds and linked)
        consonant, length = _consonant(word, n, soft=soft)
        if consonant:
            sounds.append(consonant)
        n += length
    if stressed and nuclei:
        if accent is None:
            last = word[-1] in "aeiouns" and not (word[-1] == "s" and len(word) > 1 and word[-2] not in _VOWELS)
            accent = len(nuclei) - 2 if last and len(nuclei) > 1 else len(nuclei) - 1
        sounds.insert(nuclei[accent], STRESS)
        if word.endswith("mente") and accent < len(nuclei) - 2:
            sounds.insert(nuclei[-2] + 1, STRESS)
    return "".join(sounds)


def _nuclei(vowels: str) -> list[tuple[list[str], int, bool]]:
    """The syllables in a run of vowels: sounds, the place of the vowel among them, whether it has an accent."""
    found: list[tuple[list[str], int, bool]] = []
    n = 0
    while n < len(vowels):
        sounds: list[str] = []
        if vowels[n] in _WEAK and n + 1 < len(vowels) and vowels[n + 1] != "y" and vowels[n] != vowels[n + 1]:
            sounds.append("j" if vowels[n] == "i" else "w")
            n += 1
        place, vowel = len(sounds), vowels[n]
        n += 1
        core = "i" if vowel == "y" else vowel.translate(_PLAIN)
        glides = n < len(vowels) and vowels[n] in "iuüy" and not (n + 1 < len(vowels))
        if glides and (vowel in _STRONG and vowel not in "íú"):
            off = "ɪ" if vowels[n] in "iy" else "ʊ"
            core = {"aɪ": "I", "aʊ": "W", "eɪ": "A", "oʊ": "O"}.get(core + off, core + off)
            n += 1
        elif glides and vowels[n] == "y":
            core += "j"
            n += 1
        sounds.append(core)
        found.append((sounds, place, vowel in _ACCENTED))
    return found


def _consonant(word: str, n: int, *, soft: bool) -> tuple[str, int]:
    """The sound of the letters at ``n``, and their count."""
    rest = word[n:]
    following = rest[1:2]
    for letters, sound in (("ch", "ʧ"), ("ll", "ʎ"), ("rr", "r"), ("sh", "ʃ")):
        if rest.startswith(letters):
            return sound, 2
    if rest[:2] == "qu" and rest[2:3] in set("eiéí"):
        return "k", 2
    if rest[:2] == "gu" and rest[2:3] in set("eiéí"):
        return ("ɣ" if soft else "ɡ"), 2
    letter = rest[0]
    front = bool(following) and following in "eiéí"
    if letter == "c":
        return ("θ" if front else "k"), 1
    if letter == "g" and front:
        return "x", 1
    if letter in _SOFT:
        return _SOFT[letter][soft and (letter != "d" or bool(following))], 1
    if letter == "r":
        return ("r" if n == 0 or word[n - 1] in "nls" else "ɾ"), 1
    if letter == "n":
        return _nasal(rest[1:3]), 1
    if letter == "x":
        return ("s" if n == 0 else "ks"), 1
    return _SINGLE.get(letter, ""), 1


_SOFT = {"b": ("b", "β"), "v": ("b", "β"), "d": ("d", "ð"), "g": ("ɡ", "ɣ")}
"""The stop after a pause or a nasal, and the soft sound elsewhere."""


def _nasal(following: str) -> str:
    if following[:1] in ("b", "v", "p", "m"):
        return "m"
    back = following[:1] in ("g", "k", "q", "j") or (following[:1] == "c" and following[1:] not in set("eiéíh"))
    return "ŋ" if back else "n"


_SINGLE = {
    "f": "f", "j": "x", "k": "k", "l": "l", "m": "m", "ñ": "ɲ", "p": "p", "q": "k", "s": "s", "t": "t", "w": "w",
    "y": "ʝ", "z": "θ", "ç": "s",
}  # fmt: skip
