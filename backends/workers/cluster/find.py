"""Finds the manager of a cluster's pool, or starts it: ``python -m backends.workers.cluster.find``.

A :class:`backends.workers.cluster.specs.ManagerSpec` on standard input; one line of JSON on standard output: the
manager's address and key, or the reason why there is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import sys
from typing import Any

import orjson

from backends.workers.cluster.pool import Find, ManagerAddress
from backends.workers.cluster.specs import REPLICA, ManagerSpec
from backends.workers.settings import WorkerSettings
from catalog.errors import ConfigurationError, Unavailable
from catalog.installing import install_command

_HEAD = "node:__internal_head__"
"""The resource that Ray gives to the head's node alone."""
WITHIN = 30.0
"""Seconds for Ray to answer. A longer search is begun again: what it has started goes on in the cluster."""


def check_ray() -> None:
    """Raises ConfigurationError if Ray is not installed here. Imports nothing of it."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigurationError(
            "The setting workers.cluster needs Ray, which is not installed. Install it with: "
            f"{install_command('ray')}"
        )


def finder(settings: WorkerSettings, program: str = REPLICA) -> Find:
    """Return the search for the manager of the cluster in the settings; ``program`` is that of its replicas."""
    assert settings.cluster is not None
    spec = ManagerSpec(address=settings.cluster, settings=settings, program=program)

    async def find() -> ManagerAddress:
        return await find_manager(spec)

    return find


async def find_manager(spec: ManagerSpec) -> ManagerAddress:
    """Return the address and key of the manager, by a process that ends at once.

    Raises Unavailable with Ray's reason.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "backends.workers.cluster.find",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(WITHIN):
            output, _ = await process.communicate(spec.model_dump_json().encode() + b"\n")
    except TimeoutError:
        raise Unavailable(f"Ray at {spec.address} did not answer within {WITHIN:g} s.", retry_after=5) from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    lines = output.splitlines()
    told: dict[str, Any] = (
        orjson.loads(lines[-1]) if lines else {"error": f"the search ended with status {process.returncode}"}
    )
    if "error" in told:
        raise Unavailable(f"Ray at {spec.address} cannot be used: {told['error']}", retry_after=5)
    return ManagerAddress(told["host"], told["port"], told["key"])


def main() -> None:
    """Print the manager's address, or the reason why there is none."""
    report = os.dup(1)
    os.dup2(2, 1)
    spec = ManagerSpec.model_validate_json(sys.stdin.buffer.readline())
    try:
        host, port, key = _ask(spec)
        told: dict[str, Any] = {"host": host, "port": port, "key": key}
    except Exception as error:  # the boundary: whatever Ray raises is the reason
        told = {"error": (str(error).strip() or type(error).__name__).splitlines()[0][:500]}
    os.write(report, orjson.dumps(told) + b"\n")
    # Ray's threads may wait for a cluster that is gone; nothing of this process is needed any more.
    os._exit(0)


def _ask(spec: ManagerSpec) -> tuple[str, int, str]:
    import ray

    settings: WorkerSettings = spec.settings
    ray.init(
        address=spec.address,
        namespace=settings.cluster_namespace,
        log_to_driver=False,
        logging_level="ERROR",
        configure_logging=False,
    )
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from backends.workers.cluster.actors import ManagerActor

    # With the head if it can be: while that is away, nothing is placed anyhow, and no other loss is then the
    # manager's, too.
    heads = [row["NodeID"] for row in ray.nodes() if row["Alive"] and _HEAD in row["Resources"]]
    where = NodeAffinitySchedulingStrategy(heads[0], soft=True) if heads else "DEFAULT"
    manager = (
        ray.remote(ManagerActor)
        .options(
            name="manager",
            namespace=settings.cluster_namespace,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_concurrency=64,
            scheduling_strategy=where,
        )
        .remote(spec.model_dump_json())
    )
    host, port, key = ray.get(manager.where.remote(), timeout=WITHIN)
    return host, port, key


if __name__ == "__main__":
    main()
