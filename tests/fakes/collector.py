"""A collector of OpenTelemetry traces: receives OTLP over HTTP and writes JSON lines.

``python -m tests.fakes.collector FILE`` listens on a free port of loopback and prints it.
"""

from __future__ import annotations

import gzip
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


def handler(file: Path) -> type[BaseHTTPRequestHandler]:
    """A handler that appends each span, with its resource's attributes, to ``file``."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            right = self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf"
            if right:
                with file.open("a") as sink:
                    sink.writelines(json.dumps(span) + "\n" for span in spans(body))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200 if right else 404)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    return Handler


def spans(body: bytes) -> list[dict[str, Any]]:
    """The spans of an export request."""
    document = MessageToDict(ExportTraceServiceRequest.FromString(body))
    return [
        {**span, "resource": resource["resource"]["attributes"]}
        for resource in document["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


def main(file: Path) -> None:
    """Serve until killed."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(file))
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
