"""Settings from file, environment and flags, and one-line errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from catalog.errors import ConfigurationError
from server.settings import load_settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ROUNDHOUSE_API_KEYS", "ROUNDHOUSE_CONFIG", "ROUNDHOUSE_SERVER__PORT"):
        monkeypatch.delenv(name, raising=False)


def write(folder: Path, text: str) -> Path:
    path = folder / "roundhouse.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_defaults_are_complete() -> None:
    settings = load_settings()
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8000)
    assert settings.api_keys == ()
    assert settings.data_dir.name == "roundhouse"


def test_flags_override_the_environment_and_both_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "[server]\nport = 1\ndrain = 7\nhost = 'localhost'\n")
    monkeypatch.setenv("ROUNDHOUSE_SERVER__PORT", "2")
    assert load_settings().server.port == 2
    settings = load_settings(server={"port": 3})
    assert (settings.server.port, settings.server.drain, settings.server.host) == (3, 7, "localhost")


def test_the_file_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "other.toml"
    path.write_text("[server]\nport = 5\n")
    assert load_settings(path).server.port == 5
    monkeypatch.setenv("ROUNDHOUSE_CONFIG", str(path))
    assert load_settings().server.port == 5


def test_keys_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_API_KEYS", "one, two,")
    assert [key.get_secret_value() for key in load_settings().api_keys] == ["one", "two"]
    monkeypatch.delenv("ROUNDHOUSE_API_KEYS")
    monkeypatch.setenv("TEAM_KEYS", "three,four")
    write(tmp_path, "api_keys_env = 'TEAM_KEYS'\n")
    settings = load_settings()
    assert [key.get_secret_value() for key in settings.api_keys] == ["three", "four"]
    assert "three" not in repr(settings)


def test_rows_are_kept_for_the_catalogue(tmp_path: Path) -> None:
    write(tmp_path, "[[model]]\nid = 'mine'\n[[endpoint]]\nid = 'lan'\nbase_url = 'http://lan/v1'\n")
    settings = load_settings()
    assert settings.model == ({"id": "mine"},)
    assert settings.endpoint[0]["id"] == "lan"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[server]\nport = 'http'\n", "server.port"),
        ("[server]\nport = 99999\n", "server.port"),
        ("[server]\nprot = 1\n", "server.prot"),
        ("[serve]\nport = 1\n", "serve"),
        ("[server\n", "roundhouse.toml"),
        ("api_keys_env = 'NOT_SET_ANYWHERE'\n", "NOT_SET_ANYWHERE"),
        ("[server.cors]\norigins = ['*']\ncredentials = true\n", "name the origins"),
        ("[log]\nlevel = 'loud'\n", "log.level"),
        ("api_keys = 'k'\n", "api_keys_env"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(tmp_path: Path, text: str, expected: str) -> None:
    write(tmp_path, text)
    with pytest.raises(ConfigurationError) as wrong:
        load_settings()
    assert expected in wrong.value.message
    assert "\n" not in wrong.value.message


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("[limits]\nconcurrency = 5\n", "'server.limits'"),
        ("[server]\nprot = 9000\n", "'server.port'"),
        ("[workers]\nkeepalive = 60\n", "'workers.keep_alive'"),
    ],
    ids=["in-another-table", "mistyped", "nearly"],
)
def test_an_unknown_setting_is_reported_with_the_one_that_was_meant(tmp_path: Path, text: str, meant: str) -> None:
    write(tmp_path, text)
    with pytest.raises(ConfigurationError) as raised:
        load_settings()
    assert "There is no setting" in raised.value.message
    assert f"Did you mean {meant}" in raised.value.message


def test_an_unreadable_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load_settings(tmp_path / "missing.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        load_settings(binary)
    with pytest.raises(ConfigurationError, match="Cannot read"):
        load_settings(tmp_path)


def test_an_error_never_contains_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_API_KEYS", '["planted-secret", {"a": 1}]')
    settings_or_error = ""
    try:
        load_settings()
    except ConfigurationError as error:
        settings_or_error = error.message
    assert "planted-secret" not in settings_or_error
