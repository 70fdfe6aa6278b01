"""Rows and settings that could not do what they say are refused, with the field and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from catalog.errors import ConfigurationError
from catalog.toml_rows import user_endpoints, user_models
from server.settings import Settings, load_settings

MODEL = {"id": "m", "capabilities": ["chat"], "engine": "llamacpp", "source": {"kind": "path", "path": "/m.gguf"}}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"source": {"kind": "path", "path": ""}}, "source.path.path: it is empty"),
        ({"source": {"kind": "path", "path": " "}}, "source.path.path: it is empty"),
        ({"source": {"kind": "upstream", "endpoint": "e", "model": ""}}, "source.upstream.model: a name"),
        ({"aliases": [""]}, "aliases.0: a name must not be empty"),
        ({"aliases": ["a", " b"]}, "aliases.1: a name must not be empty, and not begin or end with a space"),
        ({"capabilities": []}, "capabilities: it needs at least one of chat"),
        ({"capabilities": ["tools"]}, "capabilities: it needs at least one of chat"),
        (
            {"limits": {"context_window": 9, "max_output_tokens": 10}},
            "limits.max_output_tokens: it must be at",
        ),
        ({"limits": {"context_window": 10**30}}, "limits.context_window: it must be at most"),
        ({"options": {"deep": {"context": 10**30}}}, "options: 'deep.context' in it must be at most"),
    ],
)
def test_a_model_that_cannot_be_is_refused_by_its_field(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        user_models([{**MODEL, **fields}], {})
    assert f"[[model]] 'm': {says}" in refused.value.message


@pytest.mark.parametrize("url", [" http://h/v1", "http://h/v1\n", "http://h /v1", "http://h/a b"])
def test_an_address_has_no_space(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"base_url: it must not contain spaces"):
        user_endpoints([{"id": "e", "base_url": url}], {})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"headers": {"Authorization": "Bearer sk-12345678"}}, "key_env"),
        ({"headers": {"x-api-key": "a1b2c3d4"}}, "key_env"),
        ({"headers": {"x-team": "sk-live-12345678"}}, "key_env"),
        ({"query": {"key": "a1b2c3d4"}}, "key_env"),
        ({"headers": {"host": "other"}}, "made for each call"),
        ({"headers": {"a b": "c"}}, "no header of one line"),
        ({"headers": {"x": "a\r\nb: c"}}, "no header of one line"),
    ],
)
def test_a_row_holds_no_key_and_no_broken_header(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as refused:
        user_endpoints([{"id": "e", "base_url": "http://h/v1", **fields}], {})
    assert "12345678" not in refused.value.message
    assert "a1b2c3d4" not in refused.value.message


def test_other_headers_and_parameters_stay() -> None:
    fields = {"headers": {"x-title": "House of Keys", "x-org": "acme"}, "query": {"api-version": "2026-01-01"}}
    (row,) = user_endpoints([{"id": "e", "base_url": "http://h/v1", **fields}], {})
    assert {"headers": row.headers, "query": row.query} == fields


@pytest.mark.parametrize(
    "origin",
    [
        "app.example",
        "https://app.example/",
        "https://*.example",
        "HTTPS://app.example",
        "https://a.example:443",
        "",
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError, match="no browser sends"):
        Settings.model_validate({"server": {"cors": {"origins": [origin]}}})


def test_origins_of_pages_and_of_applications_are_taken() -> None:
    origins = ("http://localhost:3000", "https://app.example", "app://obsidian.md", "null", "https://[::1]:8443")
    assert Settings.model_validate({"server": {"cors": {"origins": origins}}}).server.cors.origins == origins


@pytest.mark.parametrize("url", ["collector:4318", "http://", "http://:4318", "http://h:99999", "http:// h"])
def test_the_collector_of_telemetry_has_a_url(url: str) -> None:
    with pytest.raises(ValidationError, match="it must"):
        Settings.model_validate({"telemetry": {"endpoint": url}})


def test_a_number_in_a_row_of_the_settings_file_is_refused_by_its_row(tmp_path: Path) -> None:
    file = tmp_path / "roundhouse.toml"
    file.write_text('[[model]]\nid = "m"\nlimits = {context_window = 99999999999999999999}\n')
    with pytest.raises(ConfigurationError, match=r"\[\[model\]\] 'm': limits.context_window"):
        user_models([{**MODEL, **load_settings(file).model[0]}], {})
