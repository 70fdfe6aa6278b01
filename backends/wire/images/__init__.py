"""Requests for pictures: their types, and the multipart form of an edit."""

from backends.wire.images.request import (
    MOST_PICTURES,
    VARY,
    ImageEditBody,
    ImageEditRequest,
    ImageReference,
    ImageRequest,
)

__all__ = ["MOST_PICTURES", "VARY", "ImageEditBody", "ImageEditRequest", "ImageReference", "ImageRequest"]
