"""``roundhouse config``: what is in force and from where, every error with its place, a sample, a schema."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from typer.testing import CliRunner

from catalog.errors import ConfigurationError
from server.cli import app
from server.configuration.checking import check
from server.configuration.origins import HIDDEN, in_force
from server.configuration.places import line_of, lines_of
from server.configuration.sample import sample
from server.configuration.schema import file_schema
from server.configuration.tree import every_setting, plain, sections, toml
from server.processes.reload import setting_names
from server.settings import KEY_SETTINGS, Settings, load_settings
from tests.server.conftest import Start
from tests.server.edge.test_gate import ADMIN, KEYS


@pytest.fixture(autouse=True)
def _empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory and a data folder without anything, and no setting in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in list(__import__("os").environ):
        if name.upper().startswith("ROUNDHOUSE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ROUNDHOUSE_DATA_DIR", str(tmp_path / "data"))


def written(text: str, name: str = "roundhouse.toml") -> Path:
    file = Path(name)
    file.write_text(text)
    return file


# ---- what is in force


def shown(settings: Settings) -> dict[str, tuple[Any, str, str | None]]:
    return {each["name"]: (each["value"], each["origin"], each["where"]) for each in in_force(settings)}


def test_each_setting_is_shown_with_the_source_that_won(monkeypatch: pytest.MonkeyPatch) -> None:
    file = written('routing = { patience = 3, stand_ins = { "a" = "auto" } }\n[server]\nport = 1\nhost = "::1"\n')
    monkeypatch.setenv("roundhouse_server__port", "2")
    monkeypatch.setenv("ROUNDHOUSE_LOG", '{"level": "error", "format": "json"}')
    monkeypatch.setenv("ROUNDHOUSE_ROUTING__PREFERRED__CHAT", "smollm2")
    found = shown(load_settings(file, log={"level": "debug"}))
    assert found["server.port"] == (2, "environment", "roundhouse_server__port")
    assert found["server.host"] == ("::1", "file", str(file))
    assert found["log.level"] == ("debug", "flag", "--log-level")
    assert found["log.format"] == ("json", "environment", "ROUNDHOUSE_LOG")
    assert found["routing.batch_latency_factor"] == (3.0, "file", str(file))
    assert found["routing.stand_ins"][:2] == ({"a": "auto"}, "file")
    assert found["routing.preferred"] == (
        {"chat": "smollm2"},
        "environment",
        "ROUNDHOUSE_ROUTING__PREFERRED__CHAT",
    )
    assert found["server.drain"] == (30.0, "default", None)


def test_a_gateway_of_several_knows_the_origins_that_its_parent_knows() -> None:
    file = written('[server]\nport = 1\n[[model]]\nid = "a"\nends = 2027-01-14\n')
    settings = load_settings(file, log={"level": "debug"})
    sent = json.loads(json.dumps(settings.sources))
    assert "2027" not in json.dumps(sent)
    there = settings.model_copy().read_from(Path(sent["file"]), sent["in_file"], sent["flags"])
    assert shown(there) == shown(settings)


def test_every_setting_is_shown_and_none_twice() -> None:
    names = [each["name"] for each in in_force(Settings())]
    assert len(set(names)) == len(names)
    known = list(setting_names(Settings))
    assert all(any(each == name or each.startswith(f"{name}.") for name in names) for each in known)
    assert all(any(each == name or each.startswith(f"{name}.") for each in known) for name in names)


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_API_KEYS", "planted-one,planted-two")
    monkeypatch.setenv("MINE", "planted-three")
    monkeypatch.setenv("REDIS", "redis://me:planted-four@host/1")
    monkeypatch.setenv("ROUNDHOUSE_BACKENDS__PROXY", "http://me:planted-five@proxy:80")
    settings = load_settings(written('admin_keys_env = "MINE"\nstate = { url_env = "REDIS" }\n'))
    found = shown(settings)
    assert "planted" not in json.dumps(found)
    assert found["api_keys"] == ([HIDDEN, HIDDEN], "environment", "ROUNDHOUSE_API_KEYS")
    assert found["admin_keys"] == ([HIDDEN], "environment", "MINE")
    assert found["state.url"] == (f"redis://{HIDDEN}@host/1", "environment", "REDIS")
    assert found["backends.proxy"][0] == f"http://{HIDDEN}@proxy:80"


async def test_a_running_server_tells_its_settings_to_administrators(start: Start) -> None:
    async with start(**KEYS) as gateway:
        answer = await gateway.client.get("/v1/admin/settings", headers=ADMIN)
        told = {each["name"]: each for each in answer.json()["settings"]}
        assert told["log.access"]["value"] is False
        assert told["api_keys"]["value"] == [HIDDEN]
        refused = await gateway.client.get("/v1/admin/settings", headers={"x-api-key": "caller-key"})
        assert refused.status_code == 403


# ---- the check


BROKEN = """\
api_keys = "planted"

