"""Proof of learning: ``python -m tests.bench.simulation --seeds 200 --out tests/bench/out``.

Prints a table of regret per world and saves a plot. Seeds below 100000 were used to tune the router's defaults and
the baselines; the bounds are checked on the seeds from there on, which were not. Exit status 1 when a bound does
not hold. ``--bounds-only`` plays the steady and the changing world alone, with the strategies of their bounds.

After the change, the share of best choices is *back* when it equals that of the same router told, at the moment of
the change, which model fell and how far. The share before the change took a thousand requests to learn, and even
that router does not reach it again within 300: the second best models were rarely tried before.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from catalog.index import Bools, Floats
from tests.bench import fetching
from tests.bench.bench import Bench
from tests.bench.report import Figure, Report, at_least, at_most
from tests.bench.strategies import BASELINES, STRATEGIES, Player
from tests.bench.worlds import (
    LATENCY,
    SimWorld,
    belated_world,
    crowded_world,
    hard_world,
    misjudged_world,
    mislabelled_world,
    plain_world,
    repriced_world,
)

FIRST_UNUSED_SEED = 100_000
BOUNDS = {"steady": (0.25, 0.07), "change": (0.28, 0.11)}
"""Regret of the router, at most, as fractions of (one Beta per model, random), over many seeds."""
OF = ("one Beta per model", "random")
FURTHER_BOUNDS = {
    "wrong labels": 1.1,
    "wrong priors": 0.95,
    "fifty models": 0.95,
    "late outcomes": 1.0,
    "new prices": 1.0,
}
"""Regret of the router, at most, as a fraction of the best of BASELINES; LinUCB is as good with wrong labels."""
BACK_WITHIN = 300
"""Requests after the change within which the share of best choices must be back."""
BACK = 0.95
"""... to this part of the share of the router that is told of the change; a window is noisy."""
BLOCK = 20
"""Seeds over which the bounds take the mean; of more seeds, each such block is reported too."""
BOUNDED = ("random", "one Beta per model", "Roundhouse", "Roundhouse, told")
WINDOW = 100


@dataclass(frozen=True)
class Run:
    """One strategy in one world. ``regret`` and ``best`` have shape (requests,)."""

    regret: Floats
    best: Bools


@dataclass(frozen=True)
class Curve:
    """The mean over seeds. ``totals`` has shape (seeds,); the others (requests,)."""

    totals: Floats
    regret: Floats
    best: Floats


def play(world: SimWorld, player: Player) -> Run:
    """Send every request of a world through a strategy, and pass on each outcome when it becomes known."""
    regret = np.empty(world.requests)
    best = np.empty(world.requests, dtype=bool)
    later: dict[int, list[tuple[int, int, bool]]] = {}
    never = np.zeros(world.models, dtype=bool)
    used = np.full(world.models, -(world.idle_limit + 1))
    for step in range(world.requests):
        # A model unused for a while must be loaded first, which adds to its latency.
        cold = step - used > world.idle_limit if world.cold_latency else never
        utility = world.utility_at(step) - LATENCY * world.cold_latency * cold
        model = player.choose(step, cold)
        used[model] = step
        regret[step] = utility.max() - utility[model]
        best[step] = utility[model] == utility.max()
        good = bool(world.coin[step] < world.quality_at(step)[model])
        if world.delay[step] >= 0:
            later.setdefault(step + int(world.delay[step]), []).append((step, model, good))
        for known in later.pop(step, ()):
            player.learn(*known)
    return Run(regret, best)


def _run(make: Callable[[int], SimWorld], strategy: str, seed: int) -> Run:
    world = make(seed)
    return play(world, STRATEGIES[strategy](world, np.random.default_rng(seed + 1)))


@contextmanager
def players(processes: int) -> Iterator[Executor | None]:
    """Processes that play side by side, and yield to others; None for a single one."""
    if processes < 2:
        yield None
        return
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=os.nice, initargs=(10,)
    ) as pool:
        yield pool


def compare(
    make: Callable[[int], SimWorld],
    seeds: Iterable[int],
    strategies: Iterable[str] = tuple(STRATEGIES),
    *,
    pool: Executor | None = None,
) -> dict[str, Curve]:
    """Play every strategy in the world of every seed; each has its own generator, seeded alike."""
    seeds = list(seeds)
    curves: dict[str, Curve] = {}
    for name in strategies:
        one = partial(_run, make, name)
        runs = list(map(one, seeds) if pool is None else pool.map(one, seeds))
        regret = np.array([run.regret for run in runs])
        curves[name] = Curve(
            regret.sum(axis=1), regret.mean(axis=0), np.array([r.best for r in runs]).mean(axis=0)
        )
    return curves


def of_best_baseline(curves: dict[str, Curve]) -> tuple[float, str]:
    """The router's regret as a fraction of the least of BASELINES, and the name of that one."""
    totals = {name: float(curves[name].totals.mean()) for name in BASELINES if name in curves}
    best = min(totals, key=lambda name: totals[name])
    return float(curves["Roundhouse"].totals.mean()) / totals[best], best


