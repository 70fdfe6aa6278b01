"""Tells whether llama-server would use its own chat template for a model that has none: ChatML."""

from __future__ import annotations

from pathlib import Path

from backends.workers.spec import WorkerSpec
from catalog.files.gguf import NotGguf, read_header


def lacks_template(spec: WorkerSpec) -> bool:
    """Whether neither the model's file nor its row has a chat template."""
    if spec.engine != "llamacpp" or spec.path is None or spec.options.get("chat_template_file") is not None:
        return False
    try:
        return not read_header(Path(spec.path)).text("tokenizer.chat_template")
    except (NotGguf, OSError):  # the worker's own error is clearer
        return False
