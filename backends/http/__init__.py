"""How upstreams are called: HTTP/1.1 over asyncio's transports, parsed by llhttp (httptools).

The path of every token goes through here, so there is no library between: the usual ones cost four to ten times as
much per call, and none gives each of a call's waits a clock and an error of its own.
"""

from backends.http.client import HttpClient
from backends.http.multipart import FormField, FormFile
from backends.http.response import UpstreamResponse

__all__ = ["FormField", "FormFile", "HttpClient", "UpstreamResponse"]
