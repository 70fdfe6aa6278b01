"""Query parameters of OpenAI's lists, and the answer to a deletion."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from backends.wire.common import AS_COUNT, Metadata
from catalog.types import Json
from server.storage.storage import Page, listed, no_cursor

MAX_PAGE = 100
Cursor = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Included = list[Annotated[str, StringConstraints(max_length=100)]]
"""OpenAI's bounds of what callers attach to objects."""


class ListQuery(BaseModel):
    """A page of a list: ``after`` is the id of the object before it."""

    after: Cursor | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE), AS_COUNT] = 20
    order: Literal["asc", "desc"] = "desc"

    def page(self) -> Page:
        """The page to read from a storage."""
        return Page(self.limit, self.order, self.after)


class ItemsQuery(ListQuery):
    """A page of items. ``include`` names parts of items that are not shown otherwise (``include[]=...``)."""

    include: Included | None = None


class MetadataUpdate(BaseModel):
    """New metadata of an object, in place of the old."""

    model_config = ConfigDict(extra="allow")

    metadata: Metadata | None


def page_of(items: list[Json], query: ListQuery) -> Json:
    """The list object of one page of ``items``, oldest first. Raises InvalidRequest for an unknown cursor."""
    ordered = items if query.order == "asc" else items[::-1]
    start = 0
    if query.after is not None:
        start = next((at + 1 for at, item in enumerate(ordered) if item.get("id") == query.after), 0)
        if not start:
            raise no_cursor(query.after, "after")
    found = ordered[start : start + query.limit + 1]
    return listed(found[: query.limit], len(found) > query.limit)
