"""Gives a picture the colour that its prompt asks for, where it has another one.

The main hue of the picture is turned to the colour; a picture without one has its greys tinted. Outlines,
highlights and other hues stay.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]

TONES: Mapping[str, tuple[float, float, float]] = {
    "red": (0.0, 0.80, 0.86),
    "orange": (28.0, 0.88, 0.96),
    "yellow": (50.0, 0.80, 0.98),
    "green": (128.0, 0.65, 0.68),
    "blue": (214.0, 0.75, 0.86),
    "purple": (272.0, 0.60, 0.72),
    "pink": (334.0, 0.48, 0.97),
    "brown": (24.0, 0.62, 0.52),
    "black": (0.0, 0.0, 0.18),
    "white": (0.0, 0.0, 0.92),
    "grey": (0.0, 0.0, 0.60),
}
"""Hue in degrees, saturation and value (HSV) of each colour."""
_BINS = 36
_NEAR, _FAR = 34.0, 52.0
"""Degrees from the picture's main hue within which pixels take the colour wholly, and beyond which not at all."""
_HUED = 0.12
"""Share of the picture's pixels that must have a hue, or its greys are tinted."""


def recoloured(picture: Pixels, colour: str) -> Pixels:
    """``picture`` [height, width, 4], premultiplied, from 0 to 1, in one of TONES."""
    alpha = picture[..., 3:]
    straight = np.where(alpha > 1e-3, picture[..., :3] / np.maximum(alpha, 1e-3), 0).clip(0, 1)
    hue, saturation, value = _hsv(straight)
    opaque = alpha[..., 0]
    weight = opaque * saturation * value * (saturation > 0.25) * (value > 0.2)
    wanted_hue, wanted_saturation, wanted_value = TONES[colour]
    if float((weight > 0.05).sum()) < _HUED * max(1.0, float((opaque > 0.5).sum())):
        share = _ramp(value, 0.12, 0.35) * np.where(saturation < 0.45, 1.0, 0.0)
        middle = _middle(value, opaque * share)
        turned = np.full_like(hue, wanted_hue)
    else:
        main = _main_hue(hue, weight)
        away = np.abs((hue - main + 180) % 360 - 180)
        share = (1 - _ramp(away, _NEAR, _FAR)) * _ramp(saturation, 0.08, 0.3) * _ramp(value, 0.08, 0.25)
        middle = _middle(value, weight * share)
        apart = abs((wanted_hue - main + 180) % 360 - 180)
        if wanted_saturation and apart < 16 and abs(middle - wanted_value) < 0.3:
            return picture  # it has the colour
        turned = (wanted_hue + 0.35 * ((hue - main + 180) % 360 - 180)) % 360
    level = (wanted_value * value / max(middle, 0.05)).clip(0, 1)
    depth = saturation / max(_middle(saturation, opaque * share), 0.05) if wanted_saturation else saturation
    made = _rgb(turned, (wanted_saturation * depth.clip(0.55, 1.3)).clip(0, 1), level)
    mixed = straight + (made - straight) * share[..., None]
    return np.concatenate([mixed * alpha, alpha], axis=-1).astype(np.float32)


def _ramp(x: Pixels, low: float, high: float) -> Pixels:
    ramp: Pixels = ((x - low) / (high - low)).clip(0, 1)
    return ramp


def _middle(values: Pixels, weights: Pixels) -> float:
    """The weighted median, which outlines and highlights do not move; 0.5 of nothing."""
    order = np.argsort(values, axis=None)
    summed = np.cumsum(weights.ravel()[order])
    if summed[-1] <= 0:
        return 0.5
    return float(values.ravel()[order][np.searchsorted(summed, summed[-1] / 2)])


def _main_hue(hue: Pixels, weight: Pixels) -> float:
    """The hue in degrees around which most of the weight is."""
    counts, _ = np.histogram(hue, bins=_BINS, range=(0, 360), weights=weight)
    best = int((counts + 0.6 * (np.roll(counts, 1) + np.roll(counts, -1))).argmax())
    centre = (best + 0.5) * 360 / _BINS
    near = (hue - centre + 180) % 360 - 180
    close = weight * (np.abs(near) <= 15)
    return float((centre + (near * close).sum() / max(float(close.sum()), 1e-6)) % 360)


def _hsv(rgb: Pixels) -> tuple[Pixels, Pixels, Pixels]:
    """Hue in degrees, saturation and value. Source: Smith, "Color Gamut Transform Pairs" (1978)."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    value, spread = rgb.max(-1), np.ptp(rgb, axis=-1)
    safe = np.maximum(spread, 1e-6)
    sector = np.where(
        value == red,
        (green - blue) / safe % 6,
        np.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    return 60 * sector, spread / np.maximum(value, 1e-6), value


def _rgb(hue: Pixels, saturation: Pixels, value: Pixels) -> Pixels:
    offsets = np.array([5, 3, 1], np.float32)
    k = (offsets + hue[..., None] / 60) % 6
    made: Pixels = value[..., None] * (1 - saturation[..., None] * np.minimum(k, 4 - k).clip(0, 1))
    return made
