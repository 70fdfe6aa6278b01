"""The worker's program: ``python -m backends.workers.program.main``, with its spec on standard input."""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import importlib
import os
import resource
import signal
import sys
import threading
import traceback
from typing import cast

from backends.workers.spec import EngineEntryPoint, WorkerSpec

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def main() -> None:
    """Serve until SIGTERM. If the model does not load, write the reason to the ready pipe and exit with code 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--module", required=True, help="the engine's module")
    parser.add_argument("--children", action="store_true", help="the engine starts processes of its own")
    arguments = parser.parse_args()

    faulthandler.enable()  # a crash of native code names the Python line that called it, in the worker's log
    _restrict(die_with_parent=not arguments.children)
    spec = WorkerSpec.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_die_with_parent, name="parent", daemon=True).start()
    report = os.fdopen(arguments.ready_fd, "wb", buffering=0)
    try:
        engine = _engine(arguments.module)
        engine(spec, lambda: _say(report.fileno(), "ready"))
    except Exception as error:  # the boundary: any exception while loading is reported as the reason
        traceback.print_exc()
        _say(report.fileno(), f"failed: {_one_line(error)}")
        sys.stderr.flush()
        os._exit(1)


def _engine(module: str) -> EngineEntryPoint:
    return cast("EngineEntryPoint", importlib.import_module(module).serve)


def _say(descriptor: int, line: str) -> None:
    os.write(descriptor, line.encode(errors="replace") + b"\n")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:500]


def _restrict(*, die_with_parent: bool) -> None:
    """On Linux, forbid new privileges and core files, and let the kernel kill this process with its parent.

    A core file would contain prompts.

    The kernel's signal reaches this process only, so an engine with children relies on :func:`_die_with_parent`,
    which kills the whole session.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if die_with_parent:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _die_with_parent() -> None:
    """Kill this session at the end of standard input, which means that the gateway has ended."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
