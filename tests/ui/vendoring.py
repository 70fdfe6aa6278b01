"""``python -m tests.ui.vendoring`` writes the libraries of the console anew, from npm.

They are as their makers publish them, but for two things: a module names another one's file here, not its package,
and no module names a source map.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path

from server.ui import STATIC

VENDOR = STATIC / "vendor"
PACKAGES = {"preact": "11.2.0", "htm": "3.1.1", "marked": "18.2.1"}
FILES = {
    "preact-core.js": ("preact", "dist/preact.mjs"),
    "preact-hooks.js": ("preact", "hooks/dist/hooks.mjs"),
    "htm.js": ("htm", "dist/htm.mjs"),
    "marked.js": ("marked", "lib/marked.esm.js"),
}
"""The files of the folder, each with its package and its name there."""


def adapted(text: str) -> str:
    """A module of a package, as it is served here."""
    text = re.sub(r"\n?//# sourceMappingURL=.*\n?", "\n", text)
    return text.replace('from"preact"', 'from"./preact-core.js"')


def write() -> None:
    """Fetch the packages and write their files and licences."""
    VENDOR.mkdir(exist_ok=True)
    notices = ["The libraries of the console, from npm. `python -m tests.ui.vendoring` writes this folder.\n"]
    with tempfile.TemporaryDirectory() as folder:
        for name, version in PACKAGES.items():
            subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=folder, check=True)
            with tarfile.open(Path(folder) / f"{name}-{version}.tgz") as archive:
                for target, (package, source) in FILES.items():
                    if package == name:
                        (VENDOR / target).write_text(adapted(_read(archive, source)))
                notices.append(f"\n==== {name} {version} ====\n\n{_read(archive, 'LICENSE').strip()}\n")
    notices.append("\n==== SHA-256 ====\n\n")
    notices += [f"{digest(VENDOR / name)}  {name}\n" for name in FILES]
    (VENDOR / "licences.txt").write_text("".join(notices))


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(archive: tarfile.TarFile, name: str) -> str:
    file = archive.extractfile(f"package/{name}")
    assert file is not None
    return file.read().decode()


if __name__ == "__main__":
    write()
