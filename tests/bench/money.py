"""Better answers for less money: two small local models, a strong remote one that costs, and ``auto``.

A server with nothing learned gets three hundred mixed questions through ``/v1/completions`` (one of the two local
models is a base model). The remote is a fake that knows nineteen answers of twenty and has a price; the local ones
are real. After each answer the client says at ``POST /v1/outcomes`` whether it was right, as an application does
that can tell. Beside: always the same model, a model by lot, and the cheapest right one, from each model's answer
to each question, asked before on a server of its own. ``money-plot.png`` has dollars and right answers of all.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
from aiohttp import web

from tests.bench import fake_servers, fetching
from tests.bench.bench import Bench
from tests.bench.gateway import gateway
from tests.bench.learning import MODELS
from tests.bench.mixed import mixed
from tests.bench.questions import Question
from tests.bench.report import Figure, Report, at_least

REMOTE = "strong"
ALL = (*MODELS, REMOTE)
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "auto:cheap": ("auto:cheap", {}),
    "auto:cheap, able = 0.75": ("auto:cheap", {"able": 0.75}),
    "auto": ("auto", {}),
}
"""The model that is asked for and settings of ``[routing]``, by a name."""
PRICE = {"input": 3.0, "output": 15.0}
"""Dollars for a million tokens of the remote model, a usual price of a provider's middle class."""
KNOWN = 0.95
"""The share of questions whose answer the remote model knows."""
DELAY = 0.2
"""Seconds until the remote model's answer."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One answered question: by which model, whether rightly, and for how many dollars."""

    model: str
    right: bool
    dollars: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """A way of answering all questions: its share of right answers, and dollars for a thousand questions."""

    right: float
    dollars: float

    @classmethod
    def of(cls, answers: list[Answered]) -> Outcome:
        """The mean of some answers."""
        count = len(answers)
        return cls(sum(a.right for a in answers) / count, 1000 * sum(a.dollars for a in answers) / count)


