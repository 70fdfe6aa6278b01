"""Learning from outcomes on real models: two small ones, checkable questions of four tasks, and the router.

A server with nothing learned is asked questions under ``auto`` through ``/v1/completions`` (one of the two is a
base model), and each answer is reported as right or wrong at ``POST /v1/outcomes``. The figures, and the plot
``learning.png``, are of the share of requests that went to the better model of their task. The better model is
measured before, on a server of its own, by asking both models every question. The router starts from the
catalogue's benchmarks and sizes, which favour the right model at some tasks and the wrong one at others.
"""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.bench import fetching
from tests.bench.bench import Bench
from tests.bench.questions import Question, questions
from tests.bench.report import Figure, Report
from tests.e2e.serving import served

MODELS = ("smollm2-135m-instruct", "gemma-3-270m")
BLOCK = 40


@dataclass(frozen=True, slots=True)
class Asked:
    """One request under ``auto``: its task, the model that answered, and whether the answer was right."""

    task: str
    model: str
    right: bool


Truth = dict[str, dict[str, float]]
"""The share of right answers by task and model."""


@contextmanager
def fresh_server() -> Iterator[httpx.Client]:
    """A server with this machine's models, and nothing learned yet; both models are loaded and stay."""
    with (
        tempfile.TemporaryDirectory(prefix="roundhouse-bench-") as folder,
        served(Path(folder), environment=fetching.own_data(Path(folder))) as server,
        httpx.Client(base_url=server.v1, trust_env=False, timeout=120) as client,
    ):
        for model in MODELS:
            loaded = client.post(f"/models/{model}/load", json={"keep_alive": 3600})
            if loaded.is_error:
                raise SystemExit(loaded.json()["error"]["message"])
        yield client


def ask(client: httpx.Client, model: str, question: Question) -> httpx.Response:
    """One short, greedy answer."""
    body = {
        "model": model,
        "prompt": question.prompt,
        "max_tokens": 5,
        "temperature": 0,
        "stop": "\n",
        "routing": {"task": question.task.value},
    }
    return client.post("/completions", json=body).raise_for_status()


def measure(client: httpx.Client) -> Truth:
    """Ask both models every question."""
    right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: {model: [] for model in MODELS})
    for question in questions():
        for model in MODELS:
            text = ask(client, model, question).json()["choices"][0]["text"]
            right[question.task.value][model].append(question.judge(text))
    return {task: {m: sum(said) / len(said) for m, said in by.items()} for task, by in right.items()}


def learn(client: httpx.Client, requests: Iterable[int], seed: int) -> list[Asked]:
    """Ask under ``auto``, report each outcome, and note the model that answered."""
    draw = random.Random(seed)
    all_questions = questions()
    asked = []
    for _ in requests:
        question = draw.choice(all_questions)
        response = ask(client, "auto", question)
        right = question.judge(response.json()["choices"][0]["text"])
        report = {"trace": response.headers["x-roundhouse-trace"], "accepted": right}
        client.post("/outcomes", json=report).raise_for_status()
        asked.append(Asked(question.task.value, response.headers["x-roundhouse-model"], right))
    return asked


def better(truth: Truth) -> dict[str, str]:
    """The better model of each task at which the two differ."""
    best = {}
    for task, shares in truth.items():
        first, second = sorted(MODELS, key=lambda model: -shares[model])
        if shares[first] - shares[second] > 0.1:
            best[task] = first
    return best


def shares(asked: list[Asked], best: dict[str, str], block: int = BLOCK) -> list[float]:
    """The share that went to the better model, block by block of those requests for which there is one."""
    hits = [each.model == best[each.task] for each in asked if each.task in best]
    return [sum(hits[at : at + block]) / len(hits[at : at + block]) for at in range(0, len(hits), block)]


def run(bench: Bench) -> Report:
    """Measure both models, then let the router learn; print the tasks, and plot where matplotlib is there."""
    fetching.pull(bench, *MODELS)
    bench.say(f"measuring {', '.join(MODELS)} on {len(questions())} questions")
    with fresh_server() as client:
        truth = measure(client)
    with fresh_server() as client:
        asked = learn(client, bench.rounds(bench.pick(320, 80), "asking under auto, reporting outcomes"), seed=1)
    best = better(truth)
    print_table(truth, best, asked)
    if fetching.can_draw():
        plot(truth, best, asked, bench.out / "learning.png")
    return Report("learning", "Which of two small models is good at what", _figures(truth, best, asked))


def _figures(truth: Truth, best: dict[str, str], asked: list[Asked]) -> tuple[Figure, ...]:
    hits = [each.model == best[each.task] for each in asked if each.task in best]
    third, half = max(1, len(hits) // 3), len(asked) // 2
    went = {"first third": sum(hits[:third]) / third, "last third": sum(hits[-third:]) / third}
    alone = {model: sum(truth[each.task][model] for each in asked) / len(asked) for model in MODELS}
    right = {"first half": _right(asked[:half]), **{f"{model} alone": share for model, share in alone.items()}}
    return (
        Figure("share to the task's better model, last third", went["last third"], "", None, went),
        Figure("right answers, second half", _right(asked[half:]), "", None, right),
    )


def print_table(truth: Truth, best: dict[str, str], asked: list[Asked]) -> None:
    """Print each model's right answers by task, and the share to the better one at first and at last."""
    print(f"{'task':<12}{MODELS[0]:>24}{MODELS[1]:>16}{'to the better: first':>24}{'last third':>12}")
    for task, by in truth.items():
        went = [each.model == best[task] for each in asked if each.task == task] if task in best else []
        third = max(1, len(went) // 3)
        ends = (
            (f"{sum(went[:third]) / third:.2f}", f"{sum(went[-third:]) / third:.2f}") if went else ("-", "alike")
        )
        print(f"{task:<12}{by[MODELS[0]]:>24.2f}{by[MODELS[1]]:>16.2f}{ends[0]:>24}{ends[1]:>12}")
    print("share to the better model, by 40 requests:", " ".join(f"{share:.2f}" for share in shares(asked, best)))
    for model in MODELS:
        alone = sum(truth[each.task][model] for each in asked) / len(asked)
        print(f"right answers if {model} answered all: {alone:.2f}")
    half = len(asked) // 2
    print(
        f"right answers under auto: {_right(asked[:half]):.2f} in the first half, {_right(asked[half:]):.2f} after"
    )


def _right(asked: list[Asked]) -> float:
    return sum(each.right for each in asked) / len(asked)


def plot(truth: Truth, best: dict[str, str], asked: list[Asked], path: Path) -> None:
    """A line per task and one for all of them: the share of the last 20 requests that the better model got."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5))
    for task, model in best.items():
        at = [number for number, each in enumerate(asked) if each.task == task]
        went = [asked[number].model == model for number in at]
        label = f"{task}: {model} ({truth[task][model]:.0%} right, the other {min(truth[task].values()):.0%})"
        axes.plot(at, _moving(went), alpha=0.6, label=label)
    at = [number for number, each in enumerate(asked) if each.task in best]
    axes.plot(
        at, _moving([asked[n].model == best[asked[n].task] for n in at], 40), "k", lw=2, label="all of these"
    )
    axes.axhline(0.5, color="grey", ls=":", lw=1)
    axes.set(xlabel="requests", ylabel="share to the better model", ylim=(-0.02, 1.02))
    axes.set_title("The router finds out which small model is good at what")
    axes.legend(loc="lower right", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def _moving(went: list[bool], window: int = 20) -> list[float]:
    return [sum(went[max(0, n - window + 1) : n + 1]) / min(window, n + 1) for n in range(len(went))]
