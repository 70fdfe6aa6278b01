"""Converts errors, upstreams and worker views to JSON and back, without loss, for the control socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import orjson

from backends.base import Life, Timeouts, Upstream
from backends.workers.pool import DeviceView, NodeView, PoolSnapshot, WorkerState, WorkerView, of_cluster
from catalog import errors
from catalog.errors import RoundhouseError

JsonValue = Any


def dumps(message: JsonValue) -> bytes:
    """Encode a message; dataclasses become objects, sets become sorted lists."""
    return orjson.dumps(message, default=_as_json)


def _as_json(value: Any) -> JsonValue:
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} does not cross the control socket")


def error_to_json(error: RoundhouseError) -> JsonValue:
    """Convert an error: the name of its class, the message and its attributes."""
    return {"type": type(error).__name__, "message": error.message, "carries": vars(error)}


def error_from_json(value: JsonValue) -> RoundhouseError:
    """Restore an error; RoundhouseError if the class is unknown in this version."""
    kind = vars(errors).get(value["type"])
    if not (isinstance(kind, type) and issubclass(kind, RoundhouseError)):
        return RoundhouseError(value["message"])
    # Constructors differ and compose the message, so the attributes are restored without calling them.
    error = kind.__new__(kind)
    Exception.__init__(error, value["message"])
    carried = {name: tuple(item) if isinstance(item, list) else item for name, item in value["carries"].items()}
    error.__dict__.update(carried)
    return error


_AT_HOME = frozenset({"asked", "cloud", "life", "moderation"})


def upstream_to_json(upstream: Upstream) -> JsonValue:
    """Convert an upstream, including its key: only the parent and this gateway have the socket.

    What a gateway learned about the form of requests stays with it: our own workers take every form, and no worker
    is in a cloud.
    """
    return {item.name: getattr(upstream, item.name) for item in fields(Upstream) if item.name not in _AT_HOME}


def upstream_from_json(value: JsonValue, life: Life | None = None) -> Upstream:
    """Restore an upstream, with a life of this side."""
    parameters = value["parameters"]
    return Upstream(
        **{
            **value,
            "life": life,
            "addresses": tuple(value["addresses"]),
            "timeouts": Timeouts(**value["timeouts"]),
            "parameters": None if parameters is None else frozenset(parameters),
        }
    )


_MOMENTS = ("started_at", "last_used", "expires_at")


def view_from_json(value: JsonValue, later: float = 0.0) -> WorkerView:
    """Restore a worker's view. ``later`` is what this machine's monotonic clock shows more than the sender's."""
    moments = {name: value[name] + later for name in _MOMENTS if later and value[name] is not None}
    return WorkerView(**{**value, **moments, "state": WorkerState(value["state"])})


def snapshot_from_json(value: JsonValue, later: float = 0.0) -> PoolSnapshot:
    """Restore a snapshot. ``later`` is as in :func:`view_from_json`."""
    workers = tuple(view_from_json(worker, later) for worker in value["workers"])
    devices = tuple(DeviceView(**device) for device in value["devices"])
    if value["merged"] is None:
        return PoolSnapshot(workers, devices)
    return of_cluster(workers, devices, tuple(NodeView(**node) for node in value["nodes"]))
