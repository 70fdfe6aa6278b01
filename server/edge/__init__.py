"""The HTTP edge: the layers and limits between the socket and an endpoint.

The server depends on parts of uvicorn, Starlette, FastAPI and sse-starlette that their documentation does not
promise. This list is the only place that names them all. ``tests/server/edge/test_internals.py`` looks for each
name in the installed versions, so an upgrade that removes one fails with its name. A line holds a class, a colon
and its attributes, with the parameters that the server passes in parentheses. A sentence in brackets is behaviour
and the docstring of its test.

uvicorn, for :mod:`server.edge.uvicorn_protocol`:

- uvicorn.protocols.http.httptools_impl.HttpToolsProtocol: __init__(config, server_state, app_state, _loop),
  connection_made, connection_lost, data_received(data), on_message_begin, on_url, on_header, on_headers_complete,
  on_message_complete, on_response_complete, send_400_response(msg), flow, headers, scope, transport, loop, cycle,
  parser, url, logger, _unset_keepalive_if_required
- uvicorn.protocols.http.httptools_impl.RequestResponseCycle: transport, more_body
- uvicorn.protocols.http.flow_control.FlowControl: resume_reading
- [A request's task starts after on_headers_complete has returned, so its transport can be replaced there.]
- [A response is sent with no other method of the transport than write, close and is_closing.]
- [An exception in a callback of the parser is answered by send_400_response.]

uvicorn and websockets, for :mod:`server.edge.sockets.uvicorn_socket` and the handshake in
:mod:`server.edge.uvicorn_protocol`:

- uvicorn.protocols.http.httptools_impl.HttpToolsProtocol: handle_websocket_upgrade, ws_protocol_class
- uvicorn.protocols.websockets.websockets_sansio_impl.WebSocketsSansIOProtocol: handle_connect(event), run_asgi,
  transport
- uvicorn.config.Config: __init__(ws, ws_max_size, ws_per_message_deflate)
- [A WebSocket's message is read while no other waits for the handler.]

uvicorn, for :mod:`server.processes` and :mod:`backends.workers.program.server`:

- uvicorn.config.Config: __init__(http, lifespan, reset_contextvars), http_protocol_class
- uvicorn.server.Server: startup(sockets), capture_signals, servers, server_state, lifespan, started, should_exit,
  force_exit
- uvicorn.lifespan.off.LifespanOff: state
- [Startup with an empty list of sockets listens to nothing.]
- [Shutdown calls close and wait_closed of each of its servers, and nothing else.]

Starlette and FastAPI, for :mod:`server.app` and :mod:`server.edge.routes`:

- fastapi.applications.FastAPI: __init__(telemetry), build_middleware_stack, user_middleware, router, routes
- starlette.middleware.Middleware: cls, args, kwargs
- fastapi.routing.APIRouter: routes, lifespan_context(app)
- fastapi.routing.APIRoute: app, endpoint, methods, path, param_convertors
- [The middleware stack is built once, at the first request, when all routes are there.]
- [A matched APIRoute puts itself in the scope as route.]
- [A method that a path does not take is an HTTPException with the header Allow.]

Starlette, for :mod:`server.answers` and :mod:`server.edge.bodies`:

- starlette.responses.Response: init_headers(headers), raw_headers, background
- starlette.formparsers.MultiPartException: message
- [Headers can be initialised without a body, and then have no content-length.]

sse-starlette, for :mod:`server.answers`:

- sse_starlette.event.ServerSentEvent: __init__(comment, sep), encode
- sse_starlette.sse.EventSourceResponse: raw_headers
- sse_starlette.sse.SendTimeoutError: __init__
- [EventSourceResponse makes its headers in its constructor, outside an event loop.]
"""
