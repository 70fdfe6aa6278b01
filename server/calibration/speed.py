"""The speed of a chat model at three sizes of prompt. Routing learns it from the same answers, as from others."""

from __future__ import annotations

from random import Random

from catalog.types import Json
from server.calibration.examinee import Examinee

SIZES = (64, 400, 1600)
"""Words of the prompts: one size in each of the three lower classes of :mod:`routing.beliefs.speed`."""
TOKENS = 32
_WORDS = ("stone", "river", "cloud", "lantern", "market", "winter", "paper", "violin", "garden", "signal")


async def speeds(seed: int, model: Examinee) -> list[Json]:
    """Seconds to the first token and tokens per second after it, at each size that fits the model's window."""
    measured: list[Json] = []
    window = model.row.limits.context_window
    for words in SIZES:
        if window is not None and 2 * words + TOKENS > window:
            break
        dice = Random(f"{seed}/speed/{words}")  # noqa: S311 - questions, not secrets
        told = " ".join(dice.choice(_WORDS) for _ in range(words))
        asked = await model.timed(f"Continue this list of words for as long as you can: {told}", tokens=TOKENS)
        usage = asked.value.get("usage") or {}
        decoded, seconds = usage.get("completion_tokens", 0) - 1, asked.total - asked.first
        measured.append(
            {
                "prompt_tokens": usage.get("prompt_tokens", 0),
                "first_token_seconds": round(asked.first, 4),
                "tokens_per_second": round(decoded / seconds, 1) if decoded > 0 and seconds > 0 else None,
            }
        )
    return measured
