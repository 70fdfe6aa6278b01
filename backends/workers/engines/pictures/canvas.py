"""Pixels before and after a model: pictures to change are decoded, fitted and masked, and results put back.

Only the masked part of a picture changes: a model draws the whole anew, at its own size, and the pixels outside of
the mask are the original's own.
"""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from backends.wire.images import ImageEditRequest, ImageRequest
from backends.wire.pictures import MAX_PIXELS
from catalog.errors import InvalidRequest, PayloadTooLarge, UndecodableMedia

if TYPE_CHECKING:
    from PIL.Image import Image

Format = Literal["png", "jpeg", "webp"]
_KINDS = ("PNG", "JPEG", "WEBP")
_WHITE = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Canvas:
    """A picture to paint, in the ``width`` and ``height`` in which the model works.

    ``sources`` are pictures to change, RGB, the first of them in the canvas's size. ``mask`` is of that size, too,
    and white where the picture is drawn anew. ``original`` and ``kept``, its mask, have the size of the answer.
    """

    width: int
    height: int
    sources: tuple[Image, ...] = ()
    mask: Image | None = None
    original: Image | None = None
    kept: Image | None = None

    def finished(self, painted: Image) -> Image:
        """The answer: what was painted, or with a mask the original with the painted part in it."""
        if self.original is None or self.kept is None:
            return painted
        from PIL import Image

        if painted.size != self.original.size:
            painted = painted.resize(self.original.size, Image.Resampling.LANCZOS)
        return Image.composite(painted.convert(self.original.mode), self.original, self.kept)


def canvas_of(request: ImageRequest, usual: str, multiple: int, max_pixels: int) -> Canvas:
    """The canvas of a request; ``usual`` is the model's size, of whose sides ``multiple`` is a divisor.

    A picture to change is scaled down to the area of the usual size if it is larger, or fitted to the size that
    the request asks for. Raises InvalidRequest for a size that the model cannot paint, UndecodableMedia for a
    picture that cannot be decoded, PayloadTooLarge for one with too many pixels.
    """
    asked = None if request.size in {None, "auto"} else str(request.size)
    if asked is not None or not isinstance(request, ImageEditRequest):
        width, height = _checked(_sides(asked or usual), multiple, max_pixels)
        if not isinstance(request, ImageEditRequest):
            return Canvas(width, height)
    first = opened(request.image[0], "image")
    kept = None if request.mask is None else change_of(opened(request.mask, "mask"))
    if kept is not None and kept.size != first.size:
        raise InvalidRequest("The mask has another size than the picture.", param="mask")
    if asked is not None:
        first, kept = _fitted(first, (width, height)), None if kept is None else _fitted(kept, (width, height))
    else:
        width, height = working_size(first.width, first.height, _area(usual), multiple)
    others = tuple(flat(opened(data, "image")) for data in request.image[1:])
    source, mask = (
        _resized(flat(first), (width, height)),
        None if kept is None else _resized(kept, (width, height)),
    )
    return Canvas(width, height, (source, *others), mask, None if kept is None else first, kept)


def opened(data: bytes, param: str) -> Image:
    """The upright picture, RGB or RGBA. Raises UndecodableMedia and PayloadTooLarge, which name ``param``."""
    from PIL import Image, ImageOps

    try:
        image = Image.open(io.BytesIO(data), formats=_KINDS)
        if image.width * image.height > MAX_PIXELS:
            raise PayloadTooLarge(f"A picture has at most {MAX_PIXELS} pixels.", param=param)
        image.load()
        upright = ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError):
        raise UndecodableMedia("The picture cannot be decoded.", param=param) from None
    see_through = upright.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in upright.info
    return upright.convert("RGBA" if see_through else "RGB")


def flat(image: Image) -> Image:
    """The picture on white, RGB."""
    from PIL import Image

    if image.mode != "RGBA":
        return image.convert("RGB")
    ground = Image.new("RGB", image.size, _WHITE)
    ground.paste(image, mask=image.getchannel("A"))
    return ground


def change_of(mask: Image) -> Image:
    """How much each pixel changes: 255 where the mask is transparent, 0 where it is opaque."""
    from PIL import ImageOps

    return ImageOps.invert(mask.convert("RGBA").getchannel("A"))


def working_size(width: int, height: int, area: int, multiple: int) -> tuple[int, int]:
    """The size, in multiples, nearest to a picture's that has at most about ``area`` pixels."""
    scale = min(1.0, math.sqrt(area / (width * height)))
    across, down = (max(multiple, round(side * scale / multiple) * multiple) for side in (width, height))
    return across, down


def encoded(image: Image, kind: Format, compression: int | None) -> bytes:
    """Encode an image; ``compression`` in [0, 100] is the quality of JPEG and WebP, as in OpenAI's API."""
    quality: dict[str, Any] = {} if compression is None or kind == "png" else {"quality": compression}
    file = io.BytesIO()
    (flat(image) if kind == "jpeg" else image).save(file, format=kind.upper(), **quality)
    return file.getvalue()


def _sides(size: str) -> tuple[int, int]:
    width, height = size.split("x")
    return int(width), int(height)


def _area(size: str) -> int:
    width, height = _sides(size)
    return width * height


def _checked(size: tuple[int, int], multiple: int, max_pixels: int) -> tuple[int, int]:
    width, height = size
    if width % multiple or height % multiple:
        raise InvalidRequest(f"Width and height must be multiples of {multiple}.", param="size")
    if width * height > max_pixels:
        raise InvalidRequest(f"A picture has at most {max_pixels} pixels here.", param="size")
    return size


def _fitted(image: Image, size: tuple[int, int]) -> Image:
    """The picture scaled to cover the size, and its middle cut out."""
    from PIL import Image, ImageOps

    return image if image.size == size else ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def _resized(image: Image, size: tuple[int, int]) -> Image:
    from PIL import Image

    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
