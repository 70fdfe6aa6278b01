"""Endpoints of clouds: what their rows need, their addresses by region, and the files of their credentials."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from backends.registry import check_protocols
from catalog.catalog import Catalog
from catalog.clouds import CloudAccount
from catalog.errors import ConfigurationError
from catalog.model import Endpoint
from catalog.store.credential_files import MAX_CREDENTIALS


def loaded(**fields: Any) -> Endpoint:
    return Catalog.load(user_endpoints=[{"id": "mine", **fields}], builtin=False).endpoint("mine")


@pytest.mark.parametrize(
    ("protocol", "region", "address"),
    [
        ("bedrock", "eu-central-1", "https://bedrock-runtime.eu-central-1.amazonaws.com"),
        ("bedrock", "cn-north-1", "https://bedrock-runtime.cn-north-1.amazonaws.com.cn"),
        ("vertex", None, "https://aiplatform.googleapis.com"),
        ("vertex", "global", "https://aiplatform.googleapis.com"),
        ("vertex", "eu", "https://aiplatform.eu.rep.googleapis.com"),
        ("vertex", "europe-west4", "https://europe-west4-aiplatform.googleapis.com"),
    ],
)
def test_a_region_has_an_address_of_its_own(protocol: str, region: str | None, address: str) -> None:
    project = {"project": "p"} if protocol == "vertex" else {}
    row = loaded(protocol=protocol, **({} if region is None else {"region": region}), **project)
    assert row.base_url == address
    assert row.cloud == CloudAccount(region=region or "global", **project)


def test_an_address_of_the_users_wins_and_a_row_merged_over_another_has_its_own_regions() -> None:
    given = loaded(protocol="bedrock", region="us-east-1", base_url="https://vpce-1.example.com")
    assert given.base_url == "https://vpce-1.example.com"
    base = loaded(protocol="bedrock", region="us-east-1")
    merged = Endpoint.model_validate(
        {**{name: getattr(base, name) for name in base.model_fields_set}, "region": "eu-west-1"}
    )
    assert merged.base_url == "https://bedrock-runtime.eu-west-1.amazonaws.com"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"protocol": "bedrock"}, "region: .*needs it, such as us-east-1"),
        ({"protocol": "bedrock", "region": "US East"}, "region: it must be in lower case"),
        ({"protocol": "bedrock", "region": "us-east-1.evil.com/"}, "region: it must be in lower case"),
        ({"protocol": "bedrock", "region": "us-east-1", "project": "p"}, "project: it belongs to .*'vertex'"),
        ({"protocol": "vertex", "region": "global"}, "project: .*needs it, or an API key in 'key_env'"),
        ({"protocol": "vertex", "project": "a/../b"}, "project: it must be in lower case"),
        ({"protocol": "vertex", "project": "p", "profile": "x"}, "profile: it belongs to .*'bedrock'"),
        ({"base_url": "https://x", "region": "global"}, "region: it belongs to .*'bedrock' or 'vertex'"),
        ({"protocol": "openai"}, "base_url: this field is needed"),
    ],
)
def test_a_row_that_lacks_something_or_names_what_is_not_its_own_is_told(fields: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        loaded(**fields)


def test_a_key_stands_for_the_project_in_express_mode() -> None:
    assert loaded(protocol="vertex", key_env=["VERTEX_KEY"]).cloud == CloudAccount(region="global")


def checked(file: Path, protocol: str = "vertex") -> None:
    account = {"project": "p"} if protocol == "vertex" else {"region": "us-east-1"}
    check_protocols([loaded(protocol=protocol, credentials_file=str(file), **account)])


def test_a_good_file_of_credentials_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key.json"
    file.write_text('{"type": "service_account"}')
    checked(file)
    checked(file, "bedrock")
    monkeypatch.setenv("HOME", str(tmp_path))
    checked(Path("~/key.json"))


@pytest.mark.parametrize("protocol", ["vertex", "bedrock"])
def test_a_file_of_credentials_that_is_none_stops_the_start(tmp_path: Path, protocol: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, told in ((tmp_path / "none", "cannot be read"), (tmp_path, "regular file"), (fifo, "regular file")):
        with pytest.raises(ConfigurationError, match=rf"'mine': credentials_file: .*{told}"):
            checked(path, protocol)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("planted secret", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no 'type'"),
        ('{"private_key": "planted"}', "no 'type'"),
        (" " * (MAX_CREDENTIALS + 1), "more than"),
    ],
)
def test_a_file_that_is_not_googles_is_told_without_its_content(tmp_path: Path, content: str, told: str) -> None:
    file = tmp_path / "key.json"
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=told) as caught:
        checked(file)
    assert "planted" not in caught.value.message