def fractions(curves: dict[str, Curve], seeds: slice = slice(None)) -> tuple[float, float]:
    """The router's regret as fractions of (one Beta per model, random)."""
    ours, one, anything = (
        float(curves[name].totals[seeds].mean()) for name in ("Roundhouse", "one Beta per model", "random")
    )
    return ours / one, ours / anything


def share_back(curve: Curve, change: int) -> float:
    """Share of best choices in the window that ends BACK_WITHIN requests after the change."""
    return float(curve.best[change + BACK_WITHIN - WINDOW : change + BACK_WITHIN].mean())


def run(bench: Bench) -> Report:
    """Play the worlds and print their tables; the figures are those that have bounds, and the harder world's."""
    console = Console(width=150)
    seeds = range(FIRST_UNUSED_SEED, FIRST_UNUSED_SEED + bench.pick(200, 2))
    harder = range(FIRST_UNUSED_SEED, FIRST_UNUSED_SEED + bench.pick(20, 1))
    results: dict[str, dict[str, Curve]] = {}
    with players(bench.pick(os.cpu_count() or 1, 1)) as pool:
        for world, (make, played) in _worlds(tuple(STRATEGIES)).items():
            of_it = harder if world == "harder" else seeds
            results[world] = {}
            for name in played:
                bench.say(f"{world} world, {len(of_it)} seeds: {name}")
                results[world] |= compare(make, of_it, [name], pool=pool)
            console.print(_table(world, results[world]))
    if fetching.can_draw():
        bench.out.mkdir(parents=True, exist_ok=True)
        _plot(results, bench.out / "simulation.png")
    figures = tuple(figure for world, curves in results.items() for figure in _figures(world, curves))
    return Report("simulation", "Regret of routing", figures)


def main(arguments: list[str] | None = None) -> int:
    """Run the worlds, print the table, save plot and figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds per world")
    parser.add_argument("--first", type=int, default=FIRST_UNUSED_SEED, help="the first seed")
    parser.add_argument("--out", type=Path, default=None, help="a folder for simulation.png and simulation.json")
    parser.add_argument("--bounds-only", action="store_true", help="only the worlds and strategies of the bounds")
    parser.add_argument("--worlds", nargs="+", default=[], help="only these, such as 'steady' or 'new prices'")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that play side by side")
    asked = parser.parse_args(arguments)
    seeds = range(asked.first, asked.first + asked.seeds)
    console = Console()

    began = time.perf_counter()
    worlds = _worlds(BOUNDED if asked.bounds_only else tuple(STRATEGIES))
    wanted = asked.worlds or (BOUNDS if asked.bounds_only else worlds)
    if unknown := set(wanted) - set(worlds):
        parser.error(f"no world is called {', '.join(sorted(unknown))}; there are {', '.join(worlds)}")
    results: dict[str, dict[str, Curve]] = {}
    failed = False
    with players(asked.processes) as pool:
        for world in wanted:
            make, played = worlds[world]
            results[world] = curves = compare(make, seeds, played, pool=pool)
            console.print(_table(world, curves))
            failed |= _judge(console, world, curves)
    console.print(f"{asked.seeds} seeds from {asked.first}, {time.perf_counter() - began:.0f} s")
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "simulation.json").write_text(json.dumps(_document(results), indent=2) + "\n")
        _plot(results, asked.out / "simulation.png")
        console.print(f"saved {asked.out / 'simulation.png'}")
    return int(failed)


def _worlds(strategies: tuple[str, ...]) -> dict[str, tuple[Callable[[int], SimWorld], tuple[str, ...]]]:
    """Each world's maker and strategies; only in the world that changes is there a change to tell of."""
    untold = tuple(name for name in strategies if name != "Roundhouse, told")
    return {
        "steady": (partial(plain_world, change=False), untold),
        "change": (partial(plain_world, change=True), strategies),
        "wrong labels": (mislabelled_world, untold),
        "wrong priors": (misjudged_world, untold),
        "fifty models": (crowded_world, untold),
        "late outcomes": (belated_world, untold),
        "new prices": (repriced_world, untold),
        "harder": (hard_world, untold),
    }


def _table(world: str, curves: dict[str, Curve]) -> Table:
    table = Table(title=f"Regret, {world} world")
    for column in ("strategy", "regret", "standard error", "of one Beta", "of random", "best choices, last 500"):
        table.add_column(column, justify="left" if column == "strategy" else "right")
    one, anything = curves["one Beta per model"].totals.mean(), curves["random"].totals.mean()
    for name, curve in curves.items():
        mean = curve.totals.mean()
        table.add_row(
            name,
            f"{mean:.1f}",
            f"{curve.totals.std() / len(curve.totals) ** 0.5:.1f}",
            f"{mean / one:.3f}",
            f"{mean / anything:.3f}",
            f"{curve.best[-500:].mean():.0%}",
        )
    return table


