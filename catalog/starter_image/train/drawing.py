"""Learns to draw: a code of each picture, and the convolutional network that makes a picture of a code.

The codes begin as the principal components of the pictures' patches, and the network as the inverse of that; then
both are trained together, as in Bojanowski et al., "Optimizing the Latent Space of Generative Networks" (2018),
with the absolute error of the pixels at three scales and of their differences.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

SIDE = 96
"""Pixels of a picture's side."""
GRID = 8
PATCH = SIDE // GRID
CHANNELS = 32
"""Numbers of a code at each of the GRID x GRID places."""
CODE_RANGE = 6.0
"""Codes are within it, in standard deviations, so that they fit into bytes."""
_BATCH = 16


def rasterised(drawing: str) -> NDArray[np.uint8]:
    """An SVG document as RGBA [SIDE, SIDE, 4], its colours multiplied by its opacity."""
    import resvg_py
    from PIL import Image

    data = bytes(resvg_py.svg_to_bytes(svg_string=drawing, width=SIDE, height=SIDE))
    picture = Image.open(BytesIO(data)).convert("RGBA")
    if picture.size != (SIDE, SIDE):
        square = Image.new("RGBA", (SIDE, SIDE))
        picture.thumbnail((SIDE, SIDE))
        square.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
        picture = square
    pixels = np.asarray(picture).astype(np.float32)
    pixels[..., :3] *= pixels[..., 3:] / 255
    return pixels.round().astype(np.uint8)


class Residual(nn.Module):  # type: ignore[misc]  # torch has no types here
    """Two convolutions of 3x3 beside a shortcut; the second begins with zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(functional.silu(self.first(functional.silu(x))))


class Painter(nn.Module):  # type: ignore[misc]
    """Codes [n, CHANNELS, GRID, GRID] to pictures [n, 4, SIDE, SIDE], premultiplied, about 0 to 1."""

    def __init__(self, basis: NDArray[np.float32], mean: NDArray[np.float32]) -> None:
        super().__init__()
        self.linear = nn.Conv2d(CHANNELS, 4 * PATCH * PATCH, 1)
        self.linear.weight.data = torch.from_numpy(basis.T.copy())[:, :, None, None]
        self.linear.bias.data = torch.from_numpy(mean)
        self.enter = nn.Conv2d(CHANNELS, 128, 3, padding=1)
        self.coarse = Residual(128)
        self.to_middle = nn.Conv2d(128, 4 * 64, 3, padding=1)
        self.middle = nn.Sequential(Residual(64), Residual(64))
        self.to_fine = nn.Conv2d(64, 4 * 48, 3, padding=1)
        self.fine = Residual(48)
        self.leave = nn.Conv2d(48, 4 * 9, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        x = self.coarse(self.enter(codes))
        x = self.middle(functional.pixel_shuffle(self.to_middle(x), 2))
        x = self.fine(functional.pixel_shuffle(self.to_fine(x), 2))
        detail = functional.pixel_shuffle(self.leave(functional.silu(x)), 3)
        return functional.pixel_shuffle(self.linear(codes), PATCH) + detail


def principal(pictures: NDArray[np.uint8], seed: int) -> tuple[NDArray[np.float32], ...]:
    """The codes [n, CHANNELS, GRID, GRID] of unit variance, the basis [CHANNELS, patch] and the mean [patch].

    A patch is in the order of ``pixel_shuffle``: channel, row, column.
    """
    rng = np.random.default_rng(seed)
    sample = patches(pictures[np.sort(rng.choice(len(pictures), min(len(pictures), 1500), replace=False))])
    mean = sample.mean(0)
    variances, vectors = np.linalg.eigh(np.cov(sample, rowvar=False))
    basis = vectors[:, ::-1][:, :CHANNELS].T * np.sqrt(variances[::-1][:CHANNELS])[:, None]
    inverse = np.linalg.pinv(basis)
    codes = [((patches(pictures[i : i + 256]) - mean) @ inverse) for i in range(0, len(pictures), 256)]
    flat = np.concatenate(codes).reshape(len(pictures), GRID, GRID, CHANNELS)
    kept = np.clip(flat.transpose(0, 3, 1, 2), -CODE_RANGE, CODE_RANGE)
    return kept.astype(np.float32), basis.astype(np.float32), mean.astype(np.float32)


def patches(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pictures [n, SIDE, SIDE, 4] as [n * GRID * GRID, 4 * PATCH * PATCH], from 0 to 1."""
    parts = pictures.reshape(-1, GRID, PATCH, GRID, PATCH, 4).transpose(0, 1, 3, 5, 2, 4)
    return np.divide(parts.reshape(-1, 4 * PATCH * PATCH), 255, dtype=np.float32)


