"""Which requests are those of a browser for a page."""

from __future__ import annotations

from starlette.datastructures import Headers

CONSOLE = "/ui"
_PAGES = frozenset({CONSOLE, "/docs"})
_FILES = CONSOLE + "/"


def wants_page(headers: Headers) -> bool:
    """Whether the client shows HTML. Browsers name it when a person opens an address; programs do not."""
    return "text/html" in headers.get("accept", "")


def is_file(path: str) -> bool:
    """Whether a path is that of a file of the console, of which a page has dozens."""
    return path.startswith(_FILES)


def is_page(path: str, headers: Headers) -> bool:
    """Whether a GET is for a file of the console, which holds no data and is served without a key."""
    return path in _PAGES or is_file(path) or (path == "/" and wants_page(headers))
