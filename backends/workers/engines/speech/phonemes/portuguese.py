"""Brazilian Portuguese: letters to sounds. Source: Cristófaro Silva, "Fonética e fonologia" (2005)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from backends.workers.engines.speech.phonemes.rules import STRESS, thousands, words
from backends.workers.engines.speech.phonemes.words import Word

_VOWELS = frozenset("aeiouáâãàéêíóôõúü")
_ACCENTED = frozenset("áâãéêíóôõú")
_BASE = str.maketrans("áâãàéêíóôõúü", "aaaaeeiooouu")
_PLAIN = {"á": "a", "à": "a", "â": "ɐ", "ã": "ɐ\u0303", "é": "ɛ", "ê": "e", "í": "i", "ó": "ɔ", "ô": "o",
          "õ": "o\u0303", "ú": "u", "ü": "u"}  # fmt: skip
_FRONT = frozenset("eiéêí")
_VOICED = frozenset("bdgvzjlmnr")
_UNSTRESSED = frozenset(
    words(
        "a o as os um uns de do da dos das em no na nos nas e ou que se me te lhe por para pra com sem ao aos à "
        "às seu"
    )
)
_WHOLE: Mapping[str, str] = {
    "a": "a", "à": "a", "as": "as", "às": "as", "da": "da", "das": "das", "na": "na", "nas": "nas",
    "um": "u\u0303ŋ",
    "que": "ky", "porque": "purkˈe", "muito": "mwˈiŋtʊ", "muita": "mwˈiŋtæ", "muitos": "mwˈiŋtʊs", "e": "i",
    "é": "ˈɛ",
    "táxi": "tˈaksi", "sexo": "sˈɛksʊ", "fixo": "fˈiksʊ", "próximo": "prˈɔsimʊ", "próxima": "prˈɔsimæ",
    "máximo": "mˈasimʊ", "trouxe": "trˈosy", "também": "tɐ̃mbˈAŋ", "hoje": "ˈoʒy", "ele": "ˈely", "ela": "ˈɛlæ",
    "eles": "ˈelys", "elas": "ˈɛlæs", "hora": "ˈɔɾæ", "horas": "ˈɔɾæs", "nove": "nˈɔvy", "agora": "aɡˈɔɾæ",
    "quero": "kˈɛɾʊ", "rosa": "xˈɔzæ", "sete": "sˈɛʧy", "dez": "dˈɛs", "escola": "eskˈɔlæ", "porta": "pˈɔɾtæ",
    "favor": "favˈor", "bola": "bˈɔlæ", "perto": "pˈɛɾtʊ", "gosto": "ɡˈɔstʊ", "novo": "nˈovʊ", "nova": "nˈɔvæ",
}  # fmt: skip
_LETTERS = {
    "b": "be", "c": "se", "d": "de", "f": "ˈɛfy", "g": "ʒe", "h": "aɡˈa", "j": "ʒˈɔtæ", "k": "ka", "l": "ˈɛly",
    "m": "ˈemy", "n": "ˈeny", "p": "pe", "q": "ke", "r": "ˈɛxy", "s": "ˈɛsy", "t": "te", "v": "ve", "w": "dˈabliʊ",
    "x": "ʃis", "z": "ze",
}  # fmt: skip
_UNITS = words(
    "zero um dois três quatro cinco seis sete oito nove dez onze doze treze quatorze quinze dezesseis dezessete "
    "dezoito dezenove"
)
_TENS = words("vinte trinta quarenta cinquenta sessenta setenta oitenta noventa")
_HUNDREDS = words("cento duzentos trezentos quatrocentos quinhentos seiscentos setecentos oitocentos novecentos")
_NASAL = {"a": "ɐ\u0303", "e": "A", "i": "i", "o": "o", "u": "u"}


class Portuguese:
    """See :class:`Language`."""

    script = "LATIN"
    symbols: Mapping[str, str] = {
        "%": "por cento", "€": "euros", "$": "dólares", "&": "e", "+": "mais", "=": "igual a", "@": "arroba",
        "°": "graus", "/": "barra", "£": "libras", "#": "cerquilha",
    }  # fmt: skip
    point = "vírgula"

    def cardinal(self, number: int) -> str:
        """See :class:`Language`."""
        return thousands(
            number,
            below=_below_thousand,
            scales=(
                (10**9, lambda many, n: "um bilhão" if n == 1 else f"{many} bilhões"),
                (10**6, lambda many, n: "um milhão" if n == 1 else f"{many} milhões"),
                (1000, lambda many, n: "mil" if n == 1 else f"{many} mil"),
            ),
        )

    def word(self, word: str, before: Sequence[Word]) -> str:
        """See :class:`Language`."""
        del before
        if word in _WHOLE:
            return _WHOLE[word]
        if not _VOWELS & set(word):
            return " ".join(_LETTERS.get(letter, "") for letter in word).strip()
        return _sounds(word, stressed=word not in _UNSTRESSED)


def _below_thousand(number: int) -> str:
    if number < 20:
        return _UNITS[number]
    if number < 100:
        tens, unit = divmod(number, 10)
        return _TENS[tens - 2] + (f" e {_UNITS[unit]}" if unit else "")
    if number == 100:
        return "cem"
    hundreds, rest = divmod(number, 100)
    return _HUNDREDS[hundreds - 1] + (f" e {_below_thousand(rest)}" if rest else "")


def _sounds(word: str, *, stressed: bool) -> str:
    nuclei = _nuclei(word)
    stress = _stress(word, nuclei) if stressed and nuclei else None
    after = nuclei[-1] if nuclei and (stress is None or nuclei.index(stress) < len(nuclei) - 1) else None
    sounds: list[str] = []
    n = 0
    while n < len(word):
        if word[n] in _VOWELS:
            sound, length = _vowel(word, n, stressed=n == stress, final=n == after)
            if n == stress:
                glide = len(sound) > 1 and sound[0] in "jw"
                sound = f"{sound[0]}{STRESS}{sound[1:]}" if glide else STRESS + sound
        else:
            sound, length = _consonant(word, n, final=after)
        sounds.append(sound)
        n += length
    return "".join(sounds).replace("aʊ", "W")


def _nuclei(word: str) -> list[int]:
    """The places of the vowels of the syllables, glides left out."""
    found: list[int] = []
    for n, letter in enumerate(word):
        if letter not in _VOWELS:
            continue
        if (
            letter == "u"
            and word[n - 1 : n] in ("q", "g")
            and word[n + 1 : n + 2] in _VOWELS
            and n + 1 < len(word)
        ):
            continue
        last = word[n - 1] if n and word[n - 1] in _VOWELS else ""
        heavy = word[n + 1 : n + 2] in ("l", "r", "z", "m") and n + 2 == len(word)  # ruim, raiz, país
        if found and found[-1] == n - 1 and last and letter in "iu" and not heavy:
            continue
        if found and found[-1] == n - 1 and last in "ãõ" and letter in "oe" and last:
            continue
        if letter in "iu" and _rises(word, n):
            continue
        found.append(n)
    return found


def _rises(word: str, n: int) -> bool:
    """Whether ``i`` or ``u`` is a glide before the vowel that ends an unstressed syllable: história, água."""
    tail = word[n + 1 :].rstrip("s")
    return len(tail) == 1 and tail in "aeo" and any(each in _ACCENTED for each in word[:n])


def _stress(word: str, nuclei: Sequence[int]) -> int:
    accents = [n for n in nuclei if word[n] in _ACCENTED]
    strong = [n for n in accents if word[n] not in "ãõ"] or accents
    if strong:
        return strong[-1]
    light = re.search(r"(?:[aeo]s?|[ae]m|ens)$", word) and not re.search(r"[aeo][iu]s?$", word)
    return nuclei[-2] if light and len(nuclei) > 1 else nuclei[-1]


def _vowel(word: str, n: int, *, stressed: bool, final: bool) -> tuple[str, int]:
    """The sound at ``n`` and its length in letters, with the glide or the nasal that follows."""
    letter, rest = word[n], word[n + 1 :]
    if letter == "ã" and rest[:1] == "o":
        return "ɐ\u0303ʊ\u0303", 2
    if letter == "ã" and rest[:1] == "e":
        return "ɐ\u0303y", 2
    if letter == "õ":
        return "o\u0303j", 2 if rest[:1] == "e" else 1
    if letter in "iu" and rest and rest[0] in _VOWELS and _rises(word, n):
        inner, length = _vowel(word, n + 1, stressed=False, final=True)
        return ("j" if letter == "i" else "w") + inner, 1 + length
    base = letter.translate(_BASE)
    nasal = rest[:1] in ("m", "n") and not (rest[1:2] in _VOWELS and rest[1:2]) and rest[:2] != "nh"
    if nasal:
        return _nasal(word, n, base)
    if rest[:1] in ("i", "u") and rest[:1] and base not in rest[0] and not _own(word, n + 1):
        sound = {"ai": "I", "au": "W", "ei": "A", "ou": "O", "oi": "oɪ", "eu": "eʊ", "iu": "iʊ", "ui": "uɪ"}
        return sound.get(base + rest[0], base + rest[0]), 2
    if final and letter in "aeo":
        return {"a": "æ", "e": "y", "o": "ʊ"}[letter], 1
    if base == "a" and rest[:1] in ("m", "n") and rest:
        return "ɐ\u0303", 1
    if stressed and letter in "eo" and rest[:1] == "l" and rest in ("l", "la", "las", "lo", "los"):
        return {"e": "ɛ", "o": "ɔ"}[letter], 1
    return _PLAIN.get(letter, letter), 1


def _own(word: str, n: int) -> bool:
    """Whether ``i`` or ``u`` after a vowel is a syllable of its own."""
    return n in _nuclei(word)


def _nasal(word: str, n: int, base: str) -> tuple[str, int]:
    rest = word[n + 1 :]
    if rest[:1] == "m" and base == "a" and len(rest) == 1:
        return "ɐ\u0303ʊ\u0303", 2  # falam
    sound = _NASAL[base]
    follow = "m" if rest[1:2] in ("p", "b") else "ŋ"
    return sound + follow, 2


def _consonant(word: str, n: int, *, final: int | None) -> tuple[str, int]:
    """The sound of the letters at ``n``, and their count."""
    rest = word[n:]
    following = rest[1:2]
    for letters, sound in (
        ("ch", "ʃ"),
        ("lh", "lj"),
        ("nh", "ɲ"),
        ("rr", "x"),
        ("ss", "s"),
        ("sç", "s"),
        ("ph", "f"),
    ):
        if rest.startswith(letters):
            return sound, 2
    if rest[:2] in ("sc", "xc") and rest[2:3] in _FRONT and rest[2:3]:
        return "s", 2
    if rest[:2] in ("qu", "gu") and rest[2:3] in _VOWELS and rest[2:3]:
        stop = "k" if rest[0] == "q" else "ɡ"
        return (stop, 2) if rest[2] in _FRONT and not rest.startswith("quenc") else (stop + "w", 2)
    letter = rest[0]
    if letter in "td" and following and (following in "ií" or (following == "e" and n + 1 == final)):
        return ("ʧ" if letter == "t" else "ʤ"), 1
    if letter in "cg":
        front = bool(following) and following in _FRONT
        return {"c": "s" if front else "k", "g": "ʒ" if front else "ɡ"}[letter], 1
    if letter in "rszxl":
        return _placed(word, n), 1
    return _SINGLE.get(letter, ""), 1


def _placed(word: str, n: int) -> str:
    """The sound of ``r s z x l``, which their place in the word decides."""
    last, following = word[n - 1 : n] if n else "", word[n + 1 : n + 2]
    before_vowel = bool(following) and following in _VOWELS
    after_vowel = bool(last) and last in _VOWELS
    match word[n]:
        case "r" if n == 0 or last in ("n", "l", "s"):
            return "x"
        case "r":
            return "ɾ" if after_vowel and following else "r"
        case "s":
            return "z" if (after_vowel and before_vowel) or (following and following in _VOICED) else "s"
        case "z":
            return "z" if following else "s"
        case "x" if word.startswith("ex") and n == 1:
            return "z" if before_vowel else "s"
        case "x":
            return "ʃ" if before_vowel or n == 0 else "s"
    if before_vowel or not after_vowel:
        return "l"
    return "l" if n == len(word) - 1 and last in "oó" else "ʊ"


_SINGLE = {
    "b": "b", "ç": "s", "d": "d", "f": "f", "h": "", "j": "ʒ", "k": "k", "m": "m", "n": "n", "p": "p", "q": "k",
    "t": "t", "v": "v", "w": "w", "y": "i", "'": "",
}  # fmt: skip
