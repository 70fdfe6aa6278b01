"""Stand-ins: the models that answer for names which apps have built in (``[routing.stand_ins]``)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import translate
from typing import NamedTuple

from catalog.discovery import guess_capabilities
from catalog.errors import InvalidRequest
from catalog.model import Capability
from catalog.names.ollama import untagged
from catalog.validation.fields import check_name
from routing.reading.intent import is_auto, mode_of

_WILD = re.compile(r"[*?\[]")


class StandIn(NamedTuple):
    """The model ``target`` answers a request for the model ``asked``."""

    asked: str
    target: str


class StandIns:
    """Finds the stand-in for a name: an exact name goes before a pattern, and a longer pattern before a shorter.

    Case is ignored, as in every name of a model. False if there are none.
    """

    def __init__(self, table: Mapping[str, str]) -> None:
        names = {name.casefold(): target for name, target in table.items()}
        self._exact = {name: target for name, target in names.items() if not _WILD.search(name)}
        patterns = sorted(names.keys() - self._exact.keys(), key=lambda pattern: (-len(pattern), pattern))
        self._patterns = [(re.compile(translate(pattern)), names[pattern]) for pattern in patterns]

    def __bool__(self) -> bool:
        return bool(self._exact or self._patterns)

    def __call__(self, name: str) -> StandIn | None:
        """The stand-in for a name, also one with Ollama's tag ``latest``; ``None`` for the router's own names."""
        if is_auto(name):
            return None
        forms = tuple(dict.fromkeys((name.casefold(), untagged(name.casefold()))))
        named = (self._exact[form] for form in forms if form in self._exact)
        patterned = (target for pattern, target in self._patterns if any(map(pattern.match, forms)))
        target = next(named, None) or next(patterned, None)
        return None if target is None else StandIn(name, target)


def check_stand_in(pattern: str, target: str) -> None:
    """Raises ValueError for a pattern that takes the router's own names, or a target that is no one model."""
    check_name(pattern)
    check_name(target)
    if is_auto(pattern):
        raise ValueError("'auto' is the router's own name, for which no model stands in")
    if not is_auto(target):
        if _WILD.search(target):
            raise ValueError(f"'{target}' is a pattern: name one model that stands in for '{pattern}', or auto")
        return
    try:
        mode_of(target)
    except InvalidRequest as error:
        raise ValueError(error.message.rstrip(".")) from None
    if means_embeddings(pattern):
        raise ValueError(embeds_by_choice(pattern, target))


def means_embeddings(pattern: str) -> bool:
    """Whether a pattern looks like names of embedding models, by the rules for models that a server lists."""
    return guess_capabilities(pattern) == {Capability.EMBED}


def embeds_by_choice(asked: str, target: str) -> str:
    """The words for embeddings by a model that the router chooses, whose vectors another choice could not use."""
    return (
        f"'{target}' in place of '{asked}' may be another model tomorrow, and vectors of two models do not "
        "compare: name one embedding model"
    )
