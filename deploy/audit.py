"""Asks pip-audit about a lock, and tells "nothing known" from "could not be asked".

Exit status 1 when something locked has a known vulnerability; 0 otherwise. A machine without the list of
vulnerabilities (offline, a bare index) is told apart in words: a build must not fail for that, nor be silent.
"""

from __future__ import annotations

import json
import subprocess
import sys

WAIT = 300


def main(lock: str) -> int:
    """Audit the requirements in ``lock``."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", lock, "--disable-pip", "--format", "json"]
    try:
        asked = subprocess.run(  # noqa: S603 -- an argument list, no shell
            [*command, "--progress-spinner", "off", "--timeout", "15"],
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
        report = json.loads(asked.stdout)
    except subprocess.TimeoutExpired:
        return _unasked("it did not answer in time")
    except json.JSONDecodeError:
        return _unasked((asked.stderr.strip().splitlines() or ["no reason was given"])[-1])
    asked_about = [package for package in report["dependencies"] if "skip_reason" not in package]
    if not asked_about:
        return _unasked("none of the locked packages is known to the service that was asked")
    found = [
        f"{package['name']} {package['version']}: {flaw['id']} (fixed in {', '.join(flaw['fix_versions']) or '-'})"
        for package in asked_about
        for flaw in package.get("vulns", ())
    ]
    print(  # noqa: T201
        "\n".join(found)
        or f"No known vulnerability in {len(asked_about)} of {len(report['dependencies'])} locked packages."
    )
    return 1 if found else 0


def _unasked(reason: str) -> int:
    print(f"NOT AUDITED: the list of known vulnerabilities cannot be had here: {reason[:300]}", file=sys.stderr)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
