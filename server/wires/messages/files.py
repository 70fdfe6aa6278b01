"""Files in Anthropic's shape. Source: Anthropic's API reference, "Files" (beta)."""

from __future__ import annotations

import mimetypes
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from backends.wire.common import AS_COUNT, Identifier
from catalog.types import Json

_PAGE = "page_"


class FilePageQuery(BaseModel):
    """``page`` is the ``next_page`` of another page; in the older form of the API, ``after_id`` is its ``last_id``
    and ``before_id`` its ``first_id``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    beta: Literal["true"] | None = None
    page: Annotated[str, StringConstraints(pattern=rf"^{_PAGE}.{{1,128}}$")] | None = None
    limit: Annotated[int, Field(ge=1, le=1000), AS_COUNT] = 20
    after_id: Identifier | None = None
    before_id: Identifier | None = None

    @property
    def after(self) -> str | None:
        """The id of the file before the page."""
        return self.after_id if self.page is None else self.page.removeprefix(_PAGE)


def file_info(file: Json) -> Json:
    """OpenAI's file object in Anthropic's shape."""
    return {
        "type": "file",
        "id": file["id"],
        "filename": file["filename"],
        "mime_type": mimetypes.guess_type(file["filename"])[0] or "application/octet-stream",
        "size_bytes": file["bytes"],
        "created_at": datetime.fromtimestamp(file["created_at"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "downloadable": True,
    }


def file_page(files: list[Json], *, more: bool) -> Json:
    """One page of files; ``more``: there are others in the direction asked for."""
    data = [file_info(file) for file in files]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    following = f"{_PAGE}{ends['last_id']}" if more else None
    return {"data": data, "has_more": more, **ends, "next_page": following}
