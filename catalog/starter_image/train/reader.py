"""Fits the reader: a text's vector to the subjects that it may mean, and to the colour that it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from catalog.starter_image.train.texts import COLOURS, Text

HIDDEN = 512
_BATCH = 512
SCALE = 20.0
"""Factor of vectors, whose numbers are about 0.05, and of the keys, so that their products are logits."""
_NOISE = 0.03
"""Standard deviation of noise on each number of a vector (of length 1, 384 numbers), against learning by heart."""


class PromptReader(nn.Module):  # type: ignore[misc]  # torch has no types here
    """Vectors [n, 384] to logits of the subjects [n, subjects] and of no colour or one of COLOURS [n, 12]."""

    def __init__(self, keys: NDArray[np.float32]) -> None:
        super().__init__()
        width = keys.shape[1]
        self.widen = nn.Linear(width, HIDDEN)
        self.narrow = nn.Linear(HIDDEN, width)
        self.keys = nn.Parameter(torch.from_numpy(keys * SCALE))
        self.bias = nn.Parameter(torch.zeros(len(keys)))
        self.shade = nn.Linear(width, 128)
        self.colour = nn.Linear(128, len(COLOURS) + 1)
        nn.init.zeros_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)

    def forward(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        large = vectors * SCALE
        moved = vectors + self.narrow(torch.relu(self.widen(large)))
        return moved @ self.keys.T + self.bias, self.colour(torch.relu(self.shade(large)))


@dataclass(frozen=True)
class Reading:
    """Shares of right answers: the subject that a text means most, any subject that it means, its colour."""

    kind: str
    texts: int
    best: float
    meant: float
    colour: float


def fit(
    texts: Sequence[Text], vectors: NDArray[np.float32], subjects: int, *, epochs: int, seed: int
) -> PromptReader:
    """Fit by cross-entropy with the weights of the subjects as probabilities."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    keys = np.zeros((subjects, vectors.shape[1]), np.float32)
    for text, vector in zip(texts, vectors, strict=True):
        whole = sum(text.subjects.values())
        for subject, weight in text.subjects.items():
            keys[subject] += vector * weight / whole
    keys /= np.maximum(np.linalg.norm(keys, axis=1, keepdims=True), 1e-6)
    reader = PromptReader(keys)
    given = torch.from_numpy(vectors)
    colours = torch.tensor([text.colour + 1 for text in texts])
    optimizer = torch.optim.AdamW(reader.parameters(), lr=1e-3, weight_decay=0.01)
    steps = epochs * (len(texts) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps + 1)
    for _ in range(epochs):
        order = rng.permutation(len(texts))
        for start in range(0, len(order) - _BATCH + 1, _BATCH):
            batch = order[start : start + _BATCH]
            noisy = functional.normalize(given[batch] + _NOISE * torch.randn(len(batch), given.shape[1]), dim=1)
            logits, shades = reader(noisy)
            loss = functional.cross_entropy(logits, _targets([texts[i] for i in batch], subjects))
            loss = loss + functional.cross_entropy(shades, colours[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    reader.eval()
    return reader


def measure(reader: PromptReader, texts: Sequence[Text], vectors: NDArray[np.float32]) -> list[Reading]:
    """The shares of right answers of each kind of held-out text."""
    with torch.no_grad():
        logits, shades = reader(torch.from_numpy(vectors))
    found, colours = logits.argmax(1).tolist(), (shades.argmax(1) - 1).tolist()
    readings = []
    for kind in sorted({text.kind for text in texts}):
        chosen = [i for i, text in enumerate(texts) if text.kind == kind]
        best = [texts[i].subjects.get(found[i], 0) >= max(texts[i].subjects.values()) for i in chosen]
        meant = [found[i] in texts[i].subjects for i in chosen]
        shade = [colours[i] == texts[i].colour for i in chosen]
        means = (float(np.mean(shares)) for shares in (best, meant, shade))
        readings.append(Reading(kind, len(chosen), *means))
    return readings


def _targets(texts: Sequence[Text], subjects: int) -> torch.Tensor:
    targets = torch.zeros(len(texts), subjects)
    for row, text in enumerate(texts):
        whole = sum(text.subjects.values())
        for subject, weight in text.subjects.items():
            targets[row, subject] = weight / whole
    return targets
