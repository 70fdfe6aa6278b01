"""The name by which this installation's command can be typed, for messages with a command to paste."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

_NEAR = 4
"""Parts of a path that are still told as relative."""


def program() -> str:
    """``roundhouse`` where the shell finds this installation's, else its path, else how Python runs it.

    The path is relative in the folder of the checkout, as in ``.venv/bin/roundhouse``.
    """
    own = Path(sys.executable).parent / "roundhouse"
    found = shutil.which("roundhouse")
    if found is not None and (not own.exists() or Path(found).resolve() == own.resolve()):
        return "roundhouse"
    if not own.exists():
        return f"{shlex.quote(sys.executable)} -m server.cli"
    try:
        near = own.relative_to(Path.cwd())
    except (ValueError, OSError):
        return shlex.quote(str(own))
    # From far above, as from /, a relative path is longer and works from nowhere else.
    return shlex.quote(str(near if len(near.parts) <= _NEAR else own))
