"""The facts that ``doctor`` tells of this machine: devices, engines, starter models, faults, and the next step."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from backends.workers.engines.registry import Engines, builtin_engines
from backends.workers.placement import check_memory
from catalog import starter
from catalog.catalog import Catalog
from catalog.errors import ConfigurationError
from catalog.hardware import Machine, detect
from catalog.model import Capability
from catalog.types import Json
from server.advising.models import as_json, recommended, upgrades
from server.commands.library.local import broken_files, catalog_and_store, faults_of, state_of
from server.commands.terminal import bytes_of
from server.program import program
from server.settings import Settings

ROOM = 2_000_000_000
"""Bytes of free disk below which there is hardly room for a model."""


def diagnose(settings: Settings) -> Json:
    """All that is known without a server. Raises ConfigurationError for settings that cannot be used."""
    catalog, store = catalog_and_store(settings)
    machine = detect()
    check_memory(settings.workers.memory, machine.devices)
    engines = builtin_engines(settings.workers.python)
    faults = faults_of(catalog, store, engines)
    installed = [row for row in catalog.models(local=True) if row.id not in faults]
    advices = recommended(settings)
    missing = {name: engines.missing(name) for name in sorted(engines)}
    return {
        "machine": {
            "os": machine.os,
            "architecture": machine.architecture,
            "cores": machine.cores,
            "memory": machine.memory,
            "devices": [
                {"id": device.id, "name": device.name, "budget": device.budget} for device in machine.devices
            ],
        },
        "engines": [
            {
                "engine": name,
                "ready": lack is None,
                "matters": lack is None or matters(name, machine, engines),
                "missing": None if lack is None else lack.message,
            }
            for name, lack in missing.items()
        ],
        "starter": {
            model.id: faults.get(model.id) or state_of(model, None, engines)
            for model in starter.starters(catalog, optional=True)
        },
        "chat": own_chat_models(catalog, faults, engines),
        "recommended": [
            {"capability": str(advice.capability), **as_json(advice.choice)} for advice in advices if advice.choice
        ],
        "upgrades": {name: choice.entry.id for name, choice in upgrades(settings, installed, engines).items()},
        "problems": [*broken_files(settings, catalog, faults), *_disk(settings.data_dir), *_cluster(settings)],
        "remarks": list(catalog.remarks()),
        "data_dir": str(settings.data_dir),
    }


def _cluster(settings: Settings) -> list[str]:
    """The lack that keeps this machine from reaching the cluster in the settings."""
    if settings.workers.cluster is None:
        return []
    from backends.workers.cluster.find import check_ray

    try:
        check_ray()
    except ConfigurationError as error:
        return [error.message]
    return []


def matters(engine: str, machine: Machine, engines: Engines) -> bool:
    """Whether an engine that is missing would be of use on this machine."""
    kinds = {device.kind for device in machine.devices}
    match engine:
        case "mlx":
            return "mps" in kinds
        case "vllm":
            return "cuda" in kinds
        case "llama-cpp-python":  # another engine for the same files
            return engines.missing("llamacpp") is not None
        case _:
            return True


def own_chat_models(catalog: Catalog, faults: Mapping[str, str], engines: Engines) -> list[str]:
    """The chat models on this machine that can be used."""
    return [
        row.id
        for row in catalog.models()
        if row.local
        and Capability.CHAT in row.capabilities
        and row.id not in faults
        and (row.engine is None or engines.missing(row.engine) is None)
    ]


def next_step(facts: Json, report: Json | None, starters: frozenset[str]) -> str:
    """The one thing to do next, as a sentence with a command."""
    command = program()
    if facts["problems"]:
        return f"Mend this first: {facts['problems'][0]}"
    if report is not None and report["state"]["lag_seconds"]:
        return "Free space on the disk of the state, then watch it catch up: the log says state.not_written."
    if any(state.startswith("not pulled") or "pull" in state for state in _needed(facts, starters)):
        return f"Fetch the starter models: {command} pull starter"
    remote = report is not None and any(each["usable"] and each["needs_key"] for each in report["providers"])
    better = next((each for each in facts["recommended"] if each["capability"] == Capability.CHAT), None)
    if better is not None and not remote and set(facts["chat"]) <= starters:
        size = bytes_of(better["size_bytes"])
        return f"Get a model worth talking to, {size}: {command} pull {better['model']}"
    if facts["upgrades"]:
        old, new = next(iter(facts["upgrades"].items()))
        return f"Get {new}, which is better than {old}: {command} pull {new}"
    return f"Talk to it: {command} run" if report is not None else f"Start it and talk to it: {command} run"


def _needed(facts: Json, starters: frozenset[str]) -> list[str]:
    return [state for name, state in facts["starter"].items() if name in starters]


def _disk(folder: Path) -> list[str]:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return []
    return [f"{bytes_of(free) or 'no space'} free on the disk of {folder}: make room"] if free < ROOM else []
