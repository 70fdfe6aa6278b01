"""The languages that can be read here, by the tags of Kokoro's voices."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from backends.workers.engines.speech.phonemes.chinese import Chinese
from backends.workers.engines.speech.phonemes.english import English
from backends.workers.engines.speech.phonemes.french import French
from backends.workers.engines.speech.phonemes.hindi import Hindi
from backends.workers.engines.speech.phonemes.italian import Italian
from backends.workers.engines.speech.phonemes.japanese import Japanese
from backends.workers.engines.speech.phonemes.portuguese import Portuguese
from backends.workers.engines.speech.phonemes.rules import Rules
from backends.workers.engines.speech.phonemes.spanish import Spanish
from backends.workers.engines.speech.phonemes.words import Reader

_NEEDS = {"en-US": "hibari", "en-GB": "hibari", "zh": "pypinyin", "ja": "pyopenjtalk"}
"""The packages of readers that are more than rules."""


def readers() -> Mapping[str, Reader]:
    """A reader by the BCP 47 tag of its language, for every one whose package is installed.

    Each loads what it needs when it first reads.
    """
    english = English(british=False)
    all_: Mapping[str, Reader] = {
        "en-US": english,
        "en-GB": English(british=True),
        "es": Rules(Spanish()),
        "fr": Rules(French()),
        "hi": Rules(Hindi(), others=english),
        "it": Rules(Italian()),
        "ja": Japanese(others=english),
        "pt-BR": Rules(Portuguese()),
        "zh": Chinese(others=english),
    }
    return {tag: reader for tag, reader in all_.items() if tag not in _NEEDS or find_spec(_NEEDS[tag]) is not None}
