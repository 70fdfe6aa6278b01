"""GET /ui and /docs: the console and the API reference. The files hold no data, so they need no key."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from catalog.errors import NotFound
from server.edge.contracts import Contract, route
from server.edge.errors import NOTHING_HERE
from server.ui import STATIC

if TYPE_CHECKING:
    from starlette.staticfiles import StaticFiles

router = APIRouter(tags=["console"])
CONSOLE_PATHS = frozenset({"/ui", "/ui/", "/ui/{name:path}", "/docs"})
"""The paths of this module's routes."""
PAGE = Contract(media={"text/html": str}, open=True, hidden=True, bare=False)
MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
        "media-src 'self' data: blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "permissions-policy": "camera=(), geolocation=(), microphone=(self)",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-cache",
}
"""Headers of every file: scripts and styles from here alone, requests to this server alone, and no frames."""
LONGEST_NAME = 100
_NAME = re.compile(r"[a-z0-9_-]+(/[a-z0-9_-]+)*\.[a-z]+")


@route(router, "GET", "/ui", PAGE)
async def get_console(request: Request) -> Response:
    """Redirect to the console's folder, against which its files are named."""
    del request
    return RedirectResponse("ui/", headers=HEADERS)


@route(router, "GET", "/ui/", PAGE)
async def get_console_page(request: Request) -> Response:
    """The console."""
    return await page(request, "index.html")


@route(router, "GET", "/ui/{name:path}", PAGE)
async def get_console_file(request: Request, name: str) -> Response:
    """A file of the console."""
    return await page(request, name)


@route(router, "GET", "/docs", PAGE)
async def get_reference(request: Request) -> Response:
    """The API reference, which the browser makes of ``/openapi.json``."""
    return await page(request, "docs.html")


async def page(request: Request, name: str) -> Response:
    """A file of the console, or 304 for a browser that has it. Raises NotFound."""
    media = MEDIA.get(name[name.rfind(".") :])
    if media is None or len(name) > LONGEST_NAME or not _NAME.fullmatch(name) or not (STATIC / name).is_file():
        raise NotFound(NOTHING_HERE)
    response = await _files().get_response(name, request.scope)
    response.headers.update(HEADERS)
    response.headers["content-type"] = media
    return response


@cache
def _files() -> StaticFiles:
    from starlette.staticfiles import StaticFiles

    return StaticFiles(directory=STATIC)
