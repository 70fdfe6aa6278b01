"""Types that every layer shares."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
"""A JSON object, decoded: strings to values of JSON's types."""
