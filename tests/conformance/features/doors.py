"""A door of the table: its path, its smallest body, and samples of its parameters."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from catalog.types import Json

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
PICTURE = f"data:image/png;base64,{PNG}"
PDF = base64.b64encode(
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Count 1/Kids[3 0 R]>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
).decode()
WAV = base64.b64encode(
    b"RIFF\x26\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00\x80\x3e\x00\x00\x02\x00\x10\x00"
    b"data\x02\x00\x00\x00\x00\x00"
).decode()


@dataclass(frozen=True)
class Sample:
    """Fields of a request that ask for one thing. ``parameter`` is the one that an answer would name."""

    name: str
    fields: Mapping[str, Any]

    @property
    def parameter(self) -> str:
        return self.name.partition(":")[0].partition(".")[0]


@dataclass(frozen=True)
class Door:
    """A route, a smallest body, its parameters, and those that end at the gateway, each with the reason.

    ``gateway`` are parameters without a sample, or with one that the provider never gets. ``own`` are those
    that the gateway does where the provider does not get them. ``file`` is the file of a form, under the name
    ``field``.
    """

    path: str
    base: Json
    samples: tuple[Sample, ...]
    gateway: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[str, str] = field(default_factory=dict)
    file: bytes | None = None
    field: str = "file"


def plain(**values: Any) -> list[Sample]:
    return [Sample(name, {name: value}) for name, value in values.items()]
