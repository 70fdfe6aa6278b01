"""A package index in a folder (PEP 503, usable by pip without a network) with small data wheels."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from catalog.pins import WheelPin


def add_wheel(
    index: Path, name: str, members: dict[str, bytes], *, version: str = "1.0", files: dict[str, str]
) -> WheelPin:
    """Add a wheel with ``members`` to ``index``; return a pin that extracts ``files`` from it.

    Its metadata requires a package that does not exist, as dependencies must not be resolved.
    """
    module = name.replace("-", "_")
    folder = index / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{module}-{version}-py3-none-any.whl"
    info = f"{module}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: no-such-package-at-all\n"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    links = "".join(f'<a href="{wheel.name}">{wheel.name}</a>' for wheel in sorted(folder.glob("*.whl")))
    (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")
    return WheelPin(name=name, version=version, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), files=files)


def pip_arguments(index: Path) -> list[str]:
    """Return the arguments that make pip use only ``index``."""
    return ["--isolated", "--index-url", index.as_uri()]
