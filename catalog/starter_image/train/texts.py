"""Makes the texts that the reader learns: names, keywords, sentences and colours, with the subjects they mean.

Sentences of ``HELD_OUT``, and some keywords, are never learned, so that they tell how well the reader understands
what it has not seen.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from catalog.starter_image.train.sources import Emoji

COLOURS = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey",
)  # fmt: skip
SPOKEN: Mapping[str, tuple[str, ...]] = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange",),
    "yellow": ("yellow", "golden"),
    "green": ("green", "lime green", "dark green"),
    "blue": ("blue", "navy blue", "light blue", "azure"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "magenta"),
    "brown": ("brown",),
    "black": ("black",),
    "white": ("white",),
    "grey": ("grey", "gray", "silver"),
}
LEARNED = (
    "{}", "a {}", "the {}", "draw a {}", "draw me a {}", "a picture of a {}", "an image of {}", "a cute {}",
    "an emoji of a {}", "a {} on a white background", "a big {}", "icon of a {}", "cartoon {}", "a photo of a {}",
    "a simple drawing of a {}", "generate a {}", "a small {}, flat style", "please paint a {} for me",
)  # fmt: skip
HELD_OUT = (
    "could you sketch a {}", "I would like an illustration that shows a {}", "one {}, minimalist sticker",
    "show me what a {} looks like", "a lovely {} in the centre, nothing else", "make a logo with a {}",
)  # fmt: skip
COLOURED = ("{1} {0}", "a {1} {0}", "draw a {1} {0}", "a {0} that is {1}", "a picture of a {1} {0}, flat style")
COLOURED_HELD_OUT = ("could you sketch a {1} {0}", "one {0} in {1}, minimalist sticker", "a {0}, painted {1}")
_NAMED = 60.0
_FRAMES = 9
"""Sentences around each name, chosen by chance; keywords have two."""
_ALONE = 0.06
"""Share of the keywords that mean one subject alone, which are held out."""


@dataclass(frozen=True)
class Text:
    """A prompt: the weights of its subjects, and the index of its colour in COLOURS, or -1."""

    prompt: str
    subjects: Mapping[int, float]
    colour: int
    kind: str


def meanings(emojis: Sequence[Emoji]) -> dict[str, dict[int, float]]:
    """The subjects of each name and keyword, weighted by how much of the name the word is.

    Names are their emoji's. A keyword counts most where it ends the name (``red heart`` for *heart*), less
    within it, and little elsewhere.
    """
    found: dict[str, dict[int, float]] = defaultdict(dict)

    def add(text: str, subject: int, weight: float) -> None:
        text = _clean(text)
        if len(text) >= 2 and re.search("[a-z]", text):
            found[text][subject] = max(weight, found[text].get(subject, 0.0))

    for subject, emoji in enumerate(emojis):
        name = _clean(emoji.name)
        add(name, subject, _NAMED)
        for typed in emoji.names:
            if not re.search(r"\d|^(woman|man|male|female) ", typed):
                add(typed, subject, _NAMED)
        for position, tag in enumerate((*emoji.tags, *emoji.keywords)):
            word = _clean(tag)
            listed = 1.0 if position < len(emoji.tags) else 0.5
            ends = name == word or name.endswith(f" {word}")
            begins = name.startswith(f"{word} ")
            add(word, subject, 12.0 if ends else 6.0 if begins else 3.0 if f" {word} " in name else listed)
    return {text: _led(subjects) for text, subjects in found.items()}


def _led(subjects: dict[int, float]) -> dict[int, float]:
    """The weights, where a name's subjects together have twice the weight of all others."""
    named = sum(weight for weight in subjects.values() if weight == _NAMED)
    others = sum(subjects.values()) - named
    share = min(1.0, 0.5 * named / others) if named and others else 1.0
    return {subject: weight if weight == _NAMED else weight * share for subject, weight in subjects.items()}


def make_texts(emojis: Sequence[Emoji], seed: int) -> tuple[list[Text], list[Text]]:
    """The texts to learn, and those that are held out."""
    rng = np.random.default_rng(seed)
    known = meanings(emojis)
    names = {_clean(emoji.name) for emoji in emojis}
    learned: list[Text] = []
    held: list[Text] = []
    for text, subjects in sorted(known.items()):
        named = text in names
        if not named and len(subjects) == 1 and rng.random() < _ALONE:
            held.append(Text(f"a {text}", subjects, -1, "keyword"))
            continue
        colour = _colour_in(text)
        count = _FRAMES if max(subjects.values()) == _NAMED else 2
        frames = ("{}", *rng.choice(LEARNED[1:], count, replace=False))
        learned += [Text(frame.format(text), subjects, colour, "learned") for frame in frames]
        if named:
            held.append(Text(str(rng.choice(HELD_OUT)).format(text), subjects, colour, "sentence"))
        if colour < 0 and max(subjects.values()) >= 12.0 and not _is_flag(subjects, emojis):
            learned += _coloured(text, known, emojis, rng, COLOURED, "learned", 3)
            if rng.random() < 0.15:
                held += _coloured(text, known, emojis, rng, COLOURED_HELD_OUT, "colour", 1)
    return learned, held


def _coloured(
    text: str,
    known: Mapping[str, Mapping[int, float]],
    emojis: Sequence[Emoji],
    rng: np.random.Generator,
    frames: Sequence[str],
    kind: str,
    count: int,
) -> Iterable[Text]:
    for index in rng.choice(len(COLOURS), count, replace=False):
        spoken = str(rng.choice(SPOKEN[COLOURS[index]]))
        subjects = known.get(f"{COLOURS[index]} {text}") or {
            subject: weight * (3.0 if COLOURS[index] in emojis[subject].name.split() else 1.0)
            for subject, weight in known[text].items()
        }
        yield Text(str(rng.choice(frames)).format(text, spoken), subjects, int(index), kind)


def _colour_in(text: str) -> int:
    """The colour that a text of two words or more names as an adjective."""
    words = text.split()
    return next((COLOURS.index(word) for word in words[:-1] if word in COLOURS), -1)


def _is_flag(subjects: Mapping[int, float], emojis: Sequence[Emoji]) -> bool:
    return any(emojis[subject].group == 9 for subject in subjects)


def _clean(text: str) -> str:
    return re.sub(r"\s+", " ", text.lower().replace("\u2019", "'").replace("_", " ").strip(" !?:;"))
