"""The pip command that adds an extra to this installation; error messages and ``doctor`` show it."""

from __future__ import annotations

import json
import shlex
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

DISTRIBUTION = "roundhouse-server"
"""The name in package indexes. ``roundhouse`` there is another project's."""


def install_command(extra: str, *, python: str | None = None) -> str:
    """The command that installs ``extra`` from where Roundhouse itself came: a checkout, a wheel, or an index.

    ``python`` is the interpreter to install it for; by default the one that runs.
    """
    pip = f"{shlex.quote(python or sys.executable)} -m pip install"
    source, editable = _source()
    return f"{pip} {'-e ' if editable else ''}{shlex.quote(f'{source}[{extra}]')}"


@cache
def _source() -> tuple[str, bool]:
    """The place from which pip can install Roundhouse again, and whether as an editable checkout.

    pip records a local folder or wheel in ``direct_url.json`` (PEP 610). One that is gone, as a container's build
    folder is, gives the name.
    """
    try:
        record = json.loads(distribution(DISTRIBUTION).read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        return DISTRIBUTION, False
    address = urlsplit(record.get("url", ""))
    path = unquote(address.path)
    if address.scheme != "file" or not Path(path).exists():
        return DISTRIBUTION, False
    return path, bool(record.get("dir_info", {}).get("editable"))
