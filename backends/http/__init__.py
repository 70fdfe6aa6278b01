"""The HTTP client for upstreams: HTTP/1.1 over asyncio's transports, parsed by llhttp (httptools).

Every token passes through it, so it is built on no client library: the usual ones cost four to ten times as much
per call, and none has a timeout and an error of its own for each phase of a call.
"""

from backends.http.client import HttpClient
from backends.http.multipart import FormField, FormFile
from backends.http.response import UpstreamResponse

__all__ = ["FormField", "FormFile", "HttpClient", "UpstreamResponse"]