[server]
prot = 80
port = "x"

[routing.weights.fast]
quality = 3
latency = 0.1
cost = 0.1

[[model]]
id = "a"
capabilities = ["chat", "fly"]
engine = 3
[model.source]
kind = "path"
path = "/x"

[[model]]
id = "b"
capabilities = ["chat"]
source = { kind = "path", path = "/x" }
engine = "steam"

[[endpoint]]
id = "e"
base_url = "x y"
"""


def test_the_check_prints_every_error_with_its_line_and_repeats_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_SERVER__DRAIN", "-3")
    file = written(BROKEN, "bad.toml")
    found = [str(each) for each in check(file)]
    assert [each.partition(": ")[0] for each in found] == [
        "ROUNDHOUSE_SERVER__DRAIN",
        *(f"bad.toml:{line}" for line in (1, 4, 5, 8, 14, 15, 24, 28)),
    ]
    assert "Did you mean 'server.port'?" in found[2]
    assert "planted" not in "".join(found)


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        ("[server]\nport = 1\nport = 2\n", "roundhouse.toml:3", "not TOML"),
        ('api_keys_env = "NOT_SET"\n', "roundhouse.toml:1", r"\$NOT_SET, which is not set"),
        ('[routing]\n\npriors = ["nowhere.toml"]\n', "roundhouse.toml:3", "no folder and no file"),
        ('[server]\nhost = "0.0.0.0"\n', "roundhouse.toml", "without API keys"),
        ('[routing.preferred]\nchat = "nothing"\n', "roundhouse.toml:2", "does not exist"),
        ('[routing.stand_ins]\n"a" = "auto"\n"b" = "nothing"\n', "roundhouse.toml:3", "does not exist"),
        (
            '[[model]]\nid = "a"\ncapabilities = ["chat"]\n'
            'source = { kind = "upstream", endpoint = "none", model = "m" }\n',
            "roundhouse.toml:4",
            "there is no \\[\\[endpoint\\]\\] 'none'",
        ),
    ],
)
def test_an_error_that_keeps_a_server_from_starting_is_found(text: str, where: str, why: str) -> None:
    (found,) = check(written(text))
    assert found.error
    assert found.where == where
    assert re.search(why, found.message), found.message


def test_a_variable_that_is_no_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_SERVER", "{")
    (found,) = check(None)
    assert (found.where, found.error) == ("ROUNDHOUSE_SERVER", True)
    assert "not JSON" in found.message


SEVERAL = """\
[server]
host = "0.0.0.0"
drain = "x"

[workers.memory]
"cuda:8" = "8GB"

[routing]
priors = ["nowhere.toml", "nothing.json"]

[routing.preferred]
chat = "nothing"
embed = "wrong-itself"
rerank = "beside"

[[endpoint]]
id = "e"
base_url = "x y"

[[model]]
id = "wrong-itself"
capabilities = ["fly"]

[[model]]
id = "of-the-wrong-endpoint"
capabilities = ["chat"]
source = { kind = "upstream", endpoint = "e", model = "m" }

[[model]]
id = "elsewhere"
capabilities = ["chat"]
source = { kind = "upstream", endpoint = "none", model = "m" }

[[model]]
id = "beside"
capabilities = ["chat"]
source = { kind = "path", path = "/x" }

