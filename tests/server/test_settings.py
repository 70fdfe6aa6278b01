"""Settings from file, environment and flags, and one-line errors."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from catalog.errors import ConfigurationError
from catalog.store.store import Store
from server.catalog_updates import read_catalog
from server.configuration.exposure import check_lost_keys, mark_keys
from server.processes.reload import setting_names
from server.settings import Settings, load_settings


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


MODEL = "[[model]]\nid = 'm'\ncapabilities = ['chat']\nsource = { kind = 'path', path = '/x.gguf' }\n"


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
        ("metrics_keys = 'k'\n", "metrics_keys_env"),
        ("[workers]\nkeep_alive = nan\n", "workers.keep_alive"),
        ("[workers.memory]\ncpu = -1\n", "workers.memory.cpu"),
        (
            "[backends]\nca_file = '/nowhere/ca.pem'\n",
            "/nowhere/ca.pem cannot be read (No such file",
        ),
        ("[backends]\nca_file = 'roundhouse.toml'\n", "backends.ca_file"),
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


def test_a_folder_where_the_settings_file_should_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "roundhouse.toml").mkdir()
    with pytest.raises(ConfigurationError, match=r"roundhouse\.toml: Is a directory"):
        load_settings()


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_settings_or_certificate_file_that_is_no_regular_file_is_refused(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(special := tmp_path / "special.toml")
    with pytest.raises(ConfigurationError, match=r"special\.toml: Not a regular file"):
        load_settings(special)
    with pytest.raises(ConfigurationError, match=r"special\.toml cannot be read \(Not a regular file\)"):
        load_settings(backends={"ca_file": special})


def test_a_settings_file_of_gigabytes_is_refused_without_reading_it(tmp_path: Path) -> None:
    with (file := tmp_path / "huge.toml").open("wb") as made:
        made.truncate(1 << 40)
    with pytest.raises(ConfigurationError, match="Larger than"):
        load_settings(file)


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "roundhouse.toml").write_bytes("\ufeff[server]\nport = 9000\n".encode())
    assert load_settings().server.port == 9000


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("workers", "drain_delay"),
        ("retries", "wait_timeout"),
        ("spend", "store_timeout"),
        ("routing", "batch_latency_factor"),
    ],
)
def test_the_earlier_name_of_a_setting_stays_valid(section: str, name: str) -> None:
    for given in (name, "patience"):
        named: dict[str, Any] = {section: {given: 3}}
        assert getattr(getattr(load_settings(**named), section), name) == 3
    both: dict[str, Any] = {section: {name: 3, "patience": 4}}
    with pytest.raises(ConfigurationError, match="patience"):
        load_settings(**both)


def numbers(section: type[BaseModel]) -> Iterator[str]:
    """The names of the settings that are numbers, or tables or lists of numbers."""
    for name in setting_names(section):
        annotation: Any = section
        for part in name.split("."):
            annotation = annotation.model_fields[part].annotation
        if {"int", "float"} & set(re.findall(r"\w+", str(annotation).replace("<class", ""))):
            yield name


def one_setting(name: str, value: Any) -> dict[str, Any]:
    """The settings with one value; in a table or list of numbers it is the only one."""
    section, _, leaf = name.rpartition(".")
    around = attrgetter(section)(Settings())
    now = getattr(around, leaf)
    wrapped = {"cpu": value} if isinstance(now, dict) else [value] if isinstance(now, tuple) else value
    needed = {
        each: getattr(around, each) for each, field in type(around).model_fields.items() if field.is_required()
    }
    document: Any = needed | {leaf: wrapped}
    for part in reversed(section.split(".")):
        document = {part: document}
    return dict(document)


NEGATIVE = {"workers.keep_alive"}
"""Settings of which a negative value has a meaning."""
NO_NUMBERS = [True, False, math.nan, math.inf, -math.inf, 1e300, 10**30, -1, -0.5, "much", [], {}]


def test_the_numeric_settings_are_found() -> None:
    found = set(numbers(Settings))
    assert found > {"server.port", "server.drain", "spend.caps.day", "workers.memory", "backends.fetch.ports"}
    assert len(found) > 90


@pytest.mark.parametrize("name", list(numbers(Settings)))
def test_no_numeric_setting_takes_what_is_no_sensible_number(name: str) -> None:
    for value in NO_NUMBERS:
        if name in NEGATIVE and value in (-1, -0.5):
            continue
        with pytest.raises(ConfigurationError, match=name.replace(".", r"\.")) as refused:
            print(name, value, load_settings(**one_setting(name, value)))
        assert "it must be" in refused.value.message
        assert "Input should" not in refused.value.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[server]\nport = 99999", "'server.port': it must be at most 65535 (it is 99999)"),
        ("[log]\nlevel = 'loud'", "it must be 'debug', 'info', 'warning' or 'error' (it is 'loud')"),
        ("[log]\naccess = 3", "'log.access': it must be true or false (it is 3)"),
        ("[spend.caps]\nday = true", "'spend.caps.day': it must be a number, and not true or false (it is true)"),
        ("[workers.memory]\ncpu = 10", "'workers.memory.cpu': it must be at least 16777216 (it is 10)"),
        ("data_dir = ''", "'data_dir': it must be a file or folder"),
        ("[discovery]\nfolders = ['']", "'discovery.folders': it must be a file or folder"),
        ("[backends]\nproxy = 'socks5://me:planted@host'", "'backends.proxy': a proxy is"),
    ],
)
def test_a_refusal_says_what_is_allowed_and_what_came(tmp_path: Path, text: str, expected: str) -> None:
    write(tmp_path, text)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert expected in refused.value.message
    assert "planted" not in refused.value.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MODEL + "engine = 'lamacpp'", "[[model]] 'm': engine: there is no 'lamacpp'"),
        (MODEL + "engine = 'lamacpp'", "Did you mean 'llamacpp'?"),
        (
            MODEL + "engine = 'llamacpp'\noptions = { pooled = 1 }",
            "[[model]] 'm': Option 'pooled' of engine",
        ),
        (MODEL + "engine = 'llamacpp'\noptions = { lora = [{ file = 'x' }] }", "Option 'lora.0.path'"),
        (MODEL + "engine = 'llamacpp'\nkeep_alive = nan", "[[model]] 'm': keep_alive"),
        (MODEL + "engine = 'llamacpp'\nsize = { memory = -1 }", "[[model]] 'm': size.memory"),
        ("[routing.preferred]\nchat = 'smollm2-135m-instrct'", "'routing.preferred.chat': "),
        ("[routing.preferred]\nchat = 'smollm2-135m-instrct'", "smollm2-135m-instruct"),
        ("[routing.judge]\nmodel = 'nosuch'", "'routing.judge.model': "),
        ("[routing.judge]\nmodel = 'all-minilm-l6-v2'", "'all-minilm-l6-v2' cannot chat; it can"),
        ("[routing.speech]\npreferred = ['hibary']", "'routing.speech.preferred': "),
        (
            "[routing.preferred]\nrerank = 'hibari'",
            "preferred.rerank': 'hibari' cannot rerank; it can speak",
        ),
        ("[routing.speech]\npreferred = ['smollm2-135m-instruct']", "speak or transcribe or translate"),
        ("[[endpoint]]\nid = 'e'\nbase_url = 'localhost:8000'", "[[endpoint]] 'e': base_url: it must be a URL"),
    ],
)
def test_a_mistake_in_a_row_or_in_a_models_name_is_one_line_that_names_the_file(
    tmp_path: Path, text: str, expected: str
) -> None:
    write(tmp_path, text)
    with pytest.raises(ConfigurationError) as wrong:
        read_catalog(load_settings(), Store(tmp_path))
    assert expected in wrong.value.message
    assert wrong.value.message.endswith("Correct it in roundhouse.toml.")
    assert "\n" not in wrong.value.message


def test_a_preferred_model_may_be_one_that_is_discovered_later(tmp_path: Path) -> None:
    endpoint = "[[endpoint]]\nid = 'lan'\nbase_url = 'http://lan/v1'\ndiscover = true"
    write(tmp_path, f"[routing.preferred]\nchat = 'lan/llama'\n{endpoint}")
    read_catalog(load_settings(), Store(tmp_path))


def test_an_error_never_contains_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_API_KEYS", '["planted-secret", {"a": 1}]')
    settings_or_error = ""
    try:
        load_settings()
    except ConfigurationError as error:
        settings_or_error = error.message
    assert "planted-secret" not in settings_or_error


def test_a_server_whose_keys_may_be_lost_with_its_state_does_not_open(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    damaged = tmp_path / "state.sqlite3.damaged-20260101T000000-1"
    damaged.touch()
    check_lost_keys(settings)
    damaged.unlink()
    mark_keys(settings)
    check_lost_keys(settings)
    damaged.touch()
    with pytest.raises(ConfigurationError, match="move that file away"):
        check_lost_keys(settings)
    check_lost_keys(load_settings(data_dir=tmp_path, admin_keys=["boss"]))
    check_lost_keys(load_settings(data_dir=tmp_path, server={"insecure": True}))


def test_a_file_that_is_nested_too_deeply_is_refused_in_a_line(tmp_path: Path) -> None:
    file = tmp_path / "roundhouse.toml"
    file.write_text("a = " + "[" * 5000)
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        load_settings(file)
