"""Priors from files and from other installations: read strictly, used as they are, and shown with their origin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from catalog.errors import ConfigurationError
from catalog.index import Index
from catalog.model import Model
from routing.beliefs.estimator import Estimator
from routing.beliefs.learning import Learner
from routing.beliefs.prior_files import PriorFiles
from routing.beliefs.priors import Source
from routing.facts import Complexity, Task
from routing.settings import RoutingSettings
from tests.routing.catalogue import chat, local, remote

TOML = """
source = "our evaluation"
[models."ACME/A"]
overall = 0.9
code = 0.2
tokens_per_second = 300
"""


def estimator(*models: Model, files: PriorFiles | None = None) -> Estimator:
    made = Estimator(RoutingSettings(), writer="test")
    made.files = files or PriorFiles()
    made.align(Index(made.files.timed(models or (remote("a"), remote("b")))))
    return made


def quality(made: Estimator, model: str, task: Task = Task.CHAT) -> float:
    return made.expected_quality(model, task, Complexity.SIMPLE)


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_a_files_figures_hold_as_they_are_and_the_prior_names_the_file(tmp_path: Path) -> None:
    made = estimator(files=PriorFiles.read([write(tmp_path, "a.toml", TOML)]))
    assert quality(made, "a") == pytest.approx(0.9)
    assert quality(made, "a", Task.CODE) == pytest.approx(0.2)
    assert quality(made, "b") == pytest.approx(0.6)
    prior = made.prior(0)
    assert (prior.source, prior.reason) == (Source.FILE, "our evaluation")
    assert made.index.decode.tolist()[0] == 300


def test_a_model_that_was_observed_follows_a_file_and_keeps_its_observations(tmp_path: Path) -> None:
    made = estimator()
    for _ in range(10):
        made.observe_quality("a", Task.CHAT, Complexity.SIMPLE, 0.0)
    before = quality(made, "a")
    made.files = PriorFiles.read([write(tmp_path, "a.toml", TOML)])
    made.align(made.index)
    assert before < quality(made, "a") < 0.9


def test_a_folder_is_read_in_order_and_a_later_file_adds_to_an_earlier_one(tmp_path: Path) -> None:
    write(tmp_path, "1.toml", TOML)
    write(tmp_path, "2.json", json.dumps({"models": {"acme/a": {"code": 0.7}, "nobody": {"chat": 1}}}))
    write(tmp_path, "notes.txt", "not read")
    files = PriorFiles.read([tmp_path])
    made = estimator(files=files)
    assert quality(made, "a") == pytest.approx(0.9)
    assert quality(made, "a", Task.CODE) == pytest.approx(0.7)
    assert [Path(path).name for path in files.paths] == ["1.toml", "2.json"]
    assert files.unmatched(made.index.models) == ["nobody"]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.toml", "models = 3", "models"),
        ("a.toml", "[models.a]\nchat = 1.5", r"models\.a\.chat"),
        ("a.toml", "[models.a]\njuggling = 0.5", "'juggling' is no task and no figure of speed; known: chat"),
        ("a.toml", "[models.a]\nchat = true", "chat"),
        ("a.toml", "[models.a]\ntokens_per_second = -1", "tokens_per_second"),
        ("a.toml", "strength = 0\n[models.a]\nchat = 1.0", "strength"),
        ("a.json", "[1]", "it"),
        ("a.json", '{"models": {}, "more": 1}', "more"),
        ("a.json", "{", "cannot be read"),
        ("a.yaml", "models: {}", r"no folder and no file that ends with \.json or \.toml"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_place(tmp_path: Path, name: str, text: str, told: str) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(ConfigurationError, match=told) as caught:
        PriorFiles.read([path])
    assert str(path) in caught.value.message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"gone\.toml' is no folder and no file"):
        PriorFiles.read([tmp_path / "gone.toml"])


# ---- profiles


def taught() -> Learner:
    made = estimator(remote("a"), remote("b"), local("here"))
    for model, score in (("a", 1.0), ("b", 0.0), ("here", 1.0)):
        for _ in range(100):
            made.observe_quality(model, Task.CODE, Complexity.SIMPLE, score)
        made.observe_first(model, chat(), 3.0)
    return Learner(made)


def test_another_installation_starts_with_what_one_learned() -> None:
    profile = taught().export_profile()
    fresh = estimator(remote("a"), remote("b"), local("here"))
    taken = Learner(fresh).import_profile(profile, weight=0.5, origin="the Oslo server")
    assert taken == {"a": True, "b": True, "here": True}
    assert quality(fresh, "a", Task.CODE) > 0.75 > 0.45 > quality(fresh, "b", Task.CODE)
    prior = fresh.prior(0)
    assert (prior.source, prior.reason) == (Source.IMPORTED, "the Oslo server")


def test_an_imported_observation_is_worth_its_weight() -> None:
    profile = taught().export_profile()
    qualities = []
    for weight in (0.1, 0.5, 1.0):
        fresh = estimator()
        fresh.import_profile(profile, weight=weight, origin="there")
        qualities.append(quality(fresh, "a", Task.CODE))
    assert qualities == sorted(qualities)
    assert qualities[0] < qualities[2] - 0.05


def test_what_was_observed_here_is_not_replaced() -> None:
    fresh = estimator()
    fresh.observe_quality("a", Task.CODE, Complexity.SIMPLE, 0.0)
    before = quality(fresh, "a", Task.CODE)
    assert not fresh.import_profile(taught().export_profile(), weight=1.0, origin="there")["a"]
    assert quality(fresh, "a", Task.CODE) == before


def test_the_speed_of_this_machines_own_models_stays_here() -> None:
    profile = taught().export_profile()
    assert profile["a"].pace is not None
    assert profile["here"].pace is None


def test_what_was_imported_survives_a_restart_with_its_origin() -> None:
    first = estimator()
    first.seed("a", {Task.CODE: 0.9}, overall=0.4, origin="an evaluation")
    second = estimator()
    second.adopt({name: {**document, "writer": "first"} for name, document in first.export().items()})
    assert quality(second, "a", Task.CODE) == pytest.approx(0.9)
    assert quality(second, "a") == pytest.approx(0.4)
    assert second.prior(0).reason == "an evaluation"


def test_benchmarks_over_http_may_have_an_overall_score() -> None:
    made = estimator()
    assert Learner(made).import_priors({"a": {"overall": 0.3, "code": 0.8}}) == {"a": True}
    assert quality(made, "a") == pytest.approx(0.3)
    assert quality(made, "a", Task.CODE) == pytest.approx(0.8)


def test_a_folder_reads_what_another_server_exported(tmp_path: Path) -> None:
    first = estimator()
    for _ in range(200):
        first.observe_quality("a", Task.CODE, Complexity.SIMPLE, 1.0)
    models = {name: part.model_dump(mode="json") for name, part in first.export_profile().items()}
    text = json.dumps({"object": "router.profile", "version": 1, "models": models})
    made = estimator(files=PriorFiles.read([write(tmp_path, "learned.json", text)]))
    assert quality(made, "a", Task.CODE) > 0.75
    assert quality(made, "a") == pytest.approx(quality(first, "a"), abs=0.02)
    assert made.prior(0).source is Source.FILE


def test_a_folder_reads_benchmarks_by_either_name(tmp_path: Path) -> None:
    text = json.dumps({"benchmarks": {"a": {"overall": 0.8}}})
    assert quality(estimator(files=PriorFiles.read([write(tmp_path, "a.json", text)])), "a") == pytest.approx(0.8)


def test_a_seed_of_one_task_keeps_the_others() -> None:
    made = estimator()
    before = quality(made, "a")
    assert Learner(made).import_priors({"a": {"code": 0.95}}) == {"a": True}
    assert quality(made, "a", Task.CODE) == pytest.approx(0.95)
    assert quality(made, "a") == pytest.approx(before)
