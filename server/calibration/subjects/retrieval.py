"""Retrieval on a small set of passages: the score is the reciprocal rank of the right one."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np

from server.calibration.examinee import Examinee

_CANDIDATES = 8
_PASSAGES: tuple[tuple[str, str], ...] = (
    ("Bees dance in a figure of eight to tell their sisters where the flowers are.",
     "How do insects of a hive share the place of food?"),
    ("The bridge was closed because frost had cracked two of its pillars.",
     "Why may cars not cross the river there?"),
    ("Vinegar removes limescale from a kettle within an hour.",
     "How can I clean the white crust out of my water boiler?"),
    ("The treaty of 1648 ended thirty years of war in central Europe.",
     "Which agreement brought peace in the seventeenth century?"),
    ("A savings account with a notice period pays more interest.",
     "Where does my money earn more if I can wait for it?"),
    ("Octopuses have three hearts, and two of them serve the gills.",
     "Which sea animal pumps its blood with more than one organ?"),
    ("The last bus to the airport leaves at a quarter to midnight.",
     "How late can I still get to my flight by public transport?"),
    ("Basalt is formed when lava cools quickly at the surface.",
     "What does molten rock become in the open air?"),
    ("Regular sleep lowers the risk of high blood pressure.",
     "Is going to bed on time good for the heart?"),
    ("To reset the router, hold the small button for ten seconds.",
     "My wireless network hangs. How do I restart the box?"),
    ("The novel tells of a lighthouse keeper who writes letters to no one.",
     "Which book has a lonely hero on the coast?"),
    ("Tomatoes planted near basil are eaten less by whiteflies.",
     "What keeps pests away from my vegetables?"),
    ("The court ruled that the landlord has to pay for the boiler.",
     "Must the tenant bear the cost of the heating repair?"),
    ("Violin strings were once made of the guts of sheep.",
     "What were instruments of the orchestra strung with in the past?"),
)  # fmt: skip


def search(dice: Random) -> tuple[str, list[str], int]:
    """A query, passages, and the position of the one that answers it."""
    rows = dice.sample(_PASSAGES, _CANDIDATES)
    right = dice.randrange(_CANDIDATES)
    return rows[right][1], [passage for passage, _ in rows], right


def reciprocal_rank(scores: Sequence[float], right: int) -> float:
    """1 for the best score, 1/2 for the second, and so on; of equal scores the right one comes last, NaN is 0."""
    values = np.asarray(scores, dtype=np.float64)
    rank = int(np.sum(values >= values[right]))
    return 1.0 / rank if rank else 0.0


async def embeddings(dice: Random, model: Examinee) -> float:
    """Rank passages by the cosine of their vectors."""
    query, passages, right = search(dice)
    vectors = np.array(await model.embed([query, *passages]), dtype=np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return reciprocal_rank(list(vectors[1:] @ vectors[0]), right)


async def reranking(dice: Random, model: Examinee) -> float:
    """Rank passages by the endpoint of reranking."""
    query, passages, right = search(dice)
    return reciprocal_rank(await model.rerank(query, passages), right)
