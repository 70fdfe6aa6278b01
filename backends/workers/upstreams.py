"""The upstream of a worker: where it listens, and with which key."""

from __future__ import annotations

from typing import Any

from backends.base import Upstream
from backends.registry import WORKER
from backends.workers.spec import WorkerSpec, split_socket
from backends.workers.templates import lacks_template
from catalog.model import Model


def worker_upstream(spec: WorkerSpec, model: Model) -> Upstream:
    """Return the upstream of a worker that was started with ``spec``. Reads the model's header, so it blocks."""
    return Upstream(
        endpoint=f"worker/{model.id}",
        protocol=WORKER,
        model=model.id,
        api_key=spec.api_key,
        parameters=model.parameters,
        engine=spec.engine,
        templated=not lacks_template(spec),
        **_address(spec.socket),
    )


def _address(socket: str) -> dict[str, Any]:
    """Return the fields of an upstream that say where it is. A node's address needs no lookup and no proxy."""
    tcp = split_socket(socket)
    if tcp is None:
        return {"base_url": "http://worker/v1", "uds": socket}
    return {"base_url": f"http://{socket}/v1", "addresses": (tcp[0],)}
