"""Groups the vectors of voices into speakers, and windows of speech into turns.

Average linkage of cosine similarity: two groups are joined while their vectors are alike enough on average. The
mean similarity of two groups of unit vectors is the product of their means, so a group is kept as its mean, and
hours of audio are joined piece by piece without the vectors before.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from backends.workers.engines.speakers.voices import Vectors

MOST_SPEAKERS = 32
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups of vectors: their means ``(groups, dimensions)``, not of length 1, and sizes ``(groups,)``."""

    means: Vectors
    sizes: NDArray[np.float64]


def grouped(groups: Groups, *, alike: float, count: int | None = None, least: int = 1) -> tuple[Groups, Ints]:
    """Join groups while the two nearest are at least ``alike``, or until there are ``count`` of them.

    Without a ``count`` no fewer than ``least`` remain. Returns the groups and, for each of the given ones, the
    number of its group. There are at most ``MOST_SPEAKERS``.
    """
    means, sizes = groups.means.astype(np.float64), groups.sizes.copy()
    labels = np.arange(len(means))
    live = list(range(len(means)))
    near = means @ means.T
    np.fill_diagonal(near, -np.inf)
    most = MOST_SPEAKERS if count is None else count
    while len(live) > 1:
        best = int(np.argmax(near))
        one, other = divmod(best, len(means))
        enough = len(live) <= (least if count is None else count)
        if enough or (near[one, other] < alike and len(live) <= most):
            break
        whole = sizes[one] + sizes[other]
        means[one] = (means[one] * sizes[one] + means[other] * sizes[other]) / whole
        sizes[one] = whole
        labels[labels == other] = one
        live.remove(other)
        near[other, :] = near[:, other] = -np.inf
        row = np.full(len(means), -np.inf)
        row[live] = means[live] @ means[one]
        row[one] = -np.inf
        near[one, :] = near[:, one] = row
    number = {label: place for place, label in enumerate(live)}
    found = np.array([number[int(label)] for label in labels], dtype=np.int64)
    return Groups(means[live].astype(np.float32), sizes[live]), found


@dataclass(slots=True)
class SpeechWindow:
    """A window of speech in seconds of the whole, in a stretch of speech without a pause."""

    start: float
    end: float
    stretch: int
    group: int = -1


@dataclass(slots=True)
class SpeakerTurn:
    """One speaker's turn, in seconds."""

    start: float
    end: float
    speaker: int


@dataclass(slots=True)
class Speakers:
    """The speakers of a recording that is heard piece by piece.

    ``alike`` is the mean cosine similarity from which two groups are one speaker. A speaker of a single window is
    likely a mixture of two, and joins the nearest of the others.
    """

    alike: float
    count: int | None = None
    _windows: list[SpeechWindow] = field(default_factory=list)
    _means: list[Vectors] = field(default_factory=list)
    _sizes: list[float] = field(default_factory=list)

    def add(self, windows: list[SpeechWindow], vectors: Vectors) -> None:
        """Add the windows of a piece and their vectors."""
        if not windows:
            return
        alone = Groups(vectors, np.ones(len(vectors)))
        groups, labels = grouped(alone, alike=self.alike, least=self.count or 1)
        before = len(self._means)
        for window, label in zip(windows, labels.tolist(), strict=True):
            window.group = before + label
        self._windows += windows
        self._means += list(groups.means)
        self._sizes += groups.sizes.tolist()

    def turns(self) -> tuple[list[SpeakerTurn], Vectors]:
        """The turns in their order, and the mean vector of each speaker, shape ``(speakers, dimensions)``.

        Speakers are numbered in the order in which they first speak.
        """
        if not self._windows:
            return [], np.zeros((0, 0), np.float32)
        pieces = Groups(np.stack(self._means), np.array(self._sizes))
        groups, labels = grouped(pieces, alike=self.alike, count=self.count)
        owner = _without_strays(groups, keep=self.count is not None)
        speaking = [int(owner[labels[window.group]]) for window in self._windows]
        first = {speaker: place for place, speaker in enumerate(dict.fromkeys(speaking))}
        turns = _turns(self._windows, [first[speaker] for speaker in speaking])
        sums = np.zeros((len(first), groups.means.shape[1]))
        for group, speaker in enumerate(owner.tolist()):
            sums[first[speaker]] += groups.means[group] * groups.sizes[group]
        return turns, np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True), np.float32)


def _without_strays(groups: Groups, *, keep: bool) -> Ints:
    """For each group the one that it belongs to."""
    owner = np.arange(len(groups.sizes))
    large = np.flatnonzero(groups.sizes > 1)
    if keep or not len(large):
        return owner
    for stray in np.flatnonzero(groups.sizes <= 1):
        owner[stray] = large[int(np.argmax(groups.means[large] @ groups.means[stray]))]
    return owner


def _turns(windows: list[SpeechWindow], speakers: list[int]) -> list[SpeakerTurn]:
    """Join windows to turns. Between two speakers the turn changes half-way between the windows' middles."""
    turns: list[SpeakerTurn] = []
    before: SpeechWindow | None = None
    for window, speaker in zip(windows, speakers, strict=True):
        start = window.start
        if before is not None and before.stretch == window.stretch:
            if turns[-1].speaker == speaker:
                turns[-1].end = window.end
                before = window
                continue
            start = (before.start + before.end + window.start + window.end) / 4
            turns[-1].end = start
        turns.append(SpeakerTurn(start, window.end, speaker))
        before = window
    return turns