def loss_of(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Absolute errors at three scales, and of the differences of neighbours, which keeps edges sharp."""
    error = (made - wanted).abs().mean()
    for name in (2, 3):
        error = error + 0.5 * (made.diff(dim=name) - wanted.diff(dim=name)).abs().mean()
    for scale in (4, 12):
        error = error + 0.25 * functional.avg_pool2d(made - wanted, scale).abs().mean()
    return error


def fit(
    pictures: NDArray[np.uint8],
    *,
    seconds: float,
    wait: float,
    seed: int,
    report: Callable[[str], None],
) -> tuple[Painter, NDArray[np.float32]]:
    """Train for ``seconds`` of processor time, at most ``wait`` by the clock; return the network and the codes."""
    torch.manual_seed(seed)
    start, basis, mean = principal(pictures, seed)
    painter = Painter(basis, mean).to(memory_format=torch.channels_last)
    codes = nn.Embedding.from_pretrained(
        torch.from_numpy(start.reshape(len(start), -1)), freeze=False, sparse=True
    )
    network = torch.optim.AdamW(painter.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    latents = torch.optim.SparseAdam(codes.parameters(), lr=0.02)
    rng = np.random.default_rng(seed)
    began, opened, order, step, recent = time.process_time(), time.monotonic(), np.zeros(0, int), 0, 0.0
    while True:
        spent = time.process_time() - began
        share = max(spent / seconds, (time.monotonic() - opened) / wait)
        if share >= 1:
            break
        for group in network.param_groups:
            group["lr"] = 1.5e-3 * min(1.0, (step + 1) / 100) * (1 - 0.97 * share)
        for group in latents.param_groups:
            group["lr"] = 0.03 * (1 - 0.97 * share)
        if len(order) < _BATCH:
            order = rng.permutation(len(pictures))
        batch, order = order[:_BATCH], order[_BATCH:]
        wanted = torch.from_numpy(pictures[batch]).permute(0, 3, 1, 2).float() / 255
        code = codes(torch.from_numpy(batch)).view(-1, CHANNELS, GRID, GRID)
        loss = loss_of(painter(code), wanted)
        network.zero_grad()
        latents.zero_grad()
        loss.backward()
        network.step()
        latents.step()
        step += 1
        recent = loss.item() if step == 1 else 0.99 * recent + 0.01 * loss.item()
        if step % 200 == 0:
            report(f"step {step}, {step * _BATCH / len(pictures):.1f} epochs, {spent:.0f} s: loss {recent:.4f}")
    kept = codes.weight.detach().clamp(-CODE_RANGE, CODE_RANGE).view(-1, CHANNELS, GRID, GRID)
    return painter.eval(), kept.numpy()


def draw(painter: Painter, codes: NDArray[np.float32], rows: Sequence[int]) -> NDArray[np.float32]:
    """The pictures of some codes [rows, SIDE, SIDE, 4], premultiplied, from 0 to 1."""
    made = []
    with torch.no_grad():
        for start in range(0, len(rows), 64):
            out = painter(torch.from_numpy(codes[list(rows[start : start + 64])]))
            made.append(out.clamp(0, 1).permute(0, 2, 3, 1).numpy())
    return np.concatenate(made)
