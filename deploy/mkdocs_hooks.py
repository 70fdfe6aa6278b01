"""Hooks of MkDocs: the built pages load nothing from another host."""

from __future__ import annotations

import re
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.utils import get_relative_url

_SHIM = "https://unpkg.com/iframe-worker/shim"
"""The script of the plugin ``offline``, by which a page that is a file searches. Ours is in ``docs/assets``."""
_OWN = "assets/iframe-worker.js"
_LOADS = re.compile(
    r"<(?:script|img|iframe|link rel=\"(?:stylesheet|preload)\")[^>]*(?:src|href)=\"?(https?://[^\"\s>]+)"
)


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Take our own copy. Raises PluginError for anything else from another host."""
    return _own(output, get_relative_url(_OWN, page.url), page.url)


def on_post_template(output_content: str, *, template_name: str, **_: Any) -> str:
    """The same for pages that are no Markdown, such as the one for 404."""
    return _own(output_content, _OWN, template_name)


def _own(html: str, shim: str, name: str) -> str:
    html = html.replace(_SHIM, shim)
    if found := _LOADS.findall(html):
        raise PluginError(f"{name} loads {', '.join(found)} from another host")
    return html