[[model]]
id = "beside"
capabilities = ["chat"]
source = { kind = "path", path = "/y" }
"""


def test_errors_of_every_kind_are_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_LOG", "{")
    monkeypatch.setenv("ROUNDHOUSE_STORAGE", "[")
    monkeypatch.setenv("ROUNDHOUSE_SEVER__PORT", "1")
    text = SEVERAL.replace('"8GB"', "16_777_216")
    found = [str(each) for each in check(written(text))]
    assert [each.partition(": ")[0] for each in found] == [
        "ROUNDHOUSE_LOG",
        "ROUNDHOUSE_STORAGE",
        "roundhouse.toml",  # the address without keys
        *(f"roundhouse.toml:{line}" for line in (3, 6, 9, 9, 12, 14, 18, 20, 22, 32, 39)),
        "ROUNDHOUSE_SEVER__PORT",
        *("roundhouse.toml:37", "roundhouse.toml:42"),  # files that are not there
    ]
    assert "wrong-itself' does not exist" not in "".join(found)


WRONG_TWICE = """\
[discovery]
folders = ["/nowhere/models"]

[[model]]
id = "a"
capabilities = ["fly"]
engine = "warp"

[[model]]
id = "A"
capabilities = ["chat"]
source = { kind = "path", path = "/nowhere/a.gguf" }

[[model]]
id = "c"
capabilities = ["chat"]
source = { kind = "path", path = "/nowhere/c.gguf" }

