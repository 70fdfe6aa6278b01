"""Fits the recogniser to the labelled prompts of ``data/`` and writes its weights.

``python -m routing.reading.train`` needs scikit-learn (the extra ``train``). The prompts were written for this by
language models, by task, complexity and language, and are under the project's licence. The regularisation was
chosen, and the temperatures are fitted, on folds that were held out; figures of those folds are printed.

``data/LANGUAGE.tsv`` has prompts that stand alone: task, complexity, text. ``data/turns/`` has messages that go on
from an earlier one: the task before (``*``: any), the task (``=``: the words do not tell; it stays), complexity,
text. ``data/systems/`` has system prompts: the task that they set, text; ``chat`` for those that set none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import sparse
from sklearn.svm import LinearSVC

from routing.reading.ngrams import BUCKETS, HEAD, TAIL, buckets_of
from routing.reading.recogniser import READ_COMPLEXITIES, READ_TASKS, STRUCTURE, WEIGHTS, structure_of
from routing.reading.shape import shape_of
from routing.reading.tokens import profile

DATA = Path(__file__).with_name("data")
FOLDS = 3
SEED = 13
COPIES, OF_A_COPY = 1, 0.3
"""Copies of each instruction with material of others, and how much one counts beside an example."""
_PASSAGE = 100
"""Bytes from which a line may be material of another instruction."""
_INSTRUCTION = 200
_ABOUT_MATERIAL = {"summarise", "extract", "translate", "write", "classify"}
_OF_A_TURN = 0.3
"""How much a turn counts, as an example of a task, whose task is that of the turn before."""
_GOES_ON = ("alone", "goes on")
_AS_MANY = 10.0
"""How much a turn counts as one that goes on: of the messages after another, about half do."""


class Example(NamedTuple):
    """A labelled prompt. Copies of one prompt have its ``group``, and are never in two folds.

    ``weight`` is what it counts as an example of its task; ``turn``: it goes on from an earlier message.
    """

    task: str
    complexity: str
    text: str
    language: str
    group: int
    weight: float = 1.0
    turn: bool = False


def read(paths: Iterable[Path]) -> list[Example]:
    """The prompts of files of three columns: task, complexity, and text with ``\\n`` for a newline."""
    found: list[Example] = []
    for path in sorted(paths):
        language = path.stem
        for line in path.read_text(encoding="utf-8").splitlines():
            task, complexity, text = line.split("\t")
            text = text.replace("\\n", "\n").replace("\\t", "\t")
            found.append(Example(task, complexity, text, language, len(found)))
    return found


def read_turns(paths: Iterable[Path], first: int) -> list[Example]:
    """The messages that go on from an earlier one; ``first`` is the group of the first."""
    found: list[Example] = []
    for path in sorted(paths):
        for line in path.read_text(encoding="utf-8").splitlines():
            before, task, complexity, text = line.split("\t")
            weight = 0.0 if task == "=" else _OF_A_TURN if before == task else 1.0
            label = before if task == "=" else task
            found.append(Example(label, complexity, text, path.stem, first + len(found), weight, turn=True))
    return found


def read_systems(paths: Iterable[Path], first: int) -> list[Example]:
    """The system prompts, whose complexity says nothing; ``first`` is the group of the first."""
    found: list[Example] = []
    for path in sorted(paths):
        for line in path.read_text(encoding="utf-8").splitlines():
            task, text = line.split("\t")
            found.append(Example(task, "medium", text, path.stem, first + len(found)))
    return found


def lengthened(examples: Sequence[Example], rng: np.random.Generator) -> list[Example]:
    """Copies with the material of other prompts in the middle, so that the ends of a long prompt decide.

    Only of prompts about a material of their own: of two paragraphs or more.
    """
    material: dict[str, list[str]] = {}
    for each in examples:
        material.setdefault(each.language, []).extend(part for part in each.text.split("\n") if len(part) > 60)
    copies = []
    for each in examples:
        head, _, rest = each.text.partition("\n")
        if not rest or each.complexity == "simple" or each.task not in _ABOUT_MATERIAL - {"classify"}:
            continue
        others = material[each.language]
        if len(others) < 10:
            continue
        middle = ""
        while len(middle) < HEAD + TAIL + 200:
            middle += others[int(rng.integers(len(others)))] + "\n"
        copies.append(each._replace(text=f"{head}\n{middle}{rest}"))
    return copies


def pasted(examples: Sequence[Example], rng: np.random.Generator) -> list[Example]:
    """Copies of instructions with material of other prompts, before or after it.

    A story or a piece of news is then no sign of what is to be done with it.
    """
    material: dict[str, list[str]] = {}
    for each in examples:
        for part in each.text.split("\n"):
            if len(part.encode()) > _PASSAGE and sum(map(str.isalpha, part)) > 0.6 * len(part):
                material.setdefault(each.language, []).append(part)
    copies = []
    for each in examples:
        if each.task not in _ABOUT_MATERIAL or len(material.get(each.language, ())) < 10:
            continue
        instruction = _instruction_of(each.text)
        if instruction is None:
            continue
        for _ in range(COPIES):
            others, passage = material[each.language], ""
            wanted = int(rng.integers(160, 900))
            while len(passage.encode()) < wanted:
                passage += others[int(rng.integers(len(others)))] + ("\n" if rng.random() < 0.5 else " ")
            mark = "\n\n" if rng.random() < 0.8 else "\n"
            ends = (instruction, passage.strip())
            copies.append(each._replace(text=mark.join(ends if rng.random() < 0.6 else ends[::-1])))
    return copies


def _instruction_of(text: str) -> str | None:
    """The instruction before its material: the first line, or the words before a colon; ``None`` if neither is."""
    head, line, _ = text.partition("\n")
    if line and len(head) <= _INSTRUCTION:
        return head
    head, colon, rest = text.partition(":" if ":" in text else "\uff1a")
    return head + colon if colon and not line and len(head) <= _INSTRUCTION and len(rest) > len(head) / 2 else None


def matrix(examples: Sequence[Example]) -> sparse.csr_matrix:
    """Features of prompts, shape (examples, BUCKETS + STRUCTURE)."""
    columns, values, ends = [], [], [0]
    for each in examples:
        buckets = buckets_of(each.text)
        seen, counts = np.unique(buckets, return_counts=True)
        known = profile(each.text)
        shape = shape_of(each.text, known, tokens=round(known.tokens), turns=1)
        columns.append(np.concatenate([seen, BUCKETS + np.arange(STRUCTURE)]))
        values.append(np.concatenate([counts / np.sqrt(len(buckets)), structure_of(shape)]))
        ends.append(ends[-1] + len(columns[-1]))
    parts = (np.concatenate(values), np.concatenate(columns), np.array(ends))
    return sparse.csr_matrix(parts, shape=(len(examples), BUCKETS + STRUCTURE))


def rarity(features: sparse.csr_matrix) -> np.ndarray:
    """Inverse document frequency of each feature, 1 for those of the structure, shape (features,)."""
    seen = np.bincount(features.indices, minlength=features.shape[1])
    weight: np.ndarray = 1 + np.log((1 + features.shape[0]) / (1 + seen))
    weight[BUCKETS:] = 1
    return weight


def fit(
    features: sparse.csr_matrix, labels: Sequence[str], names: Sequence[str], c: float, counts: np.ndarray
) -> np.ndarray:
    """Coefficients, and intercepts in the last row, of each label against the rest: (features + 1, names).

    ``counts``: how much each example counts, shape (examples,).
    """
    weight = rarity(features)
    model = LinearSVC(C=c, random_state=SEED).fit(features @ sparse.diags(weight), labels, sample_weight=counts)
    rows, bias = model.coef_, model.intercept_
    if len(names) == 2:  # one row for both, which says the second of the sorted classes
        rows, bias = np.vstack([-rows, rows]), np.array([-bias[0], bias[0]])
    order = [list(model.classes_).index(name) for name in names]
    return np.vstack([rows[order].T * weight[:, None], bias[order]])


def logits(features: sparse.csr_matrix, coefficients: np.ndarray) -> np.ndarray:
    """Scores, shape (examples, classes)."""
    scores: np.ndarray = features @ coefficients[:-1] + coefficients[-1]
    return scores


def temperature(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> float:
    """The divisor of the logits under which held-out labels are the most likely, found on a grid.

    ``counts``: how much each example counts, shape (examples,).
    """

    def loss(divisor: float) -> float:
        z = scores / divisor
        z = z - z.max(axis=1, keepdims=True)
        return float(-np.average(z[np.arange(len(z)), labels] - np.log(np.exp(z).sum(axis=1)), weights=counts))

    return float(min(np.geomspace(0.03, 3, 150), key=loss))


def centre(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> float:
    """The score at which two classes are equally likely, found on a grid, shape of ``scores`` (examples,).

    A class of few examples has lower scores where they are held out than where they were fitted.
    """

    def loss(at: float, divisor: float) -> float:
        z = (scores - at) / divisor * np.where(labels, 1, -1)
        return float(np.average(np.logaddexp(0, -z), weights=counts))

    grid = ((at, divisor) for at in np.linspace(-4, 2, 61) for divisor in np.geomspace(0.05, 3, 20))
    return float(min(grid, key=lambda pair: loss(*pair))[0])


def held_out(
    features: sparse.csr_matrix,
    labels: Sequence[str],
    names: Sequence[str],
    folds: np.ndarray,
    c: float,
    counts: np.ndarray,
) -> np.ndarray:
    """Scores of each example by a fit without its fold, shape (examples, names)."""
    scores = np.zeros((len(labels), len(names)))
    chosen = np.array(labels)
    for fold in range(FOLDS):
        inside = folds != fold
        scores[~inside] = logits(
            features[~inside], fit(features[inside], chosen[inside], names, c, counts[inside])
        )
    return scores


def main() -> None:
    """Fit and write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", type=Path, default=DATA)
    options.add_argument(
        "--c",
        type=float,
        nargs=3,
        default=(0.5, 0.1, 0.5),
        help="inverse regularisation of tasks, of complexities, and of what goes on",
    )
    options.add_argument("--check", action="store_true", help="print the figures of held-out folds, write nothing")
    chosen = options.parse_args()
    rng = np.random.default_rng(SEED)
    prompts = read(chosen.data.glob("*.tsv"))
    examples = prompts + read_turns((chosen.data / "turns").glob("*.tsv"), len(prompts))
    originals = len(examples)
    examples += lengthened(prompts, rng)
    own = len(examples)
    examples += [each._replace(weight=OF_A_COPY) for each in pasted(prompts, rng)]
    systems = read_systems((chosen.data / "systems").glob("*.tsv"), originals)
    examples += systems
    folds = rng.permutation(originals + len(systems))[[each.group for each in examples]] % FOLDS
    weights = np.array([each.weight for each in examples])
    features = matrix(examples)
    languages = np.array([each.language for each in examples])
    levels = [level.value for level in READ_COMPLEXITIES]
    columns, temperatures, equal = [], [], 0.0
    kinds = (
        ([each.task for each in examples], [task.value for task in READ_TASKS], weights),
        # Material of others, and a system prompt, say nothing of how hard a request is.
        ([each.complexity for each in examples], levels, np.ones(own)),
        (
            [_GOES_ON[each.turn] for each in examples],
            list(_GOES_ON),
            np.array([_AS_MANY if each.turn else 1.0 for each in examples[:own]]),
        ),
    )
    for (every, names, counts), c in zip(kinds, chosen.c, strict=True):
        last = len(counts)
        labels, part = every[:last], features[:last]
        numbers = np.array([names.index(label) for label in labels])
        scores = held_out(part, labels, names, folds[:last], c, counts)[:originals]
        if len(names) == 2:
            equal = centre(scores[:, 1] - scores[:, 0], numbers[:originals], counts[:originals])
            scores[:, 0] += equal
        right = scores.argmax(axis=1) == numbers[:originals]
        temperatures.append(temperature(scores, numbers[:originals], counts[:originals]))
        _tell(f"C={c}: {right.mean():.3f} of {originals} held-out prompts, temperature {temperatures[-1]:.2f}")
        for by in (np.array(labels), languages):
            kept = by[:originals]
            _tell("  " + ", ".join(f"{name} {right[kept == name].mean():.2f}" for name in sorted(set(kept))))
        if not chosen.check:
            columns.append(fit(part, labels, names, c, counts))
    if chosen.check:
        return
    # One score is enough where there are two classes: the difference, which the temperature is of as well.
    columns[2] = columns[2][:, 1:] - columns[2][:, :1]
    columns[2][-1] -= equal
    whole = np.hstack(columns)
    hashed = whole[:BUCKETS]
    scales = np.abs(hashed).max(axis=0) / 127
    np.savez_compressed(
        WEIGHTS,
        hashed=np.round(hashed / scales).astype(np.int8),
        scales=scales,
        structure=whole[BUCKETS:-1],
        bias=whole[-1],
        temperatures=np.array(temperatures),
    )
    _tell(f"{WEIGHTS.name}: {WEIGHTS.stat().st_size:,} bytes")


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
