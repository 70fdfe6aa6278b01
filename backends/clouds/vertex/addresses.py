"""The paths of Vertex AI's models.

A model is named as in Google's SDK: ``gemini-3-flash``, ``publisher/model``, a path that begins with
``publishers/``, ``endpoints/`` or ``projects/``; a name that begins with ``claude`` is Anthropic's.
Source: the code of google-genai and of Anthropic's SDK.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from backends.base import Upstream
from catalog.errors import ModelUnavailable

GOOGLE, ANTHROPIC = "google", "anthropic"
_PUBLISHED = re.compile(r"(?:.*/)?publishers/(?P<publisher>[^/]+)/models/(?P<name>[^/]+)")
_VERSION = re.compile(r"/v\d\w*$")


def publisher_of(model: str) -> str:
    """The maker of a model: ``google``, ``anthropic``, ``meta``..."""
    return _split(model)[0]


def name_of(model: str) -> str:
    """A model's name among its publisher's."""
    return _split(model)[1]


def model_path(upstream: Upstream, method: str, version: str = "v1") -> str:
    """The path of a method of the upstream's model, without a project in express mode.

    Raises ModelUnavailable as :func:`project_path` does.
    """
    model = upstream.model
    if model.startswith("projects/"):
        place = f"{_version(upstream, version)}/{quote(model, safe='/@')}"
    elif model.startswith("endpoints/"):
        place = f"{project_path(upstream, version)}/{quote(model, safe='/@')}"
    else:
        publisher, name = _split(model)
        express = upstream.cloud.project is None and publisher == GOOGLE
        root = _version(upstream, version) if express else project_path(upstream, version)
        place = f"{root}/publishers/{quote(publisher, safe='')}/models/{quote(name, safe='@')}"
    return f"{place}:{method}"


def interactions_path(upstream: Upstream) -> str:
    """The path of interactions, which are in the global location. Raises ModelUnavailable without a project."""
    path = project_path(upstream, "v1beta1")
    return f"{path.rpartition('/')[0]}/global/interactions"


def project_path(upstream: Upstream, version: str = "v1") -> str:
    """The path of the account's project in its region. Raises ModelUnavailable without a project."""
    if upstream.cloud.project is None:
        raise ModelUnavailable(
            f"'{upstream.model}' needs a project: set 'project' of the endpoint '{upstream.endpoint}'. "
            "An API key alone gives Google's own models only.",
            param="model",
        )
    project = quote(upstream.cloud.project, safe=":")
    return f"{_version(upstream, version)}/projects/{project}/locations/{upstream.cloud.region or 'global'}"


def _version(upstream: Upstream, version: str) -> str:
    return "" if _VERSION.search(upstream.base_url.rstrip("/")) else f"/{version}"


def _split(model: str) -> tuple[str, str]:
    found = _PUBLISHED.fullmatch(model)
    if found is not None:
        return found["publisher"], found["name"]
    if model.startswith(("projects/", "endpoints/")):
        return GOOGLE, model.rpartition("/")[2]
    publisher, slash, name = model.partition("/")
    if slash:
        return publisher, name
    return (ANTHROPIC if model.startswith("claude") else GOOGLE), model
