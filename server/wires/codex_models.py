"""The list of models in the shape that Codex reads, beside OpenAI's.

Codex asks a provider whose ``model_catalog_url`` is set for ``GET /models?client_version=...``, reads ``models``
and takes the context window, the modalities and the reasoning efforts of each; those of other models it guesses.
Source: ``codex-rs/protocol/src/openai_models.rs`` in openai/codex.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typing_extensions import TypedDict

from catalog.model import Capability

EFFORTS = ("low", "medium", "high")
_TOKENS_OF_RESULTS = 10_000
"""Tokens of a tool's result that Codex keeps; a fifth of the context window if that is less."""
_INSTRUCTIONS = """You are a coding agent in a terminal. Work on the user's task in the current folder until it \
is done.

- Look before you act: read the files and run the commands that show how things are. Follow AGENTS.md files.
- Do things with your tools instead of describing them. Run one command at a time and read its result.
- Keep changes small and in the style of the code around them. Do not touch what the task does not need.
- Check your work: run the tests or the program. If something fails, find the cause and mend it.
- Ask for permission only where the sandbox refuses a command. Never destroy work that is not yours.
- When you are done, say in a few sentences what you changed and how you checked it."""
"""Codex refuses a model without instructions, and knows its own for OpenAI's models alone."""


class CodexEffort(TypedDict):
    effort: str
    description: str


class CodexTruncation(TypedDict):
    mode: str
    limit: int


class CodexModel(TypedDict):
    """A model that calls tools, as Codex's ``ModelInfo``; ``slug`` is the model's id."""

    slug: str
    display_name: str
    description: str | None
    base_instructions: str
    default_reasoning_level: str | None
    supported_reasoning_levels: list[CodexEffort]
    shell_type: str
    visibility: str
    supported_in_api: bool
    priority: int
    support_verbosity: bool
    default_verbosity: str | None
    apply_patch_tool_type: str | None
    truncation_policy: CodexTruncation
    context_window: int | None
    input_modalities: list[str]
    supports_parallel_tool_calls: bool
    experimental_supported_tools: list[str]
    upgrade: None
    availability_nux: None


def codex_models(cards: Iterable[Any]) -> list[CodexModel]:
    """The models among these cards that chat and call tools, in their order.

    OpenAI's own are left out: Codex has the instructions that fit them.
    """
    able = (card for card in cards if {"chat", "tools"} <= set(card.get("capabilities") or ()))
    return [_model(card, at) for at, card in enumerate(able) if card["owned_by"] != "openai"]


def _model(card: Any, position: int) -> CodexModel:
    can, window = card["capabilities"], card["context_window"]
    reasons = Capability.REASONING.value in can
    return {
        "slug": card["id"],
        "display_name": card["name"] or card["id"],
        "description": card["family"],
        "base_instructions": _INSTRUCTIONS,
        "default_reasoning_level": "medium" if reasons else None,
        "supported_reasoning_levels": [{"effort": effort, "description": effort} for effort in EFFORTS if reasons],
        "shell_type": "shell_command",
        "visibility": "list",
        "supported_in_api": True,
        "priority": position,
        "support_verbosity": False,
        "default_verbosity": None,
        "apply_patch_tool_type": None,
        "truncation_policy": {
            "mode": "tokens",
            "limit": _TOKENS_OF_RESULTS if window is None else min(_TOKENS_OF_RESULTS, window // 5),
        },
        "context_window": window,
        "input_modalities": ["text", *(["image"] if Capability.VISION.value in can else [])],
        "supports_parallel_tool_calls": Capability.PARALLEL_TOOLS.value in can,
        "experimental_supported_tools": [],
        "upgrade": None,
        "availability_nux": None,
    }
