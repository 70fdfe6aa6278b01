"""Checks a lock file for known vulnerabilities with pip-audit.

Exit status 1 if a locked package has a known vulnerability, else 0. Without access to the vulnerability service
(offline, a bare index) the status is 0 too, so that the build does not fail, and "NOT AUDITED" is printed.
"""

from __future__ import annotations

import json
import subprocess
import sys

WAIT = 300


def main(lock: str) -> int:
    """Audit the requirements file ``lock``; returns the exit status."""
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
        return _not_audited("pip-audit timed out")
    except json.JSONDecodeError:
        return _not_audited((asked.stderr.strip().splitlines() or ["no reason was given"])[-1])
    asked_about = [package for package in report["dependencies"] if "skip_reason" not in package]
    if not asked_about:
        return _not_audited("the service knows none of the locked packages")
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


def _not_audited(reason: str) -> int:
    print(f"NOT AUDITED, no list of known vulnerabilities: {reason[:300]}", file=sys.stderr)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
