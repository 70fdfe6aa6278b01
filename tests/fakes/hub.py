"""A fake of the Hugging Face hub on loopback, with faults on demand.

Wire, as ``huggingface_hub`` uses it: ``GET /api/models/{repo}/revision/{revision}?blobs=True`` lists the files
with size and digest; ``HEAD`` and ``GET /{repo}/resolve/{revision}/{file}`` answer with ``X-Repo-Commit``,
``ETag`` (``X-Linked-ETag`` and ``X-Linked-Size`` for large files) and honour ``Range``.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """A repository with one commit; ``token`` is required to read it, ``gated`` says so on its card."""

    files: dict[str, bytes]
    commit: str = "c0ffee" * 6 + "c0ff"
    revisions: tuple[str, ...] = ("main",)
    token: str | None = None
    tags: tuple[str, ...] = ()
    gated: bool = False
    lacking: tuple[str, ...] = ()
    """Fields that the descriptions of its files lack."""


@dataclass
class FakeHub:
    """The hub's repositories, its faults, and the requests it has received."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    cut_after: dict[str, int] = field(default_factory=dict)
    """By file: the bytes to send before the connection is closed, once."""
    gates: dict[str, threading.Event] = field(default_factory=dict)
    """By file: the second half is not sent before the event is set."""
    corrupt: dict[str, int] = field(default_factory=dict)
    """By file: the offset of a byte to corrupt, until the entry is removed."""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path, and the Range header."""
    address: str = ""

    def downloads(self, file: str) -> list[str | None]:
        """Return the Range headers of a file's GET requests, in order."""
        return [ranges for method, path, ranges in self.requests if method == "GET" and path.endswith(f"/{file}")]


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Run ``hub`` on a free port of loopback until the block ends."""

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: object) -> None:
        """Log nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.state.requests.append((self.command, path, self.headers.get("Range")))
        if path.startswith("/api/models/"):
            name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            repository = self._repository(name, revision or "main")
            if repository is not None:
                self._json(200, _info(name, repository))
            return
        name, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        repository = self._repository(name, revision)
        if repository is None:
            return
        data = repository.files.get(file)
        if data is None:
            self._json(404, {"error": "Entry not found"}, code="EntryNotFound")
            return
        self._file(repository, file, data, body=body)

    def _repository(self, name: str, revision: str) -> Repository | None:
        """Return the repository if it exists and may be read, else send the error."""
        repository = self.state.repositories.get(name)
        if repository is None:
            self._json(404, {"error": "Repository not found"}, code="RepoNotFound")
            return None
        if repository.token is not None:
            given = self.headers.get("Authorization")
            if given != f"Bearer {repository.token}":
                self._json(401 if given is None else 403, {"error": "gated"}, code="GatedRepo")
                return None
        if revision not in (*repository.revisions, repository.commit):
            self._json(404, {"error": "Revision not found"}, code="RevisionNotFound")
            return None
        return repository

    def _file(self, repository: Repository, file: str, data: bytes, *, body: bool) -> None:
        start = 0
        ranges = self.headers.get("Range")
        if ranges is not None:
            start = int(ranges.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if ranges else 200)
        digest = hashlib.sha256(data).hexdigest()
        self.send_header("X-Repo-Commit", repository.commit)
        self.send_header("ETag", f'"{digest if _large(file) else _git_blob(data)}"')
        if _large(file):
            self.send_header("X-Linked-ETag", f'"{digest}"')
            self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("Accept-Ranges", "bytes")
        if ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if not body:
            return
        if file in self.state.corrupt:
            offset = self.state.corrupt[file]
            data = data[:offset] + bytes([data[offset] ^ 0xFF]) + data[offset + 1 :]
        gate = self.state.gates.get(file)
        if gate is not None and start < len(data) // 2:
            self.wfile.write(data[start : len(data) // 2])
            self.wfile.flush()
            start = len(data) // 2
            if not gate.wait(30):
                self.close_connection = True
                return
        if file in self.state.cut_after:
            end = self.state.cut_after.pop(file)
            self.wfile.write(data[start:end])
            self.close_connection = True
            return
        self.wfile.write(data[start:])

    def _json(self, status: int, document: object, *, code: str | None = None) -> None:
        payload = json.dumps(document).encode()
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)


def _info(name: str, repository: Repository) -> dict[str, object]:
    siblings = []
    for file, data in repository.files.items():
        entry: dict[str, object] = {"rfilename": file, "size": len(data), "blobId": _git_blob(data)}
        if _large(file):
            digest = hashlib.sha256(data).hexdigest()
            lfs: dict[str, object] = {"sha256": digest, "size": len(data), "pointerSize": 130}
            entry["lfs"] = _without(lfs, repository.lacking)
        siblings.append(_without(entry, repository.lacking))
    card = {"_id": "1", "id": name, "modelId": name, "sha": repository.commit, "siblings": siblings}
    return {**card, "tags": list(repository.tags), "gated": "manual" if repository.gated else False}


def _without(fields: dict[str, object], lacking: tuple[str, ...]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if name not in lacking}


def _large(file: str) -> bool:
    return file.endswith((".gguf", ".safetensors", ".bin", ".onnx"))


def _git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
