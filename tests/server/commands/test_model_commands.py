"""``recommend``, ``pull``, ``list``, ``show`` and ``rm``, against a fake hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from catalog.errors import InvalidRequest, ModelNotFound, ModelUnavailable, PullError, RoundhouseError
from catalog.hardware import Machine
from catalog.store.hub import Hub
from catalog.store.store import Store
from server.cli import app
from server.commands.library.pulling import free_bytes
from server.commands.support.statuses import UsageError
from tests.catalog.curated.test_choosing import machine
from tests.fakes.gguf import chat_model
from tests.fakes.hub import FakeHub, Repository, serve

RUNNER = CliRunner()
SMALL = "bartowski/SmolLM2-360M-Instruct-GGUF"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 GB with a data folder of the test's."""

    def sixteen(*_: object, **__: object) -> Machine:
        return machine(16, bandwidth=60)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROUNDHOUSE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "300")
    for place in ("server.advising.models", "server.commands.library.pulling", "catalog.hardware"):
        monkeypatch.setattr(f"{place}.detect", sixteen)
    monkeypatch.setattr("server.commands.library.listing.detect", sixteen)
    monkeypatch.setattr("server.advising.models.this_machine", sixteen)
    monkeypatch.setattr("server.commands.library.listing.this_machine", sixteen)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    files = {f"SmolLM2-360M-Instruct-{name}.gguf": chat_model() for name in ("Q4_K_M", "Q8_0")}
    with serve(FakeHub({SMALL: Repository(files)})) as running:
        monkeypatch.setattr(
            "server.commands.library.local.Store", lambda root: Store(root, hub=Hub(running.address))
        )
        yield running


def run(*arguments: str) -> str:
    result = RUNNER.invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_recommend_has_a_line_for_each_capability() -> None:
    lines = run("recommend").splitlines()
    found = {line.split()[0]: line for line in lines if line.strip()}
    assert {"chat", "code", "vision", "embed", "rerank", "transcribe", "speak", "image"} <= set(found)
    assert "llamacpp" in found["chat"]
    assert "~" in found["chat"]
    assert "pull recommended" in lines[-1]


def test_recommend_as_json_tells_what_was_chosen_and_by_which_need() -> None:
    (chat,) = json.loads(run("recommend", "--capability", "chat", "--json", "--context", "16384"))
    assert (chat["capability"], chat["context"], chat["device"]) == ("chat", 16384, "cpu")
    assert chat["memory_bytes"] <= 12e9
    assert chat["pull"] == f"roundhouse pull {chat['model']}"
    (small,) = json.loads(run("recommend", "--capability", "chat", "--json", "--memory", "2GB"))
    assert small["memory_bytes"] < 1e9
    (free,) = json.loads(run("recommend", "--capability", "chat", "--json", "--license", "mit"))
    assert free["license"] == "MIT"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--capability", "flying"), "no recommendation for 'flying'; there are: chat, code"),
        (("--memory", "much"), "Invalid value for --memory: it must be a size, such as 8GB"),
        (("--memory", "24XB"), "(it is '24XB')"),
        (("--license", "foo"), "--license: no model of the catalogue has the licence 'foo'; there are "),
        (("--license", "apache2"), "has the licence 'apache2'; did you mean 'apache-2.0'?"),
        (("--memory", "0GB"), "more than nothing"),
        (("--context", "0"), "--context"),
    ],
)
def test_recommend_refuses_what_it_cannot_read(arguments: tuple[str, ...], said: str) -> None:
    result = RUNNER.invoke(app, ["recommend", *arguments])
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())


def test_a_model_is_pulled_shown_listed_and_removed_by_its_short_name(hub: FakeHub) -> None:
    before: dict[str, Any] = json.loads(run("show", "smollm2:360m"))
    assert before["state"]["missing"] == "It is not on this machine. Pull it with: roundhouse pull smollm2-360m"
    assert before["gguf"]["sizes"]["Q8_0"] == {"bytes": 384625000, "exact": False}
    assert "parameters" in before["unverified"]
    assert run("pull", "smollm2:360m") == "smollm2-360m is ready\n"
    assert hub.downloads("SmolLM2-360M-Instruct-Q8_0.gguf") == [None]
    after = json.loads(run("show", "SmolLM2-360M"))
    assert after["state"] == {"ready": True, "missing": None}
    assert after["upgrade"]["model"] == "qwen3.5-0.8b"
    listed = run("list")
    assert "smollm2-360m: a better one fits here, qwen3.5-0.8b." in listed
    assert run("pull", "smollm2:360m") == "smollm2-360m is ready\n", "nothing is fetched again"
    assert len(hub.downloads("SmolLM2-360M-Instruct-Q8_0.gguf")) == 1
    assert run("rm", "smollm2:360m").startswith("removed smollm2-360m, ")
    assert "smollm2-360m" not in run("list")


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("hibari", InvalidRequest, "The model 'hibari' is part of an installed package; only models that were"),
        ("hibari-tts", InvalidRequest, "The model 'hibari' is part of an installed package"),
        ("openai/gpt-4o-mini", InvalidRequest, "is served by another server; only models that were pulled"),
        ("smollm2-135m-instruct", ModelUnavailable, "'smollm2-135m-instruct' has no files on this machine."),
        ("hibary", ModelNotFound, "does not exist"),
    ],
)
def test_rm_says_why_a_model_that_was_not_pulled_cannot_be_deleted(
    name: str, error: type[RoundhouseError], said: str
) -> None:
    with pytest.raises(error) as refused:
        run("rm", name)
    assert said in refused.value.message


