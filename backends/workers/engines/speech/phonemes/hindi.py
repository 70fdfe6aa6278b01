"""Hindi: Devanagari to sounds, with the inherent vowel left out where it is not spoken.

Sources of the rules: Ohala, "Aspects of Hindi Phonology" (1983), for the schwa; the Unicode chart of Devanagari.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backends.workers.engines.speech.phonemes.rules import STRESS, thousands, words
from backends.workers.engines.speech.phonemes.words import Word

_CONSONANTS: Mapping[str, str] = {
    "क": "k", "ख": "kʰ", "ग": "ɡ", "घ": "ɡʰ", "ङ": "ŋ", "च": "c", "छ": "cʰ", "ज": "ɟ", "झ": "ɟʰ", "ञ": "ɲ",
    "ट": "ʈ",
    "ठ": "ʈʰ", "ड": "ɖ", "ढ": "ɖʰ", "ण": "ɳ", "त": "t", "थ": "tʰ", "द": "d", "ध": "dʰ", "न": "n", "प": "p",
    "फ": "pʰ",
    "ब": "b", "भ": "bʰ", "म": "m", "य": "j", "र": "ɾ", "ल": "l", "व": "ʋ", "श": "ʃ", "ष": "ʂ", "स": "s", "ह": "h",
    "ळ": "ɭ", "क\u093c": "q", "ख\u093c": "x", "ग\u093c": "ɣ", "ज\u093c": "z", "ड\u093c": "ɽ", "ढ\u093c": "ɽʰ",
    "फ\u093c": "f",
}  # fmt: skip
_SIGNS: Mapping[str, str] = {
    "ा": "aː", "ि": "ɪ", "ी": "i", "ु": "ʊ", "ू": "u", "ृ": "ɾɪ", "े": "eː", "ै": "ɛː", "ो": "oː", "ौ": "ɔː", "ॉ": "ɔ",
    "ॅ": "ɛ",
}  # fmt: skip
_VOWELS: Mapping[str, str] = {
    "अ": "ə", "आ": "aː", "इ": "ɪ", "ई": "i", "उ": "ʊ", "ऊ": "u", "ऋ": "ɾɪ", "ए": "eː", "ऐ": "ɛː", "ओ": "oː",
    "औ": "ɔː", "ऑ": "ɔ",
}  # fmt: skip
_VIRAMA, _NUKTA, _DOT, _MOON, _VISARGA = "्", "़", "ं", "ँ", "ः"
_WEAK = frozenset(words("का के की को से में पर और है हैं हूँ था थे थी ने तो भी ही न कि या यह वह ये वे मैं एक जो जब तक"))
_WHOLE: Mapping[str, str] = {
    "यह": "jˌeː", "वह": "ʋˌoː", "ज्ञान": "ɡjˈaːn", "है": "hɛː", "हैं": "hɛ\u0303", "मैं": "mɛ\u0303",
    "क्या": "kjˈaː", "क्यों": "kjˈõ", "नमस्ते": "nəmˈʌsteː", "हूँ": "hu\u0303", "हो": "hoː", "नहीं": "nˈʌhi\u0303",
}  # fmt: skip
_HUNDRED = words(
    "शून्य एक दो तीन चार पाँच छह सात आठ नौ दस ग्यारह बारह तेरह चौदह पंद्रह सोलह सत्रह अठारह उन्नीस बीस इक्कीस बाईस तेईस "
    "चौबीस पच्चीस छब्बीस सत्ताईस अट्ठाईस उनतीस तीस इकतीस बत्तीस तैंतीस चौंतीस पैंतीस छत्तीस सैंतीस अड़तीस उनतालीस चालीस इकतालीस "
    "बयालीस तैंतालीस चौवालीस पैंतालीस छियालीस सैंतालीस अड़तालीस उनचास पचास इक्यावन बावन तिरपन चौवन पचपन छप्पन सत्तावन "
    "अट्ठावन "
    "उनसठ साठ इकसठ बासठ तिरसठ चौंसठ पैंसठ छियासठ सड़सठ अड़सठ उनहत्तर सत्तर इकहत्तर बहत्तर तिहत्तर चौहत्तर पचहत्तर छिहत्तर "
    "सतहत्तर "
    "अठहत्तर उन्यासी अस्सी इक्यासी बयासी तिरासी चौरासी पचासी छियासी सत्तासी अट्ठासी नवासी नब्बे इक्यानवे बानवे तिरानवे चौरानवे "
    "पचानवे छियानवे सत्तानवे अट्ठानवे निन्यानवे"
)


class Hindi:
    """See :class:`Language`."""

    script = "DEVANAGARI"
    symbols: Mapping[str, str] = {
        "%": "प्रतिशत", "₹": "रुपये", "$": "डॉलर", "€": "यूरो", "&": "और", "+": "जमा", "=": "बराबर", "°": "डिग्री",
        "@": "एट",
    }  # fmt: skip
    point = "दशमलव"

    def cardinal(self, number: int) -> str:
        """See :class:`Language`."""
        return thousands(
            number,
            below=lambda n: _HUNDRED[n],
            scales=(
                (10**7, lambda many, _: f"{many} करोड़"),
                (10**5, lambda many, _: f"{many} लाख"),
                (1000, lambda many, _: f"{many} हज़ार"),
                (100, lambda many, _: f"{many} सौ"),
            ),
        )

    def word(self, word: str, before: Sequence[Word]) -> str:
        """See :class:`Language`."""
        del before
        if word in _WHOLE:
            return _WHOLE[word]
        sounds = _without_schwas(_syllables(word))
        return "".join(sounds).replace("@", "ə") if word in _WEAK else _stressed(sounds)


def _syllables(word: str) -> list[str]:
    """Consonants and vowels in turn; the inherent vowel is ``@``."""
    sounds: list[str] = []
    n = 0
    while n < len(word):
        letter = word[n] + _NUKTA if word[n + 1 : n + 2] == _NUKTA else word[n]
        n += len(letter)
        following = word[n : n + 1]
        if letter in _CONSONANTS or letter[0] in _CONSONANTS:
            sounds.append(_CONSONANTS.get(letter) or _CONSONANTS[letter[0]])
            if following in _SIGNS and following:
                sounds.append(_SIGNS[following])
                n += 1
            elif following == _VIRAMA:
                n += 1
            else:
                sounds.append("@")
        elif letter in _VOWELS:
            sounds.append(_VOWELS[letter])
        elif letter in (_DOT, _MOON) and sounds:
            nasal = _nasal(word[n : n + 1]) if letter == _DOT else None
            if nasal is None:
                sounds[-1] = sounds[-1].replace("@", "ə").rstrip("ː") + "\u0303"
            else:
                sounds.append(nasal)
        elif letter == _VISARGA:
            sounds.append("h")
    return sounds


def _nasal(following: str) -> str | None:
    """The nasal consonant of a dot before another one, None where the vowel is nasal."""
    for letters, sound in _NASALS.items():
        if following and following in letters:
            return sound
    return None


_NASALS = {"कखगघ": "ŋ", "चछजझ": "ɲ", "टठडढ": "ɳ", "तथदधसशह": "n", "पफबभम": "m"}


def _vowel(sound: str) -> bool:
    return sound[0] in "aɪiʊueɛoɔə@" or sound.startswith("ɾɪ")


def _without_schwas(sounds: Sequence[str]) -> list[str]:
    """Drop an inherent vowel at the end, and, from the right, one between two syllables (Ohala's rule)."""
    kept = list(sounds)
    if len([each for each in kept if _vowel(each)]) > 1 and kept[-1] == "@":
        kept.pop()
    n = len(kept) - 2
    while n > 1:
        if (
            kept[n] == "@"
            and n + 2 < len(kept)
            and not _vowel(kept[n - 1])
            and _vowel(kept[n - 2])
            and not _vowel(kept[n + 1])
            and _vowel(kept[n + 2])
        ):
            kept.pop(n)
            n -= 1
        n -= 1
    return kept


def _stressed(sounds: Sequence[str]) -> str:
    """The stress is on the last heavy syllable but the final one, else on the first; a stressed schwa is ``ʌ``."""
    places = [n for n, sound in enumerate(sounds) if _vowel(sound)]
    if not places:
        return "".join(sounds)
    heavy = [n for n in places if "ː" in sounds[n] or sounds[n][0] in "iu"]
    chosen = next((n for n in reversed(heavy) if n != places[-1]), None)
    if chosen is None:
        chosen = places[-1] if heavy and len(places) > 1 and len(sounds) - 1 > places[-1] else places[0]
    out = []
    for n, sound in enumerate(sounds):
        sound = sound.replace("@", "ʌ" if n == chosen else "ə")
        out.append(STRESS + sound if n == chosen else sound)
    return "".join(out)
