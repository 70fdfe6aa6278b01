"""A place in a picture, in ``grounding`` of a chat's message and in answers of ``/v1/ground``."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict


class LocatedPlace(TypedDict):
    """A place in a picture.

    ``box`` is left, top, right, bottom, and ``point`` x, y, in pixels of the upright picture: null for one whose
    size this server does not know. ``relative`` has the same numbers as fractions of the picture.
    """

    type: Literal["box", "point"]
    label: str
    box: NotRequired[list[float] | None]
    point: NotRequired[list[float] | None]
    relative: list[float]


class GroundedPlace(LocatedPlace):
    """A place that the characters from ``start_index`` to ``end_index`` of a message name.

    ``image_index`` counts the pictures of the request from 0; null where the answer does not tell which of several
    it speaks of.
    """

    image_index: int | None
    start_index: int
    end_index: int
