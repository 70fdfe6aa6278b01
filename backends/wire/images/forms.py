"""Reads the multipart form of an edit, whose files were read before. Source: OpenAI's SDKs, which write it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from backends.wire.images.request import MOST_PICTURES
from catalog.errors import InvalidRequest
from catalog.types import Json

FILES = ("image", "mask", "markup")
MOST_FILES = MOST_PICTURES + 2
_WHOLE = frozenset({"n", "output_compression", "partial_images", "steps", "seed"})
_NUMBERS = frozenset({"guidance_scale", "strength"})
_YES_OR_NO = frozenset({"stream", "strict"})
_PLACE = re.compile(r"(\w{1,64})((?:\[\w{0,64}\]){0,3})")
"""A field's name, and its place within an object or a list, as OpenAI's SDKs write it in a form."""


def fields_of(items: Iterable[tuple[str, str | bytes]]) -> Json:
    """The fields of an edit by the form's parts in their order; a file is bytes. ``image`` is a tuple.

    Numbers are read where their field has numbers; validation is left to the request's type. Raises
    InvalidRequest.
    """
    fields: dict[str, Any] = {}
    pictures: list[bytes] = []
    for name, value in items:
        outer, places = _place(name)
        if outer in FILES:
            if isinstance(value, str):
                raise InvalidRequest(f"'{outer}' must be a file: give it a filename.", param=outer)
            if not value:
                raise InvalidRequest("The file is empty.", param=outer)
            if outer == "image":
                pictures.append(value)
            elif outer in fields:
                raise InvalidRequest(f"There is one '{outer}' for all pictures.", param=outer)
            else:
                fields[outer] = value
        elif isinstance(value, bytes):
            raise InvalidRequest("The files are 'image', 'mask' and 'markup'.", param=outer)
        elif outer in fields and not places:
            raise InvalidRequest(f"The form has the field '{outer}' twice.", param=outer)
        elif places:
            _put(fields, outer, places, value)
        else:
            fields[outer] = _typed(outer, value)
    if not pictures:
        raise InvalidRequest("The form has no 'image'.", param="image")
    return {**fields, "image": tuple(pictures)}


def _place(name: str) -> tuple[str, list[str]]:
    found = _PLACE.fullmatch(name)
    if found is None:
        raise InvalidRequest("A field's name has letters, digits and brackets.", param=name[:64])
    return found[1], re.findall(r"\[(\w*)\]", found[2])


def _put(fields: dict[str, Any], outer: str, places: Sequence[str], value: str) -> None:
    """Set a member of an object, or add to a list. Raises InvalidRequest where both would be needed."""
    holder: Any = fields
    for name, inner in zip((outer, *places), places, strict=False):
        made: Any = [] if inner == "" else {}
        held = holder.setdefault(name, made) if isinstance(holder, dict) else None
        if type(held) is not type(made):
            raise InvalidRequest("A field is a text, a list or an object, not several of them.", param=outer)
        holder = held
    if isinstance(holder, list):
        holder.append(value)
    else:
        holder[places[-1]] = value


def _typed(name: str, value: str) -> Any:
    """A form's text as its field's type; validation refuses a text that is not of that type."""
    if name in _YES_OR_NO:
        return {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), value)
    try:
        if name in _WHOLE and len(value) < 21:
            return int(value)
        if name in _NUMBERS and len(value) < 40:
            return float(value)
    except ValueError:
        return value
    return value
