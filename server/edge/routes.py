"""Routes without FastAPI's stack: the hot path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

Handler = Callable[[Request], Awaitable[Response]]


class DirectRoute(APIRoute):
    """A route whose handler takes only the request and returns the response.

    For any handler FastAPI resolves dependencies, opens exit stacks and looks for parameters, a sixth of a plain
    request's time; these handlers have none. Exceptions go to the gate, which answers every error.
    """

    def __init__(self, path: str, endpoint: Handler, **options: Any) -> None:
        super().__init__(path, endpoint, **options)

        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(Request(scope, receive, send))
            await response(scope, receive, send)

        self.app = handle


async def to_its_route(scope: Scope, receive: Receive, send: Send) -> None:
    """Run the route that :class:`Shortcut` found for a request."""
    await scope["route"].app(scope, receive, send)


class Shortcut:
    """Dispatches requests for a :class:`DirectRoute` by method and path; other requests go through the app.

    The router tries one pattern after another, and Starlette's and FastAPI's own layers do nothing for these
    routes, whose errors the gate answers.
    """

    def __init__(self, app: ASGIApp, direct: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        """``direct`` is :func:`to_its_route` wrapped in the middleware that every request passes."""
        self._app = app
        self._direct = direct
        self._routes = {
            (method, route.path): route
            for route in routes
            if isinstance(route, DirectRoute) and not route.param_convertors
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None or ((root := scope.get("root_path")) and scope["path"].startswith(root)):
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        scope["endpoint"] = route.endpoint
        scope["path_params"] = {}
        await self._direct(scope, receive, send)
