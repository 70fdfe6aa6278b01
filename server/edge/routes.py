"""The kind of route that the endpoints on the hot path use."""

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
    """A route whose handler takes the request, and nothing else, and gives the response.

    FastAPI would resolve dependencies, open exit stacks and look for parameters, a sixth of a plain request's
    time, for handlers that have none: they read their body themselves, counted and bounded. What a handler
    raises goes to the gate, which answers every error.
    """

    def __init__(self, path: str, endpoint: Handler, **options: Any) -> None:
        super().__init__(path, endpoint, **options)

        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(Request(scope, receive, send))
            await response(scope, receive, send)

        self.app = handle


async def to_its_route(scope: Scope, receive: Receive, send: Send) -> None:
    """The app behind the layers of a request whose route :class:`Shortcut` has found."""
    await scope["route"].app(scope, receive, send)


class Shortcut:
    """Takes what is asked of a :class:`DirectRoute` to it by its method and path; all else goes through the app.

    The router would try one pattern after another, and Starlette's and FastAPI's own layers have nothing to do for
    these routes: the gate answers their errors.
    """

    def __init__(self, app: ASGIApp, direct: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        """``direct`` is :func:`to_its_route` behind the layers that every request passes."""
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
        if route is None or scope.get("root_path"):
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        scope["endpoint"] = route.endpoint
        scope["path_params"] = {}
        await self._direct(scope, receive, send)
