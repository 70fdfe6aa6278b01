"""Public benchmarks, and the one rule that makes their figures comparable.

A figure becomes a quality in [0, 1] by two reference points of its benchmark. What a small open model reaches
(about 8B weights, or 0 where such a model solves nothing) is 0.5, as an unmeasured model of that size is believed
to be (:mod:`routing.beliefs.priors`). The best figure published when this table was made is 0.9: it is not
certainty that a user accepts the answer. The line through both points gives the rest; below the small model it
runs to 0 at what guessing gives. Percentages themselves do not compare: 57 is the best of one index, and 57 % on
questions with four answers is poor.

Reference points are moved together with the rows, when a new best figure is taken in.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

OVERALL = "overall"
"""Key of a model's general quality among its scores by task."""
_SMALL, _BEST = 0.5, 0.9
_LEAST, _MOST = 0.05, 0.95


class Benchmark(NamedTuple):
    """A benchmark: the tasks it is evidence of, and the raw figures of a guess, a small model and the best."""

    tasks: tuple[str, ...]
    chance: float
    small: float
    best: float

    def quality(self, figure: float) -> float:
        """The quality in [0.05, 0.95] of a figure; figures may fall with quality, as error rates do."""
        if (figure - self.small) * (self.best - self.small) < 0:
            quality = _SMALL * (figure - self.chance) / (self.small - self.chance)
        else:
            quality = _SMALL + (_BEST - _SMALL) * (figure - self.small) / (self.best - self.small)
        return min(max(quality, _LEAST), _MOST)


BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        # Artificial Analysis Intelligence Index v4.3; small: Ministral 3 8B, best: Claude Opus 5.5.
        "aa_index_4_3": Benchmark((OVERALL,), 0, 5.5, 57.6),
        # Arena (formerly LMArena), ratings by human votes. 1000 is the reference level of the scale.
        "arena_text": Benchmark(("chat", "write"), 0, 1000, 1525),
        "arena_image": Benchmark(("image",), 0, 1000, 1512),
        # SWE-bench Pro and Verified: resolved issues in percent. Models of 8B resolve next to none.
        "swe_bench_pro": Benchmark(("code",), -100, 0, 80.3),
        "swe_bench_verified": Benchmark(("code",), -100, 0, 95.0),
        # Artificial Analysis Coding Agent Index v1.5: DeepSWE, Terminal-Bench 4.0, SWE-Atlas-QnA.
        "aa_coding_agents_1_5": Benchmark(("code",), -100, 0, 68.4),
        # GPQA Diamond: four answers, so that 25 % is guessing; models of 8B are hardly above.
        "gpqa_diamond": Benchmark(("reasoning",), 0, 25, 94.3),
        "gsm8k": Benchmark(("reasoning", "maths"), 0, 84.5, 99.0),  # small: Llama 3.1 8B, its card
        "ifeval": Benchmark(("chat",), 0, 80.4, 95.0),  # small: Llama 3.1 8B, its card
        # AutomationBench-AA: office work through tools, in percent.
        "automation_bench_aa": Benchmark(("tool_use",), -100, 0, 77.5),
        # MMMU-Pro; small: Gemma 3 27B, Google's card of Gemma 4.
        "mmmu_pro": Benchmark(("vision",), 10, 49.7, 83.6),
        # MTEB, English, v1 (small: all-MiniLM-L6-v2; best of the means over 56 tasks: NV-Embed-v2).
        "mteb_english": Benchmark(("embed",), 0, 56.3, 72.3),
        "mteb_reranking": Benchmark(("rerank",), 0, 58.0, 60.7),
        "mteb_classification": Benchmark(("classify",), 0, 63.1, 90.4),
        # Artificial Analysis word error rate v2.0, in percent: one word in ten wrong is the small model's.
        "aa_wer_2": Benchmark(("transcribe",), 100, 10, 2.3),
    }
)
"""By the name that a row's ``published`` uses."""


def check_published(published: dict[str, float]) -> dict[str, float]:
    """Raises ValueError for the name of no known benchmark."""
    for name in published:
        if name not in BENCHMARKS:
            raise ValueError(f"'{name[:50]}' is no benchmark known here; known: {', '.join(sorted(BENCHMARKS))}")
    return published


def qualities(published: Mapping[str, float]) -> dict[str, float]:
    """Qualities in [0, 1] by task or ``overall``; several benchmarks of one task are averaged."""
    found: dict[str, list[float]] = {}
    for name, figure in published.items():
        benchmark = BENCHMARKS[name]
        for task in benchmark.tasks:
            found.setdefault(task, []).append(benchmark.quality(figure))
    return {task: sum(each) / len(each) for task, each in found.items()}
