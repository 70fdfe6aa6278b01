"""The console: static pages for browsers, which call the same API with the same keys as every other client.

``static/`` has no build step: modules are served as they lie here. ``static/vendor`` holds preact and htm, with
which a page is a function of its state for 17 kB, and marked, whose tokens become elements without ``innerHTML``.
"""

from __future__ import annotations

from pathlib import Path

STATIC = Path(__file__).parent / "static"
"""The folder of the files that :mod:`server.api.console` serves."""