def _judge(console: Console, world: str, curves: dict[str, Curve]) -> bool:
    """Say whether the bounds hold; True when one does not."""
    if world in FURTHER_BOUNDS and BASELINES[0] in curves:
        part, name = of_best_baseline(curves)
        good = part <= FURTHER_BOUNDS[world]
        told = "holds" if good else "DOES NOT HOLD"
        console.print(f"{world}: {part:.3f} of {name}, at most {FURTHER_BOUNDS[world]}: {told}")
        return not good
    if world not in BOUNDS:
        return False
    reached, bound = fractions(curves), BOUNDS[world]
    good = reached[0] <= bound[0] and reached[1] <= bound[1]
    console.print(
        f"{world}: ({reached[0]:.3f}, {reached[1]:.3f}), at most {bound}: {'holds' if good else 'DOES NOT HOLD'}"
    )
    blocks = [fractions(curves, slice(at, at + BLOCK)) for at in range(0, _seeds(curves) - BLOCK + 1, BLOCK)]
    if len(blocks) > 1:
        held = sum(block[0] <= bound[0] and block[1] <= bound[1] for block in blocks)
        highest = tuple(round(max(part), 3) for part in zip(*blocks, strict=True))
        console.print(f"{world}: {held} of {len(blocks)} blocks of {BLOCK} seeds hold, the highest {highest}")
    if world == "change":
        good &= _judge_return(console, curves)
    return not good


def _judge_return(console: Console, curves: dict[str, Curve]) -> bool:
    """Say whether the share of best choices is back in time after the change."""
    ours, told = curves["Roundhouse"], curves["Roundhouse, told"]
    change = len(ours.best) // 2
    after, ceiling, fresh = share_back(ours, change), share_back(told, change), share_back(ours, 0)
    before = float(ours.best[change - BACK_WITHIN : change].mean())
    back = after >= BACK * ceiling
    end = float(ours.best[-500:].mean())
    console.print(
        f"best choices, {BACK_WITHIN - WINDOW} to {BACK_WITHIN} requests after the change: {after:.1%}; told of "
        f"the change: {ceiling:.1%}, of which at least {BACK:.0%}: {'back' if back else 'NOT BACK'} "
        f"(from a fresh start: {fresh:.1%}; before the change: {before:.1%}; at the end: {end:.1%})"
    )
    return back


def _figures(world: str, curves: dict[str, Curve]) -> Iterator[Figure]:
    beside = {name: float(curve.totals.mean()) for name, curve in curves.items()}
    if world not in FURTHER_BOUNDS:
        for of, part, limit in zip(OF, fractions(curves), BOUNDS.get(world, (None, None)), strict=True):
            shown = {name: beside[name] for name in ("Roundhouse", of)}
            yield Figure(f"{world}: regret, of {of}", part, "", None if limit is None else at_most(limit), shown)
    if BASELINES[0] in curves:
        part, name = of_best_baseline(curves)
        shown = {each: beside[each] for each in ("Roundhouse", *BASELINES)}
        most = FURTHER_BOUNDS.get(world)
        bound = None if most is None else at_most(most)
        yield Figure(f"{world}: regret, of {name}, the best baseline", part, "", bound, shown)
    if world == "change":
        change = len(curves["Roundhouse"].best) // 2
        shares = {name: share_back(curves[name], change) for name in ("Roundhouse", "Roundhouse, told")}
        part = shares["Roundhouse"] / shares["Roundhouse, told"]
        enough = _seeds(curves) >= BLOCK  # the share is a mean over windows of 100, which scatter widely
        back = at_least(BACK) if enough else None
        yield Figure(f"{world}: best choices {BACK_WITHIN} requests later", part, "of told", back, shares)


def _seeds(curves: dict[str, Curve]) -> int:
    return len(curves["Roundhouse"].totals)


def _document(results: dict[str, dict[str, Curve]]) -> dict[str, dict[str, dict[str, float]]]:
    return {
        world: {
            name: {"regret": float(curve.totals.mean()), "best_last_500": float(curve.best[-500:].mean())}
            for name, curve in curves.items()
        }
        for world, curves in results.items()
    }


def _plot(results: dict[str, dict[str, Curve]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(results), figsize=(4.6 * len(results), 8), squeeze=False)
    for column, (world, curves) in enumerate(results.items()):
        upper, lower = axes[0][column], axes[1][column]
        for name, curve in curves.items():
            thick = 2.6 if name == "Roundhouse" else 1.3
            if name != "random":
                upper.plot(np.cumsum(curve.regret), label=name, linewidth=thick)
            kernel = np.ones(WINDOW) / WINDOW
            lower.plot(
                np.arange(WINDOW - 1, len(curve.best)),
                np.convolve(curve.best, kernel, mode="valid"),
                label=name,
                linewidth=thick,
                color="lightgrey" if name == "random" else None,
            )
        upper.set_title(f"{world} world")
        upper.set_ylabel("cumulative regret")
        lower.set_ylabel(f"share of best choices, last {WINDOW}")
        lower.set_xlabel("request")
        lower.set_ylim(0, 1)
        upper.legend(fontsize=8)
        upper.grid(alpha=0.3)
        lower.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
