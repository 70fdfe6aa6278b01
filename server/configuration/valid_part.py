"""The part of wrong settings that is right, so that what does not depend on the rest can be checked, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from server.configuration.places import Path as Place
from server.settings import Settings


class _Given(Settings):
    """Settings of the values that are given, and of no other source."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


def valid_part(values: Mapping[str, Any]) -> tuple[Settings, list[ErrorDetails], set[Place]]:
    """The settings of nested values without the wrong ones, the errors, and the places that were left out.

    A rule of a whole section is asked once all its values are right. Of a section with a wrong value it is not
    told, as a value that is left out could be what breaks it.
    """
    errors: list[ErrorDetails] = []
    left_out: set[Place] = set()
    while True:
        try:
            return _Given.model_validate(values), errors, left_out
        except ValidationError as error:
            found = error.errors(include_url=False)
            errors += [] if left_out else found
            places = {_deepest(values, each["loc"]) for each in found}
            left_out |= places
            for place in places:
                values = _without(values, place) if place else {}


def _deepest(values: Any, path: Place) -> Place:
    """The beginning of a path whose parts are all names in tables that are there."""
    for length, part in enumerate(path):
        if not isinstance(values, Mapping) or part not in values:
            return path[:length]
        values = values[part]
    return path


def _without(values: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """A copy of nested tables without the value at a place, if it is there."""
    copy = {str(name): each for name, each in values.items() if name != place[0] or len(place) > 1}
    if len(place) > 1 and isinstance(inner := copy.get(str(place[0])), Mapping):
        copy[str(place[0])] = _without(inner, place[1:])
    return copy
