"""Settings of the models that are pulled, or registered while the server runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from catalog.validation.section import Section

_Host = Annotated[str, StringConstraints(pattern=r"^(\*\.)?[a-z0-9.:-]+$", max_length=253)]


class ModelSettings(Section):
    """Bounds of what requests may do with models; each is opened here and by no request."""

    pull_on_use: bool = Field(
        default=False,
        description="pull a model of the catalogue when a request names it and its files are not on this machine",
    )
    folders: tuple[Path, ...] = Field(
        default=(),
        description="folders whose files a row registered over HTTP may name, beside those of [discovery]",
        examples=[["/srv/models"]],
    )
    hosts: tuple[_Host, ...] | None = Field(
        default=None,
        description="hosts that an endpoint registered over HTTP may have, in lower case; '*.example.com' is "
        "every name below example.com; by default any, while only this machine can reach the server and it has no "
        "keys, else none",
        examples=[["10.0.0.5", "*.example.com"]],
    )
