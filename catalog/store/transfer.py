"""Downloads one file over HTTP into a partial file, and resumes it after an interruption, also in a new process.

Recent versions of ``huggingface_hub`` discard an interrupted download, so the bytes are fetched here, with its
client, headers and errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from catalog.errors import PullError

_BLOCK = 1 << 20
_ATTEMPTS = 5
"""Failures in a row without a new byte, after which the download is given up."""

Sleep = Callable[[float], None]


class ChecksumMismatch(PullError):
    """A fetched file does not have the expected digest; it was deleted."""

    code = "checksum_mismatch"


def download(
    url: str,
    headers: dict[str, str],
    partial: Path,
    size: int,
    watch: Callable[[int], None],
    *,
    sleep: Sleep = time.sleep,
) -> None:
    """Complete ``partial`` to ``size`` bytes from ``url``, resuming from its present length.

    A broken connection is retried after 0.5 s, doubling, until five attempts in a row have brought no byte; then
    the HTTP library's error is raised, and the partial file stays. Raises PullError if the server sends another
    length, and huggingface_hub's errors for a status of 400 and above.
    """
    partial.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        before = _held(partial, size)
        if before == size:
            if not partial.exists():
                partial.touch()
            watch(size)
            return
        watch(before)  # it may stop a download that is no longer wanted, between two attempts
        try:
            _stream(url, headers, partial, before, size, watch)
        except transport_errors():
            failures = 0 if _held(partial, size) > before else failures + 1
            if failures >= _ATTEMPTS:
                raise
            sleep(min(0.5 * 2**failures, 8.0))


def _held(partial: Path, size: int) -> int:
    """Return the length of the partial file; one that is too long is deleted."""
    try:
        held = partial.stat().st_size
    except OSError:
        return 0
    if held > size:
        partial.unlink()
        return 0
    return held


def _stream(
    url: str, headers: dict[str, str], partial: Path, start: int, size: int, watch: Callable[[int], None]
) -> None:
    from huggingface_hub import get_session
    from huggingface_hub.utils._http import hf_raise_for_status

    sent = {**headers, "Accept-Encoding": "identity"}
    if start:
        sent["Range"] = f"bytes={start}-"
    session: Any = get_session()
    with session.stream("GET", url, headers=sent, follow_redirects=True) as response:
        if response.status_code == 416:
            partial.unlink()
            return
        if response.status_code >= 400:
            response.read()
            hf_raise_for_status(response)
        if response.status_code != 206:
            start = 0  # the server does not support ranges and sends the whole file
        with partial.open("r+b" if start else "wb") as file:
            file.seek(start)
            for block in response.iter_bytes(_BLOCK):
                file.write(block)
                start += len(block)
                if start > size:
                    break
                watch(start)
    if start > size:
        partial.unlink()
        raise PullError(f"{partial.name} is longer than the hub says; nothing of it was kept.")


def transport_errors() -> tuple[type[Exception], ...]:
    """Return the connection errors of the HTTP library that the installed ``huggingface_hub`` uses."""
    error: type[Exception] = _library().TransportError
    return (error,)


def unreachable_errors() -> tuple[type[Exception], ...]:
    """Return those of :func:`transport_errors` that come before a server has answered at all."""
    library = _library()
    return (library.ConnectError, library.ConnectTimeout, library.ProxyError)


def _library() -> Any:
    from huggingface_hub.errors import HfHubHTTPError

    base = next(base for base in HfHubHTTPError.__mro__[1:] if base.__module__.split(".")[0] in _LIBRARIES)
    return __import__(base.__module__.split(".")[0])


_LIBRARIES = ("httpx", "httpx2")