def test_a_quantisation_is_pulled_by_its_tag(hub: FakeHub) -> None:
    assert run("pull", "smollm2:360m-q4_k_m") == "smollm2-360m-q4_k_m is ready\n"
    assert hub.downloads("SmolLM2-360M-Instruct-Q4_K_M.gguf") == [None]
    assert run("rm", "smollm2:360m-q4_k_m").startswith("removed smollm2-360m-q4_k_m, ")


def test_list_all_has_the_models_to_pull_and_filters_them() -> None:
    rows = json.loads(run("list", "--all", "--json", "--capability", "vision", "--max-memory", "8GB", "--local"))
    assert {row["state"] for row in rows} <= {"not pulled", "no engine"}
    names = {row["id"] for row in rows}
    assert "qwen3.5-4b" in names
    assert all("vision" in row["capabilities"] and row["memory_bytes"] <= 8e9 for row in rows)
    remote = json.loads(run("list", "--all", "--json", "--remote"))
    assert {row["state"] for row in remote} == {"remote"}
    assert "too large" in {row["state"] for row in json.loads(run("list", "--all", "--json", "--tag", "hub"))}
    free = json.loads(run("list", "--all", "--json", "--capability", "chat", "--max-price", "0.5", "--remote"))
    assert free
    assert all(row["license"] is None for row in free)


def test_list_refuses_a_capability_that_does_not_exist() -> None:
    for wrong in (("--capability", "flying"), ("--max-memory", "much")):
        assert RUNNER.invoke(app, ["list", *wrong]).exit_code == 2


def test_an_unknown_name_and_a_model_that_is_too_large_say_what_to_do() -> None:
    with pytest.raises(ModelNotFound, match="Did you mean 'qwen3-8b'"):
        run("pull", "qwn3:8b")
    with pytest.raises(PullError, match="GB of memory in its smallest form"):
        run("pull", "qwen3.5:397b")
    with pytest.raises(PullError, match="has no form for the engine 'llamacpp'; it has: vllm"):
        run("pull", "deepseek-v3.2", "--engine", "llamacpp")
    with pytest.raises(PullError, match="does not fit on a device of this machine in its form for the engine"):
        run("pull", "qwen3.5:397b", "--engine", "llamacpp")
    with pytest.raises(ModelNotFound, match="Did you mean"):
        run("show", "qwn3:8b")


def test_the_recommended_models_are_pulled_unless_the_disk_has_no_room(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommended = json.loads(run("recommend", "--capability", "chat", "--json"))[0]
    hub.repositories[recommended["repository"]] = Repository(
        {f"model-{recommended['quantization']}.gguf": chat_model()}
    )
    monkeypatch.setattr("server.commands.library.pulling.free_bytes", lambda _: 1)
    with pytest.raises(PullError, match=r"They take about .* and the disk has 1 B free"):
        run("pull", "recommended", "--capability", "chat")
    monkeypatch.setattr("server.commands.library.pulling.free_bytes", lambda _: None)
    assert run("pull", "recommended", "--capability", "chat") == f"{recommended['model']} is ready\n"
    assert json.loads(run("recommend", "--capability", "chat", "--json"))[0]["pulled"] is True
    again = run("pull", "recommended", "--capability", "chat")
    assert again == "The recommended models are on this machine.\n"


def test_the_free_space_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert (free_bytes(tmp_path / "not" / "yet") or 0) > 0


def test_the_form_for_an_engine_is_another_model_beside_the_first(hub: FakeHub) -> None:
    assert run("pull", "smollm2:360m") == "smollm2-360m is ready\n"
    assert run("pull", "smollm2:360m", "--engine", "llamacpp") == "smollm2-360m-llamacpp is ready\n"
    rows = {row["id"] for row in json.loads(run("list", "--json"))}
    assert {"smollm2-360m", "smollm2-360m-llamacpp"} <= rows


@pytest.mark.parametrize(
    "arguments",
    [
        ("recommended", "--name", "mine"),
        ("starter", "--engine", "llamacpp"),
        ("recommended", "--revision", "v1"),
        ("qwen3:8b", "--capability", "chat"),
    ],
)
def test_an_option_that_means_nothing_is_refused(arguments: tuple[str, ...]) -> None:
    assert RUNNER.invoke(app, ["pull", *arguments]).exit_code == 2


@pytest.mark.parametrize(
    ("name", "said"), [("opena", "did you mean 'openai'?"), ("nobody", "there are anthropic, ")]
)
def test_a_provider_that_nothing_has_is_told(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"There is no provider '{name}'") as refused:
        run("list", "--provider", name)
    assert said in refused.value.message


def test_filters_that_no_model_passes_are_told_beside_the_empty_table() -> None:
    told = RUNNER.invoke(app, ["list", "--provider", "OpenAI"], catch_exceptions=False)
    assert told.exit_code == 0
    assert "no model passes these filters; --all looks at every known one" in told.stderr
    assert "gpt" in run("list", "--provider", "OpenAI", "--all")


def test_show_takes_the_option_for_json_of_the_other_commands() -> None:
    assert json.loads(run("show", "smollm2-135m-instruct", "--json")) == json.loads(
        run("show", "smollm2-135m-instruct")
    )
