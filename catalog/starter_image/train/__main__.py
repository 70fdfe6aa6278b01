"""Trains the starter that draws: ``python -m catalog.starter_image.train WORK`` writes it beside this package.

WORK is a folder for the packages, the pictures and the vectors, which a second run does not make again. It needs
torch, resvg-py, Pillow, onnx, onnxruntime and tokenizers, and the starter all-MiniLM-L6-v2 (``--encoder``).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from catalog.starter_image.train import drawing, export, reader, texts
from catalog.starter_image.train.encoding import TextEncoder
from catalog.starter_image.train.sources import STYLES, Emoji, read_emojis

OUT = Path(__file__).parents[1]
SEED = 7
_COMPARED = 64
"""Generated pictures per comparison with all of the training's."""


def main() -> None:
    """Read, rasterise, encode, fit, measure, write."""
    asked = _arguments()
    torch.set_num_threads(asked.threads)
    work: Path = asked.work
    work.mkdir(parents=True, exist_ok=True)
    emojis = read_emojis(work)
    pictures, owners = _pictures(emojis, work / "pictures.npz")
    _say(f"{len(emojis)} subjects, {len(pictures)} pictures")

    if "reader" in asked.parts:
        _read(emojis, asked)
    if "painter" in asked.parts:
        _draw(emojis, pictures, owners, asked)


def _read(emojis: list[Emoji], asked: argparse.Namespace) -> None:
    learned, held = texts.make_texts(emojis, SEED)
    vectors = _vectors([text.prompt for text in (*learned, *held)], asked.work / "vectors.npz", asked)
    seen, unseen = vectors[: len(learned)], vectors[len(learned) :]
    _say(f"{len(learned)} texts to learn, {len(held)} held out")
    fitted = reader.fit(learned, seen, len(emojis), epochs=asked.epochs, seed=SEED)
    for reading in reader.measure(fitted, held, unseen):
        _say(str(reading))
    export.export_reader(fitted, OUT / "reader.onnx")


def _draw(
    emojis: list[Emoji], pictures: NDArray[np.uint8], owners: list[tuple[int, str]], asked: argparse.Namespace
) -> None:
    painter, codes = drawing.fit(
        pictures, seconds=60 * asked.minutes, wait=60 * asked.wait, seed=SEED, report=_say
    )
    export.export_painter(painter, codes, OUT / "painter.onnx")
    _describe(emojis, owners, OUT / "subjects.json")
    rounded = export.quantised(codes) * np.float32(drawing.CODE_RANGE / 127)
    _say(f"nearest picture of the training is the same subject's: {_recognised(painter, rounded, pictures):.3f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m catalog.starter_image.train", description=__doc__)
    parser.add_argument("work", type=Path, help="folder for what is fetched and computed")
    parser.add_argument("--encoder", type=Path, required=True, help="folder of the starter all-minilm-l6-v2")
    parser.add_argument("--parts", nargs="+", default=["reader", "painter"], choices=["reader", "painter"])
    parser.add_argument("--minutes", type=float, default=20, help="processor time for learning to draw")
    parser.add_argument("--wait", type=float, default=1e4, help="minutes by the clock, at most, for the same")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the texts for learning to read")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _pictures(emojis: list[Emoji], path: Path) -> tuple[NDArray[np.uint8], list[tuple[int, str]]]:
    """All pictures [n, side, side, 4], and the subject and style of each."""
    owners = [(subject, style) for subject, emoji in enumerate(emojis) for style in emoji.drawings]
    if path.exists():
        stored: NDArray[np.uint8] = np.load(path)["pictures"]
        if len(stored) == len(owners):
            return stored, owners
    made = np.stack([drawing.rasterised(emojis[subject].drawings[style]) for subject, style in owners])
    np.savez_compressed(path, pictures=made)
    return made, owners


def _vectors(prompts: list[str], path: Path, asked: argparse.Namespace) -> NDArray[np.float32]:
    """The vector of each prompt; those of an earlier run are taken from ``path``."""
    known: dict[str, NDArray[np.float32]] = {}
    if path.exists():
        stored = np.load(path)
        known = dict(zip(stored["prompts"].tolist(), stored["vectors"], strict=True))
    missing = sorted({prompt for prompt in prompts if prompt not in known})
    if missing:
        _say(f"encoding {len(missing)} texts")
        made = TextEncoder(asked.encoder, threads=asked.threads).encode(missing)
        known.update(zip(missing, made, strict=True))
        np.savez(path, prompts=np.array(list(known)), vectors=np.stack(list(known.values())))
    return np.stack([known[prompt] for prompt in prompts])


def _describe(emojis: list[Emoji], owners: list[tuple[int, str]], path: Path) -> None:
    """Write the names of the subjects, with the rows of their codes by style."""
    rows: list[dict[str, int]] = [{} for _ in emojis]
    for row, (subject, style) in enumerate(owners):
        rows[subject][style] = row
    subjects = [
        {"name": emoji.name, "mirrored": emoji.mirrored, "rows": [found.get(style, -1) for style in STYLES]}
        for emoji, found in zip(emojis, rows, strict=True)
    ]
    told = {"side": drawing.SIDE, "styles": list(STYLES), "colours": list(texts.COLOURS), "subjects": subjects}
    lines = json.dumps(told, ensure_ascii=False).replace('{"name"', '\n{"name"')
    path.write_text(f"{lines}\n", encoding="utf-8")


def _recognised(painter: drawing.Painter, codes: NDArray[np.float32], pictures: NDArray[np.uint8]) -> float:
    """The share of drawn pictures whose nearest one of the training, at 24x24 pixels, is the one to be drawn."""
    small = torch.nn.functional.avg_pool2d(
        torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255, drawing.SIDE // 24
    ).flatten(1)
    right = 0
    for start in range(0, len(pictures), _COMPARED):
        rows = range(start, min(start + _COMPARED, len(pictures)))
        made = torch.from_numpy(drawing.draw(painter, codes, list(rows))).permute(0, 3, 1, 2)
        nearest = torch.cdist(torch.nn.functional.avg_pool2d(made, drawing.SIDE // 24).flatten(1), small).argmin(1)
        right += int((nearest == torch.tensor(list(rows))).sum())
    return right / len(pictures)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