class Strong:
    """A fake completion server that knows most of the answers, by the question's hash."""

    def __init__(self, questions: list[Question]) -> None:
        self._right = {question.prompt: question.right for question in questions}

    async def answer(self, request: web.Request) -> web.Response:
        """One whole answer with its usage."""
        body = orjson.loads(await request.read())
        await asyncio.sleep(DELAY)
        lot = hashlib.sha256(body["prompt"].encode()).digest()[0] / 256
        text = self._right[body["prompt"]] if lot < KNOWN else "I do not know"
        tokens = {"prompt_tokens": max(1, len(body["prompt"]) // 4), "completion_tokens": max(1, len(text) // 4)}
        answer = {
            "id": "cmpl-strong",
            "object": "text_completion",
            "created": 1,
            "model": body["model"],
            "choices": [{"index": 0, "text": f" {text}", "finish_reason": "stop", "logprobs": None}],
            "usage": {**tokens, "total_tokens": sum(tokens.values())},
        }
        return web.Response(body=orjson.dumps(answer), content_type="application/json")


@contextmanager
def fresh_server(questions: list[Question], **routing: Any) -> Iterator[httpx.Client]:
    """A server with the two local models loaded, the remote one reachable, and nothing learned yet."""
    with (
        tempfile.TemporaryDirectory(prefix="roundhouse-bench-") as folder,
        fake_servers.serving([{"/v1/completions": Strong(questions).answer}]) as addresses,
        gateway(Path(folder), **_settings(addresses[0]), routing=routing) as running,
        httpx.Client(base_url=f"{running.url}/v1", trust_env=False, timeout=120) as client,
    ):
        for model in MODELS:
            client.post(f"/models/{model}/load", json={"keep_alive": 3600}).raise_for_status()
        yield client


def _settings(address: str) -> dict[str, Any]:
    row = {
        "id": REMOTE,
        "capabilities": ["completion"],
        "source": {"kind": "upstream", "endpoint": "paid", "model": REMOTE},
        "limits": {"context_window": 128_000},
        "price": PRICE,
    }
    return {"endpoint": [{"id": "paid", "base_url": f"{address}/v1"}], "model": [row]}


def ask(client: httpx.Client, model: str, question: Question) -> tuple[Answered, str]:
    """One short, greedy answer, and its trace."""
    body = {"model": model, "prompt": question.prompt, "max_tokens": 12, "temperature": 0, "stop": "\n"}
    response = client.post("/completions", json=body).raise_for_status()
    answer, headers = response.json(), response.headers
    answered_by, usage = headers["x-roundhouse-model"], answer["usage"]
    cost = usage["prompt_tokens"] * PRICE["input"] + usage["completion_tokens"] * PRICE["output"]
    dollars = cost / 1e6 if answered_by == REMOTE else 0.0
    right = question.judge(answer["choices"][0]["text"])
    return Answered(answered_by, right, dollars), headers["x-roundhouse-trace"]


def under(client: httpx.Client, model: str, questions: list[Question]) -> list[Answered]:
    """Ask all under a way of ``auto``, and report each outcome; the server's books must show the same dollars."""
    answers = []
    for question in questions:
        answer, trace = ask(client, model, question)
        client.post("/outcomes", json={"trace": trace, "accepted": answer.right}).raise_for_status()
        answers.append(answer)
    booked = sum(float(group["cost"]) for group in client.get("/usage").raise_for_status().json()["data"])
    assert abs(booked - sum(answer.dollars for answer in answers)) < 1e-6, booked
    return answers


def run(bench: Bench) -> Report:
    """Ask each model everything, then each way of ``auto``; plot where matplotlib is there."""
    fetching.pull(bench, *MODELS)
    questions = mixed()[: bench.pick(300, 60)]
    bench.say(f"asking {', '.join(ALL)} {len(questions)} questions")
    with fresh_server(questions) as client:
        alone = {model: [ask(client, model, question)[0] for question in questions] for model in ALL}
    learned = {}
    for way, (model, routing) in WAYS.items():
        bench.say(f"asking under {way}, reporting outcomes")
        with fresh_server(questions, **routing) as client:
            learned[way] = under(client, model, questions)
    ways = _beside(alone)
    ours = {way: Outcome.of(answers) for way, answers in learned.items()}
    if fetching.can_draw():
        plot({**ways, **ours}, bench.out / "money-plot.png")
    return Report("money", f"{len(questions)} mixed questions", tuple(_figures(ways, ours)), note=_went(learned))


def _beside(alone: dict[str, list[Answered]]) -> dict[str, Outcome]:
    every = [answer for answers in alone.values() for answer in answers]
    cheapest = [
        min(answers, key=lambda answer: (not answer.right, answer.dollars))
        for answers in zip(*alone.values(), strict=True)
    ]
    always = {f"always {model}": Outcome.of(answers) for model, answers in alone.items()}
    return {**always, "by lot": Outcome.of(every), "the cheapest right one": Outcome.of(cheapest)}


def _figures(ways: dict[str, Outcome], ours: dict[str, Outcome]) -> Iterator[Figure]:
    every = {**ways, **ours}
    remote = ways[f"always {REMOTE}"]
    rights = {name: way.right for name, way in every.items()}
    dollars = {name: way.dollars for name, way in every.items()}
    yield Figure("right answers, the best of all", max(rights.values()), "", None, rights)
    yield Figure("dollars for 1,000 questions, the most of all", max(dollars.values()), "", None, dollars)
    for name, way in ours.items():
        yield Figure(f"{name}: right answers, of the remote's", way.right / remote.right)
        yield Figure(f"{name}: dollars, of the remote's", way.dollars / remote.dollars)
    for name, way in ours.items():
        lot = _by_lot(ways, way.dollars)
        beside = {name: way.right, "by lot": lot}
        title = f"{name}: right answers above a lot's that costs as much"
        yield Figure(title, way.right - lot, "", at_least(0), beside)


def _by_lot(ways: dict[str, Outcome], dollars: float) -> float:
    """The share of right answers of a lot between the remote and the best local model that costs as much."""
    local = max(ways[f"always {model}"].right for model in MODELS)
    remote = ways[f"always {REMOTE}"]
    return local + (remote.right - local) * min(1.0, dollars / remote.dollars)


def _went(learned: dict[str, list[Answered]]) -> str:
    lines = []
    for way, answers in learned.items():
        shares = {model: sum(a.model == model for a in answers) / len(answers) for model in ALL}
        lines.append(f"{way}: " + ", ".join(f"{model} {share:.0%}" for model, share in shares.items()))
    return "; ".join(lines)


def plot(ways: dict[str, Outcome], path: Path) -> None:
    """A point for each way: dollars for a thousand questions and the share of right answers."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5))
    most = ways[f"always {REMOTE}"].dollars
    line = [most * at / 50 for at in range(51)]
    axes.plot(line, [_by_lot(ways, dollars) for dollars in line], ":", color="grey", label="a lot between the two")
    names: dict[tuple[float, float], list[str]] = {}
    for name, way in ways.items():
        ours = name in WAYS
        axes.plot(way.dollars, way.right, "o" if ours else "s", color="C1" if ours else "C0")
        names.setdefault((round(way.dollars, 6), round(way.right, 4)), []).append(name)
    for point, here in names.items():
        axes.annotate(", ".join(here), point, textcoords="offset points", xytext=(7, -4), fontsize=9)
    axes.set(
        xlabel="dollars for 1,000 questions", ylabel="right answers", xlim=(-0.03 * most, 1.25 * most), ylim=(0, 1)
    )
    axes.set_title("Better answers for less money: two small local models and a strong remote one")
    axes.legend(loc="lower right", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
