"""Codes of languages: BCP 47 tags, the three letters of ISO 639-2 and 639-3, and English names, as ISO 639-1's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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

_NAMES = """
af afrikaans|am amharic|ar arabic|as assamese|az azerbaijani|ba bashkir|be belarusian|bg bulgarian|bn bengali
bo tibetan|br breton|bs bosnian|ca catalan valencian|cs czech|cy welsh|da danish|de german|el greek|en english
es spanish castilian|et estonian|eu basque|fa persian|fi finnish|fo faroese|fr french|gl galician|gu gujarati
ha hausa|haw hawaiian|he hebrew|hi hindi|hr croatian|ht haitian|hu hungarian|hy armenian|id indonesian
is icelandic|it italian|ja japanese|jw javanese|ka georgian|kk kazakh|km khmer|kn kannada|ko korean|la latin
lb luxembourgish letzeburgesch|ln lingala|lo lao|lt lithuanian|lv latvian|mg malagasy|mi maori|mk macedonian
ml malayalam|mn mongolian|mr marathi|ms malay|mt maltese|my myanmar burmese|ne nepali|nl dutch flemish
nn nynorsk|no norwegian|oc occitan|pa punjabi panjabi|pl polish|ps pashto pushto|pt portuguese
ro romanian moldavian moldovan|ru russian|sa sanskrit|sd sindhi|si sinhala sinhalese|sk slovak|sl slovenian
sn shona|so somali|sq albanian|sr serbian|su sundanese|sv swedish|sw swahili|ta tamil|te telugu|tg tajik|th thai
tk turkmen|tl tagalog|tr turkish|tt tatar|uk ukrainian|ur urdu|uz uzbek|vi vietnamese|yi yiddish|yo yoruba
yue cantonese|zh chinese mandarin
"""
_BY_NAME = {
    name: code
    for row in _NAMES.split("\n")
    for code, *names in map(str.split, row.split("|") if row else ())
    for name in names
}
"""Codes by the English names that OpenAI's answers and Whisper have for languages."""


def code_of(language: Any) -> Any:
    """The code of a language that is named in English; anything else stays as it is."""
    return _BY_NAME.get(language.strip().lower(), language) if isinstance(language, str) else language


def two_letters(code: str) -> str:
    """The two-letter code of a three-letter one; any other code stays as it is."""
    return _ISO_639_1.get(code, code)


def language_of(tag: str) -> str:
    """The language of a tag, without region or script, in two letters if it has them: ``pt-BR`` is ``pt``."""
    return two_letters(tag.split("-")[0].lower())


def languages_of(tags: Iterable[str | None]) -> frozenset[str]:
    """The languages of tags, by :func:`language_of`; ``None`` is left out."""
    return frozenset(language_of(tag) for tag in tags if tag)
