"""Codes of languages: BCP 47 tags and the three letters of ISO 639-2 and 639-3, as two letters of ISO 639-1."""

from __future__ import annotations

from collections.abc import Iterable

_ISO_639_1 = {
    "eng": "en",
    "deu": "de",
    "ger": "de",
    "fra": "fr",
    "fre": "fr",
    "spa": "es",
    "por": "pt",
    "ita": "it",
    "nld": "nl",
    "dut": "nl",
    "pol": "pl",
    "rus": "ru",
    "ukr": "uk",
    "ces": "cs",
    "cze": "cs",
    "slk": "sk",
    "swe": "sv",
    "dan": "da",
    "nor": "no",
    "nob": "no",
    "fin": "fi",
    "hun": "hu",
    "ron": "ro",
    "rum": "ro",
    "bul": "bg",
    "ell": "el",
    "gre": "el",
    "tur": "tr",
    "ara": "ar",
    "heb": "he",
    "fas": "fa",
    "per": "fa",
    "hin": "hi",
    "ben": "bn",
    "urd": "ur",
    "tam": "ta",
    "tel": "te",
    "mar": "mr",
    "guj": "gu",
    "pan": "pa",
    "zho": "zh",
    "chi": "zh",
    "cmn": "zh",
    "jpn": "ja",
    "kor": "ko",
    "vie": "vi",
    "tha": "th",
    "ind": "id",
    "msa": "ms",
    "may": "ms",
    "fil": "tl",
    "hrv": "hr",
    "srp": "sr",
    "slv": "sl",
    "lit": "lt",
    "lav": "lv",
    "est": "et",
    "isl": "is",
    "ice": "is",
    "cat": "ca",
    "glg": "gl",
    "eus": "eu",
    "afr": "af",
    "swa": "sw",
}
"""Two-letter codes by the three-letter ones, of the most spoken languages."""


def two_letters(code: str) -> str:
    """The two-letter code of a three-letter one; any other code stays as it is."""
    return _ISO_639_1.get(code, code)


def language_of(tag: str) -> str:
    """The language of a tag, without region or script, in two letters if it has them: ``pt-BR`` is ``pt``."""
    return two_letters(tag.split("-")[0].lower())


def languages_of(tags: Iterable[str | None]) -> frozenset[str]:
    """The languages of tags, by :func:`language_of`; ``None`` is left out."""
    return frozenset(language_of(tag) for tag in tags if tag)
