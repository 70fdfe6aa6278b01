"""npm's registry on this machine: packages of data, behind a real HTTP server that npm and others fetch from."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from catalog.pins import TarballPin


class FakeNpmRegistry:
    """Serves what :meth:`add` was given. ``asked`` are the paths of the requests."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.origin = ""
        self._tarballs: dict[str, bytes] = {}
        self._packages: dict[str, str] = {}

    def add(
        self,
        name: str,
        members: dict[str, bytes],
        *,
        version: str = "1.0.0",
        files: dict[str, str],
        link: str = "",
    ) -> TarballPin:
        """Add a package with ``members`` (below ``package/``); return a pin that takes ``files`` out of it.

        ``link`` is the name of a further member, a link to a file of the machine.
        """
        manifest = json.dumps({"name": name, "version": version, "scripts": {"prepack": "exit 1"}}).encode()
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w:gz") as archive:
            for member, content in {"package/package.json": manifest, **members}.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            if link:
                info = tarfile.TarInfo(link)
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                archive.addfile(info)
        tarball = data.getvalue()
        self._packages[f"/{name}"] = version
        self._tarballs[f"/{name}/-/{name}-{version}.tgz"] = tarball
        digest = hashlib.sha256(tarball).hexdigest()
        return TarballPin(name=name, version=version, sha256=digest, size=len(tarball), files=files)

    def answer(self, path: str) -> bytes | None:
        """The body for a path: a package's description, or its tarball."""
        self.asked.append(path)
        if path in self._tarballs:
            return self._tarballs[path]
        version = self._packages.get(path)
        if version is None:
            return None
        name = path[1:]
        tarball = f"/{name}/-/{name}-{version}.tgz"
        integrity = base64.b64encode(hashlib.sha512(self._tarballs[tarball]).digest()).decode()
        dist = {"tarball": self.origin + tarball, "integrity": f"sha512-{integrity}"}
        released = {"name": name, "version": version, "dist": dist}
        return json.dumps(
            {"name": name, "dist-tags": {"latest": version}, "versions": {version: released}}
        ).encode()


@contextmanager
def npm_registry() -> Iterator[FakeNpmRegistry]:
    """Run a registry for as long as the context is open."""
    registry = FakeNpmRegistry()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = registry.answer(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("content-length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry.origin = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
