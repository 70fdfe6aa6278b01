"""Accuracy of the recogniser on prompts that nothing was trained on, beside keywords and MiniLM's vectors."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from routing.reading.kind import kind_of
from routing.reading.recogniser import READ_TASKS
from routing.reading.shape import shape_of
from routing.reading.tokens import profile
from tests.bench import fetching
from tests.bench.bench import Bench
from tests.bench.report import Figure, Report, at_least, at_most
from tests.e2e.serving import served
from tests.routing.reading.labelled import Labelled, Read, conversations, prompts, read_all, share

MODEL = "all-minilm-l6-v2"
KEYWORDS = {
    "translate": ("translat", "übersetz", "tradu", "перевед", "翻译", "翻訳", "ترجم", "번역", "अनुवाद", "çevir"),
    "summarise": (
        "summar",
        "tl;dr",
        "zusammenfass",
        "résum",
        "resum",
        "riassu",
        "кратко",
        "总结",
        "要約",
        "لخص",
        "요약",
    ),
    "code": ("code", "function", "python", "javascript", "sql", "regex", "bash", "```", "java"),
    "maths": (
        "calculate",
        "equation",
        "how much",
        "%",
        "berechne",
        "calcul",
        "вычисл",
        "计算",
        "計算",
        "احسب",
        "계산",
    ),
    "classify": (
        "classify",
        "sentiment",
        "category",
        "klassifi",
        "classifi",
        "spam",
        "分类",
        "分類",
        "صنف",
        "분류",
    ),
    "extract": (
        "extract",
        "list all",
        "json",
        "extrahier",
        "extrai",
        "estra",
        "извлек",
        "提取",
        "抽出",
        "استخرج",
        "추출",
    ),
    "write": ("write", "schreib", "écri", "escrib", "escrev", "scriv", "напиши", "写", "書い", "اكتب", "써"),
    "reasoning": ("why", "logic", "riddle", "puzzle", "plan", "decide"),
}
"""A list as routers have them, in the order of its checks."""
_FITS = 240
"""Bytes of a prompt that MiniLM's window of 256 tokens holds in any script."""
DESCRIPTIONS = {
    "chat": "a question or small talk", "code": "programming", "reasoning": "a logic puzzle or decision",
    "maths": "mathematics", "summarise": "summarise a text", "extract": "extract data from a text",
    "classify": "classify a text", "translate": "translate a text", "write": "write a text, mail or story",
}  # fmt: skip


def by_keywords(text: str) -> str:
    """The task of the first keyword that occurs."""
    lower = text.lower()
    return next((task for task, words in KEYWORDS.items() if any(word in lower for word in words)), "chat")


def _beginning(text: str) -> str:
    return text.encode()[:_FITS].decode(errors="ignore")


def by_vectors(labelled: list[Labelled]) -> list[str]:
    """The task whose description is nearest, by MiniLM's vectors (``/v1/classify``)."""
    names = {text: task for task, text in DESCRIPTIONS.items()}
    found: list[str] = []
    with (
        TemporaryDirectory() as folder,
        served(Path(folder)) as server,
        httpx.Client(base_url=server.url, timeout=120) as client,
    ):
        for start in range(0, len(labelled), 32):
            texts = [_beginning(each.messages[0]["content"]) for each in labelled[start : start + 32]]
            body = {"model": MODEL, "input": texts, "labels": list(names)}
            answer = client.post("/v1/classify", json=body).raise_for_status().json()
            found += [names[row["prediction"]] for row in answer["data"]]
    return found


def calibration(read: list[Read]) -> float:
    """Expected calibration error of the tasks' confidences, in ten bins (Guo et al., 2017)."""
    bins: dict[int, list[Read]] = {}
    for each in read:
        bins.setdefault(min(9, int(each.facts.confidence.task * 10)), []).append(each)
    return sum(
        abs(sum(each.facts.confidence.task for each in held) - sum(each.task_is_right for each in held))
        for held in bins.values()
    ) / len(read)


def microseconds(repeats: int) -> float:
    """Median time of recognising a prompt of 2 kB."""
    text = ("Please summarise the following report in three points for the board. " * 30)[:2000]
    known = profile(text)
    shape = shape_of(text, known, tokens=round(known.tokens), turns=1)
    times = []
    for _ in range(repeats):
        began = time.perf_counter_ns()
        kind_of(text, shape, images=False, output_tokens=None)
        times.append((time.perf_counter_ns() - began) / 1000)
    return statistics.median(times)


def run(bench: Bench) -> Report:
    """Measure."""
    labelled = list(prompts())
    bench.say(f"{len(labelled)} prompts")
    read = read_all(labelled)
    right = share(each.task_is_right for each in read)
    keywords = share(by_keywords(each.messages[0]["content"]) == each.task for each in labelled)
    beside = {"recogniser": right, "keywords": keywords}
    fetching.pull(bench, MODEL)
    bench.say("MiniLM's vectors")
    beside["MiniLM, zero-shot"] = share(
        task == each.task for task, each in zip(by_vectors(labelled), labelled, strict=True)
    )
    languages = {
        language: share(each.task_is_right for each in read if each.labelled.language == language)
        for language in sorted({each.language for each in labelled})
    }
    tasks = {
        task.value: share(each.task_is_right for each in read if each.labelled.task == task.value)
        for task in READ_TASKS
    }
    mistakes = Counter(
        f"{each.labelled.task} read as {each.facts.task.value}" for each in read if not each.task_is_right
    )
    levels = {
        level: share(each.complexity_is_right for each in read if each.labelled.complexity == level)
        for level in ("simple", "medium", "complex")
    }
    chats = read_all(conversations())
    figures = (
        Figure("right tasks", right, bound=at_least(0.85), beside=beside),
        Figure("right tasks, worst language", min(languages.values()), bound=at_least(0.75), beside=languages),
        Figure("right tasks, worst task", min(tasks.values()), beside=tasks),
        Figure("right tasks in conversations", share(each.task_is_right for each in chats)),
        Figure(
            "right complexities",
            share(each.complexity_is_right for each in read),
            bound=at_least(0.75),
            beside=levels,
        ),
        Figure("calibration error of tasks", calibration(read), bound=at_most(0.15)),
        Figure("a prompt of 2 kB", microseconds(bench.pick(3000, 1000)), "us", at_most(150)),
    )
    note = "most frequent mistakes: " + "; ".join(f"{name} ({n})" for name, n in mistakes.most_common(8))
    return Report("recogniser", "Task and complexity of prompts that nothing was trained on", figures, note)