[[endpoint]]
id = "e"
base_url = "x y"
protocol = "opena"
"""


def test_all_errors_of_one_row_are_found_and_what_is_not_there_is_remarked() -> None:
    found = [str(each) for each in check(written(WRONG_TWICE))]
    for where, said in (
        ("6", "[[model]] 'a': capabilities.0: it must be "),
        ("7", "[[model]] 'a': engine: there is no 'warp'"),
        ("10", "[[model]] 'A' is given twice; remove one."),
        ("21", "[[endpoint]] 'e': base_url: "),
        ("22", "[[endpoint]] 'e': protocol: there is no 'opena'; did you mean 'openai'?"),
    ):
        assert any(each.startswith(f"roundhouse.toml:{where}: {said}") for each in found), (said, found)
    remarks = [each for each in found if each.endswith("(not an error)")]
    assert any(each.startswith("roundhouse.toml:2: There is no folder /nowhere/models.") for each in remarks)
    (absent,) = (each for each in remarks if "source.path" in each)
    assert absent.startswith("roundhouse.toml:17: [[model]] 'c': source.path: there is no file or folder /")


def test_a_file_that_an_option_names_and_that_is_not_there_is_remarked_at_its_line() -> None:
    row = '[[model]]\nid = "a"\ncapabilities = ["chat"]\nengine = "llamacpp"\n'
    row += 'source = { kind = "path", path = "." }\n'
    options = '[model.options]\nmmproj = "/no/eyes"\ndraft = "/no/draft"\nlora = [{ path = "/no/lora" }]\n'
    found = check(written(f"{row}{options}"))
    assert [(each.where, each.error) for each in found] == [(f"roundhouse.toml:{at}", False) for at in (7, 8, 9)]
    assert found[2].message == "[[model]] 'a': options.lora[0].path: there is no file or folder /no/lora."


def test_every_error_of_files_of_priors_is_found() -> None:
    folder = Path("priors")
    folder.mkdir()
    (folder / "a.toml").write_text('[models.x]\noverall = 3\nflying = 0.5\n[models.y]\noverall = "good"\n')
    (folder / "b.json").write_text("{")
    found = check(written('[routing]\npriors = ["priors", "nowhere"]\n'))
    assert {each.where for each in found} == {"roundhouse.toml:2"}
    told = "\n".join(each.message for each in found)
    for part in ("a.toml': models.x", "a.toml': models.y.overall", "b.json' cannot be read", "'nowhere' is no"):
        assert part in told, told


def test_every_wrong_option_of_a_model_is_found_with_its_line() -> None:
    text = (
        '[[model]]\nid = "a"\ncapabilities = ["chat"]\nengine = "llamacpp"\n'
        'source = { kind = "path", path = "/x" }\n[model.options]\nbatch = 1\nwings = 2\nmmap = "x"\n'
    )
    found = check(written(text))
    assert [each.where for each in found] == [f"roundhouse.toml:{line}" for line in (7, 8, 9)]
    assert all(each.message.startswith("[[model]] 'a': Option '") for each in found)


def test_an_error_that_may_follow_from_another_is_not_told() -> None:
    text = 'api_keys = "planted"\n[server]\nadmin_host = "0.0.0.0"\nadmin_port = "x"\nhost = "0.0.0.0"\n'
    assert [each.where for each in check(written(text))] == ["roundhouse.toml:1", "roundhouse.toml:4"]


def test_the_environment_is_checked_where_the_file_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_SERVER__PORT", "x")
    monkeypatch.setenv("ROUNDHOUSE_SERVER__HOST", "0.0.0.0")
    places = [each.where for each in check(written("[server\n"))]
    assert places == ["ROUNDHOUSE_SERVER__PORT", "roundhouse.toml:1"]


@pytest.mark.parametrize(
    "line",
    [
        'host = ""',
        'host = "http://127.0.0.1"',
        'host = "127.0.0.1:8000"',
        'host = "[::1]"',
        'host = "two words"',
        'admin_port = 1\nadmin_host = ""',
        'allowed_hosts = [""]',
        'allowed_hosts = ["https://models.example"]',
        'allowed_hosts = ["models.example:443"]',
        'allowed_hosts = ["models.*"]',
    ],
)
def test_a_host_that_could_not_be_served_is_refused(line: str) -> None:
    (found,) = check(written(f"[server]\n{line}\n"))
    assert re.search("host", found.message), found.message


@pytest.mark.parametrize("host", ["localhost", "::1", "fe80::1%lo", "127.0.0.1", "my_host.lan", "a.b.example."])
def test_a_host_is_an_address_or_a_name(host: str) -> None:
    assert check(written(f'[server]\ninsecure = true\nhost = "{host}"\n')) == []


def test_an_allowed_host_holds_in_any_case() -> None:
    file = written('[server]\nallowed_hosts = ["Models.Example", "*.LAN", "*", "2001:DB8::1"]\n')
    assert load_settings(file).server.allowed_hosts == ("models.example", "*.lan", "*", "2001:db8::1")


def test_a_misspelt_variable_is_remarked_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_SEVER__PORT", "1")
    monkeypatch.setenv("ROUNDHOUSE_KEY", "a client's")
    monkeypatch.setenv("ROUNDHOUSE_SERVER__PORT", "1")
    monkeypatch.setenv("ROUNDHOUSE_SERVER__LIMITS", "{}")
    monkeypatch.setenv("ROUNDHOUSE_ROUTING__PREFERRED__CHAT", "smollm2")
    (found,) = check(None)
    assert (found.where, found.error) == ("ROUNDHOUSE_SEVER__PORT", False)


def test_the_exit_status_tells_whether_a_server_would_start() -> None:
    run = CliRunner()
    written("[server]\nport = 80000\n")
    assert run.invoke(app, ["config", "check"]).exit_code == 1
    written("[server]\nport = 8000\n")
    good = run.invoke(app, ["config", "check"])
    assert (good.exit_code, good.output) == (0, "roundhouse.toml: no errors\n")


def test_a_line_is_found_for_every_form_of_a_key() -> None:
    text = (
        'a.b = 1\n[c."d.e"]\nf = """\n[x]\n"""\n[[g]]\n\n# h = 1\nh = [\n  1,\n]\n'
        "[[g]]\n[g.i]\nj = { k = 1 }\n[[g.l]]\nm = 1\n"
    )
    tomllib.loads(text)
    places = lines_of(text)
    expected = {
        ("a", "b"): 1, ("c", "d.e"): 2, ("c", "d.e", "f"): 3, ("g", 0): 6, ("g", 0, "h"): 9, ("g", 1): 12,
        ("g", 1, "i"): 13, ("g", 1, "i", "j", "k"): 14, ("g", 1, "l", 0): 15, ("g", 1, "l", 0, "m"): 16,
    }  # fmt: skip
    assert {path: places[path] for path in expected} == expected
    assert line_of(places, ("g", 1, "i", "nothing")) == 13
    assert line_of(places, ("z",)) is None


# ---- the sample and the schema


def uncommented(text: str) -> str:
    """The sample with every setting in force; one without a default and an example stays out."""
    lines = [line.removeprefix("#") if re.match(r'#[\w"\[]', line) else line for line in text.splitlines()]
    return "\n".join(line for line in lines if not line.endswith("="))


def test_the_sample_as_it_is_changes_nothing() -> None:
    assert load_settings(written(sample())).model_dump() == load_settings(None).model_dump()


def test_the_sample_has_every_setting_that_a_file_may_have() -> None:
    names = {each.name for each in every_setting() if each.in_file}
    assert names == {each.name for each in every_setting()} - set(KEY_SETTINGS)
    section, found = "", set()
    for line in sample().splitlines():
        if head := re.fullmatch(r"\[([\w.]+)\]", line):
            section = f"{head[1]}."
        elif key := re.match(r'#"?([\w-]+)"? =', line):
            found.add(section + key[1])
    assert names - {"model", "endpoint"} <= found


def test_the_defaults_of_the_sample_are_the_defaults() -> None:
    content = tomllib.loads(uncommented(sample()))
    for each in every_setting():
        if each.default in (None, [], {}, "") or each.name == "data_dir":
            continue
        value: Any = content
        for part in each.name.split("."):
            value = value[part]
        assert value == each.default, each.name


def test_the_schema_takes_the_sample_and_refuses_what_the_server_refuses() -> None:
    validator = jsonschema.Draft202012Validator(file_schema())
    jsonschema.Draft202012Validator.check_schema(file_schema())
    content = tomllib.loads(uncommented(sample()))
    assert [error.message for error in validator.iter_errors(content)] == []
    wrong = [{"server": {"prot": 1}}, {"server": {"port": "x"}}, {"api_keys": ["a"]}, {"model": [{"name": "a"}]}]
    assert all(list(validator.iter_errors(each)) for each in wrong)
    told = file_schema()["$defs"]["ServerSettings"]["properties"]["port"]
    assert told["description"]


def test_init_writes_the_sample_and_its_schema_once() -> None:
    run = CliRunner()
    assert run.invoke(app, ["config", "init"]).exit_code == 0
    assert Path("roundhouse.toml").read_text() == sample()
    named = sample().splitlines()[0].removeprefix("#:schema ")
    assert json.loads(Path(named).read_text()) == json.loads(run.invoke(app, ["config", "schema"]).output)
    with pytest.raises(ConfigurationError, match="is there already"):
        run.invoke(app, ["config", "init"], catch_exceptions=False)
    assert run.invoke(app, ["config", "init", "-"]).output == sample()


def test_values_are_written_as_toml_reads_them() -> None:
    value: Any
    for value in ("a", 'b"\\\n\t\x7f', 1, 1_000_000, 0.5, True, ["a", 1], {"a b": {"c": []}}):
        assert tomllib.loads(f"x = {toml(value)}")["x"] == value
    assert [section.name for section in sections()][:2] == ["", "server"]
    assert plain(Settings().routing.cold_start)["always"] == ["tool_use", "vision"]


def test_show_filters_and_prints_json() -> None:
    run = CliRunner()
    written("[server]\nport = 9\n")
    changed = json.loads(run.invoke(app, ["config", "show", "--changed", "--json"]).output)
    assert [each["name"] for each in changed] == ["data_dir", "server.port"]
    one = run.invoke(app, ["config", "show", "server.port"]).output.split()
    assert one == ["SETTING", "VALUE", "FROM", "server.port", "9", "roundhouse.toml"]
    with pytest.raises(ConfigurationError, match="There is no setting"):
        run.invoke(app, ["config", "show", "server.prot"], catch_exceptions=False)
