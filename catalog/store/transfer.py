"""One file over HTTP into a partial file, resumed where it broke, in this process or the next.

``huggingface_hub`` of late keeps nothing of a download that was interrupted, so the bytes are fetched here, with
its client, its headers and its errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from catalog.errors import PullError

_BLOCK = 1 << 20
_ATTEMPTS = 5
"""In a row, without a new byte."""

Sleep = Callable[[float], None]


def download(
    url: str,
    headers: dict[str, str],
    partial: Path,
    size: int,
    watch: Callable[[int], None],
    *,
    sleep: Sleep = time.sleep,
) -> None:
    """Complete ``partial`` to ``size`` bytes from ``url``; what it already holds is not fetched again.

    A broken connection is tried again after 0.5 s, doubling, as long as bytes arrive or five attempts have not
    failed in a row; then the error of the HTTP library is raised and the partial file stays. Raises PullError if
    the server gives another length, and huggingface_hub's errors for a status of 400 and above.
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
        try:
            _stream(url, headers, partial, before, size, watch)
        except transport_errors():
            failures = 0 if _held(partial, size) > before else failures + 1
            if failures >= _ATTEMPTS:
                raise
            sleep(min(0.5 * 2**failures, 8.0))


def _held(partial: Path, size: int) -> int:
    """Bytes to go on from; a partial file that is too long is none of this file."""
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

    asked = {**headers, "Accept-Encoding": "identity"}
    if start:
        asked["Range"] = f"bytes={start}-"
    session: Any = get_session()
    with session.stream("GET", url, headers=asked, follow_redirects=True) as response:
        if response.status_code == 416:
            partial.unlink()
            return
        if response.status_code >= 400:
            response.read()
            hf_raise_for_status(response)
        if response.status_code != 206:
            start = 0  # the server does not resume: what it sends is the whole file
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
    """What the HTTP library under the installed ``huggingface_hub`` raises when a connection fails."""
    from huggingface_hub.errors import HfHubHTTPError

    library = next(base for base in HfHubHTTPError.__mro__[1:] if base.__module__.split(".")[0] in _LIBRARIES)
    module = __import__(library.__module__.split(".")[0])
    error: type[Exception] = module.TransportError
    return (error,)


_LIBRARIES = ("httpx", "httpx2")
