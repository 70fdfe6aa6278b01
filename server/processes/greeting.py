"""The lines after "listening" that can be pasted into another terminal."""

from __future__ import annotations

import asyncio
import sys

from server.configuration.exposure import KEYS_MARK
from server.processes.sockets import reachable
from server.program import program
from server.settings import Settings


def greet(settings: Settings, url: str) -> None:
    """Print :func:`pasteable` to standard error if people read it there: a terminal, with logs as lines."""
    if settings.log.format != "console" or sys.stderr is None or not sys.stderr.isatty():
        return
    page = f"open {reachable(url)}/ui, or " if settings.server.console else ""
    text = f"\nTry it: {page}paste into another terminal:\n"
    text += "".join(f"  {line}\n" for line in pasteable(settings, url))
    # After the log's lines, which are written at the end of this iteration of the loop.
    asyncio.get_running_loop().call_soon(lambda: print(text, file=sys.stderr, flush=True))  # noqa: T201


def pasteable(settings: Settings, url: str) -> tuple[str, str, str]:
    """Three command lines: a chat in the terminal, a request, and the variables of OpenAI's SDKs.

    ``url`` is that of the listening socket. A server with keys gets ``$ROUNDHOUSE_KEY`` in them.
    """
    base = f"{reachable(url)}/v1"
    locked = bool(settings.api_keys or settings.admin_keys or (settings.data_dir / KEYS_MARK).exists())
    key = ' -H "Authorization: Bearer $ROUNDHOUSE_KEY"' if locked else ""
    body = '{"model": "auto", "messages": [{"role": "user", "content": "Hello!"}]}'
    return (
        f"{program()} run",
        f"curl {base}/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'",
        f"export OPENAI_BASE_URL={base} OPENAI_API_KEY={'$ROUNDHOUSE_KEY' if locked else 'none'}",
    )
