"""Small catalogues and worlds for the tests of the router's policy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from catalog.index import Index
from catalog.model import Capability, Endpoint, Limits, Model, PathSource, Performance, Price, UpstreamSource
from routing.beliefs.estimator import Estimator
from routing.choosing.world import World
from routing.facts import Facts, Intent
from routing.settings import RoutingSettings

SETTINGS = RoutingSettings()


def remote(id_: str, *, endpoint: str | None = None, context: int | None = 8192, **changes: Any) -> Model:
    """A chat model at an endpoint of its own, with a price."""
    fields: dict[str, Any] = {
        "id": id_,
        "provider": "acme",
        "capabilities": frozenset({Capability.CHAT}),
        "source": UpstreamSource(endpoint=endpoint or f"at-{id_}", model=id_),
        "limits": Limits(context_window=context),
        "price": Price(input=1.0, output=2.0),
        "benchmarks": {"overall": 0.6},
    }
    return Model(**{**fields, **changes})


def local(id_: str, **changes: Any) -> Model:
    """A chat model on this machine."""
    fields: dict[str, Any] = {
        "source": PathSource(path=f"/models/{id_}.gguf"),
        "engine": "llamacpp",
        "price": Price(),
        "performance": Performance(tokens_per_second=100, load_seconds=0),
    }
    return remote(id_, **{**fields, **changes})


def world(
    models: Iterable[Model],
    endpoints: Iterable[Endpoint] = (),
    *,
    estimator: Estimator | None = None,
    **changes: Any,
) -> World:
    """A world of these models, with nothing learned."""
    index = Index(models, {endpoint.id: endpoint for endpoint in endpoints}, version=1)
    learned = estimator or Estimator(SETTINGS, writer="test")
    learned.align(index)
    return World(index=index, estimator=learned, now=0.0, **changes)


def chat(**changes: Any) -> Facts:
    """Facts of a short chat; ``changes`` may name fields of the intent beside those of the facts."""
    intent = {
        name: changes.pop(name) for name in list(changes) if name in Intent.__dataclass_fields__ and name != "task"
    }
    return Facts(**{"capability": Capability.CHAT, "prompt_tokens": 100, "intent": Intent(**intent), **changes})


def rng(seed: int = 0) -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(seed)
