"""Speech and transcription, by the word error rate of a round trip through a model of this machine."""

from __future__ import annotations

import re
from random import Random

from server.calibration.examinee import Examinee

_WHO = ("The gardener", "My sister", "The old captain", "A young teacher", "The baker")
_DID = ("found", "painted", "carried", "repaired", "counted")
_THING = ("seven wooden chairs", "a green bicycle", "three small boats", "the broken window", "twelve letters")
_WHERE = ("behind the station", "near the river", "on Tuesday morning", "before the rain began", "in the garden")
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_DIGITS = {"3": "three", "7": "seven", "12": "twelve"}


def sentence(dice: Random) -> str:
    """A sentence to speak."""
    return f"{dice.choice(_WHO)} {dice.choice(_DID)} {dice.choice(_THING)} {dice.choice(_WHERE)}."


def spoken_words(text: str) -> list[str]:
    """The words of a text in lower case, numbers of our sentences in letters."""
    return [
        _DIGITS.get(word, word) for word in (each.lower().replace("\u2019", "'") for each in _WORD.findall(text))
    ]


def word_error_rate(told: str, right: str) -> float:
    """Words that differ (inserted, left out, replaced) over the words that were said, at most 1."""
    heard, said = spoken_words(told), spoken_words(right)
    row = list(range(len(heard) + 1))
    for place, word in enumerate(said, 1):
        above, row[0] = row[0], place
        for at, other in enumerate(heard, 1):
            above, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, above + (word != other))
    return min(1.0, row[-1] / max(1, len(said)))


async def transcription(dice: Random, model: Examinee) -> float:
    """Write down a sentence that a voice of this machine speaks."""
    text = sentence(dice)
    return 1.0 - word_error_rate(await model.transcribe(await model.helper.speak(text)), text)


async def speaking(dice: Random, model: Examinee) -> float:
    """Speak a sentence so that a transcriber of this machine understands it."""
    text = sentence(dice)
    return 1.0 - word_error_rate(await model.helper.transcribe(await model.speak(text)), text)
