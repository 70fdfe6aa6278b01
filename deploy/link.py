"""Links the command of the environment into a folder of PATH (``make install``). Usage: link.py COMMAND FOLDER"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(command: str, folder: str) -> int:
    """Make the link and say how to call the command; the exit status is 1, after one line, if that fails."""
    source, link = Path(os.path.abspath(command)), Path(folder).expanduser() / Path(command).name
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink() and link.readlink().name == source.name:
            link.unlink()  # of an earlier checkout
        link.symlink_to(source)
    except FileExistsError:
        print(f"{link} is another program: remove it, or name a folder with LINKS=FOLDER", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{link} cannot be written ({error.strerror}): name a folder with LINKS=FOLDER", file=sys.stderr)
        return 1
    print(f"{link} -> {source}")
    if str(link.parent) not in os.environ.get("PATH", "").split(os.pathsep):
        print(f'{link.parent} is not on PATH yet. For this shell: export PATH="{link.parent}:$PATH"')
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
