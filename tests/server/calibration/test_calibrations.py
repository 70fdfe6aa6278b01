"""A calibration measures models within its budget, goes on after a stop, and moves the choice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from catalog.types import Json
from routing.facts import Complexity, Task
from server.calibration import examinee
from server.runtime import Runtime
from server.storage import runner
from tests.server.calibration.school import PLACE, Pupil, School, opened, reasoning_answers


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LOOK", 0.02)
    monkeypatch.setattr(runner, "REST", 0.02)
    monkeypatch.setattr(examinee, "LONGEST_WAIT", 0.0)


@pytest.fixture
async def bright() -> AsyncIterator[Pupil]:
    async with Pupil() as running:
        running.knows = reasoning_answers()
        yield running


@pytest.fixture
async def dull() -> AsyncIterator[Pupil]:
    async with Pupil() as running:
        yield running


@pytest.fixture
async def school(tmp_path: Path, bright: Pupil, dull: Pupil) -> AsyncIterator[School]:
    async with opened(tmp_path, bright, dull) as running:
        yield running


def quality(runtime: Runtime, model: str, task: Task) -> float:
    assert runtime.insight is not None
    return runtime.insight.estimator.expected_quality(model, task, Complexity.SIMPLE)


async def firsts(school: School, task: str) -> Counter[str]:
    body = {"messages": [{"role": "user", "content": "Hello"}], "routing": {"task": task, "high_stakes": True}}
    chosen: Counter[str] = Counter()
    for _ in range(40):
        chosen[(await school.client.post("/v1/route", json=body)).json()["model"]] += 1
    return chosen


async def test_the_model_that_knows_the_answers_is_chosen_for_that_task_afterwards(school: School) -> None:
    told = await school.calibrated()
    assert told["status"] == "completed"
    assert told["done"] == told["total"] == 24
    assert told["results"]["bright"]["priors"]["reasoning"]["score"] == 1.0
    assert told["results"]["dull"]["priors"]["reasoning"]["score"] == 0.0
    assert all(result["taken"] for result in told["results"].values())
    assert (await firsts(school, "reasoning"))["bright"] == 40


async def test_a_task_that_was_not_measured_keeps_its_prior(school: School) -> None:
    await firsts(school, "code")  # a first plan reads the rows
    before = {name: quality(school.runtime, name, Task.CODE) for name in ("bright", "dull")}
    await school.calibrated()
    for name, expected in before.items():
        assert quality(school.runtime, name, Task.CODE) == pytest.approx(expected, abs=0.02)


async def test_the_report_tells_where_a_measured_prior_comes_from(school: School) -> None:
    await school.calibrated(seed=7)
    report = (await school.client.get("/v1/admin/report")).json()
    told = {row["model"]: row for row in report["priors"]}["bright"]
    assert told["source"] == "imported"
    assert told["reason"].startswith("calibration of ")
    assert told["reason"].endswith("12 questions, seed 7")


async def test_a_second_calibration_starts_from_the_same_prior_as_the_first(school: School) -> None:
    first, second = await school.calibrated(), await school.calibrated()
    for told in (first, second):
        assert told["results"]["dull"]["priors"] == first["results"]["dull"]["priors"]


async def prior_of(school: School, model: str) -> Json:
    report = (await school.client.get("/v1/admin/report")).json()
    return next(row for row in report["priors"] if row["model"] == model)


async def test_a_calibration_of_other_tasks_keeps_what_an_earlier_one_measured(school: School) -> None:
    await school.calibrated(models=["dull"], tasks=["maths"], questions=12)
    measured = await prior_of(school, "dull")
    await school.calibrated(models=["dull"], tasks=["code"], questions=1)
    after = await prior_of(school, "dull")
    assert after["prior"] | {"code": 0} == measured["prior"] | {"code": 0}
    assert after["prior"]["maths"] < 0.3
    assert after["strength"] >= measured["strength"]
    assert "13 questions" in after["reason"]


async def test_other_questions_of_a_task_count_beside_the_earlier_ones_unless_it_is_measured_afresh(
    school: School,
) -> None:
    many = await school.calibrated(models=["dull"], tasks=["maths"], questions=12, seed=1)
    one = await school.calibrated(models=["dull"], tasks=["maths"], questions=1, seed=2)
    first, second = (told["results"]["dull"]["priors"]["maths"] for told in (many, one))
    assert (second["questions"], second["before"]) == (13, first["before"])
    assert second["prior"] < first["prior"]
    anew = await school.calibrated(models=["dull"], tasks=["maths"], questions=1, seed=3, fresh=True)
    assert anew["results"]["dull"]["priors"]["maths"]["questions"] == 1


async def test_a_few_questions_make_a_guess_hardly_firmer_and_more_make_it_firmer(school: School) -> None:
    guessed = (await prior_of(school, "dull"))["strength"]
    few = await school.calibrated(models=["dull"], tasks=["maths"], questions=1)
    many = await school.calibrated(models=["dull"], tasks=["maths"], questions=20)
    strengths = [told["results"]["dull"]["strength"] for told in (few, many)]
    assert guessed < strengths[0] < guessed + 1 < strengths[1] < 40
    assert (await prior_of(school, "dull"))["strength"] == strengths[1]


async def test_an_import_after_a_calibration_is_what_the_next_one_starts_from(school: School) -> None:
    await school.calibrated(models=["dull"], tasks=["maths"])
    imported = await school.client.post("/v1/admin/priors", json={"benchmarks": {"dull": {"overall": 0.6}}})
    assert imported.json()["taken"] == {"dull": True}
    told = await school.calibrated(models=["dull"], tasks=["maths"], questions=1, seed=5)
    maths = told["results"]["dull"]["priors"]["maths"]
    assert (maths["before"], maths["questions"]) == (0.6, 1)
    again = await school.calibrated(models=["dull"], tasks=["code"], questions=1)
    assert again["results"]["dull"]["priors"]["code"]["before"] == 0.6
    assert (await prior_of(school, "dull"))["prior"]["maths"] == pytest.approx(maths["prior"], abs=0.001)


async def test_what_was_measured_stays_when_its_record_is_gone(school: School) -> None:
    begun = await school.calibrated(models=["dull"], tasks=["maths"], questions=12)
    measured = (await prior_of(school, "dull"))["prior"]["maths"]
    await school.runtime.storage.records.delete("calibration", begun["id"])
    await school.calibrated(models=["dull"], tasks=["code"], questions=1)
    assert (await prior_of(school, "dull"))["prior"]["maths"] == measured


async def test_few_questions_move_a_prior_less_than_many(school: School) -> None:
    few = await school.calibrated(questions=1)
    many = await school.calibrated(questions=20, fresh=True)
    prior = [told["results"]["bright"]["priors"]["reasoning"]["prior"] for told in (few, many)]
    assert few["results"]["bright"]["priors"]["reasoning"]["before"] < prior[0] < prior[1] < 1.0


async def test_the_same_seed_asks_the_same_questions_and_another_one_others(school: School, dull: Pupil) -> None:
    asked = []
    for seed in (1, 1, 2):
        dull.asked.clear()
        await school.calibrated(seed=seed, models=["dull"], questions=12)
        asked.append(set(dull.asked))
    assert asked[0] == asked[1] != asked[2]


async def test_the_budget_is_never_overspent_and_a_larger_one_goes_on_where_it_ended(
    school: School, bright: Pupil, dull: Pupil
) -> None:
    bright.knows = {}
    first = await school.calibrated(budget=0.03)
    assert first["status"] == "out_of_budget"
    assert 0 < first["spent"] <= 0.03
    spent = sum(row.cost for row in await school.runtime.spend.usage("2000-01-01", "2999-01-01")) / 1e9
    assert spent == pytest.approx(first["spent"])
    kept = {
        name: [each for each in result["subjects"].values() if each["scores"]]
        for name, result in first["results"].items()
    }
    done = sum(len(each["scores"]) for subjects in kept.values() for each in subjects)
    assert done
    bright.asked.clear()
    dull.asked.clear()
    second = await school.calibrated(budget=5)
    assert second["status"] == "completed"
    questions = [prompt for pupil in (bright, dull) for prompt in pupil.asked if "list of words" not in prompt]
    assert len(questions) == second["total"] - done


async def test_the_whole_budget_is_there_for_one_model(school: School) -> None:
    asked = {"models": ["dull"], "tasks": ["maths"], "questions": 1}
    short = await school.calibrated(**asked, budget=0.00001)
    told = short["results"]["dull"]["out_of_budget"]
    assert short["status"] == "out_of_budget"
    assert "of the budget $0.000010 is left" in told.lower()
    needed = float(told.rpartition("needs $")[2].split()[0])
    enough = await school.calibrated(**asked, budget=needed)
    assert enough["results"]["dull"]["subjects"]["arithmetic.1"]["scores"] == [0.0]


async def test_what_one_model_does_not_use_of_the_budget_is_there_for_the_others(school: School) -> None:
    asked = {"tasks": ["maths"], "questions": 2}
    one = await school.calibrated(**asked, models=["dull"], fresh=True)
    both = await school.calibrated(**asked, fresh=True, budget=one["spent"] * 2 + 0.012)
    assert [result["out_of_budget"] for result in both["results"].values()] == [None, None]


async def test_nothing_is_asked_of_paid_models_without_a_budget(school: School, bright: Pupil) -> None:
    told = await school.calibrated(budget=0)
    assert told["status"] == "out_of_budget"
    assert bright.asked == []
    assert "allowed" in told["results"]["bright"]["out_of_budget"]


async def test_a_model_of_unknown_price_is_left_out_and_the_reason_told(
    tmp_path: Path, bright: Pupil, dull: Pupil
) -> None:
    async with opened(tmp_path, bright, dull, price=None) as school:
        told = await school.calibrated()
    assert bright.asked == []
    assert all("price" in each["skipped"] for each in told["results"]["bright"]["subjects"].values())


async def test_a_calibration_goes_on_after_a_restart_and_asks_no_finished_subject_again(
    school: School, bright: Pupil
) -> None:
    bright.gate = asyncio.Event()
    begun = await school.begin(models=["bright"], questions=3)
    async with asyncio.timeout(10):
        while len(bright.asked) < 5:  # the second subject has begun
            await asyncio.sleep(0.01)
    await school.die()
    bright.gate.set()
    first_three = set(bright.asked[:3])
    bright.asked.clear()
    school.revive()
    told = await school.until_ended(begun)
    assert told["status"] == "completed"
    assert told["done"] == told["total"] == 6
    assert not first_three & set(bright.asked)


async def test_a_cancelled_calibration_ends_and_another_can_begin(school: School, bright: Pupil) -> None:
    bright.gate = asyncio.Event()
    begun = await school.begin(models=["bright"])
    async with asyncio.timeout(10):
        while len(bright.asked) < 5:
            await asyncio.sleep(0.01)
    second = await school.client.post(PLACE, json={})
    assert second.status_code == 400
    assert begun["id"] in second.json()["error"]["message"]
    assert (await school.client.post(f"{PLACE}/{begun['id']}/cancel")).status_code == 200
    assert (await school.until_ended(begun))["status"] == "cancelled"
    assert (await school.client.post(f"{PLACE}/{begun['id']}/cancel")).status_code == 400
    bright.gate.set()
    assert (await school.calibrated(models=["bright"]))["status"] == "completed"


async def test_a_model_that_cannot_be_asked_is_left_out_and_the_others_are_measured(
    school: School, dull: Pupil
) -> None:
    dull.fails = 400
    told = await school.calibrated()
    assert told["status"] == "completed"
    assert all(each["skipped"] for each in told["results"]["dull"]["subjects"].values())
    assert told["results"]["dull"]["priors"] == {}
    assert told["results"]["bright"]["priors"]


async def test_an_observed_model_keeps_its_observations_above_the_new_prior(school: School) -> None:
    runtime = school.runtime
    assert runtime.insight is not None
    for _ in range(30):
        runtime.insight.estimator.observe_quality("dull", Task.REASONING, Complexity.SIMPLE, 1.0)
    told = await school.calibrated(models=["dull"])
    assert told["results"]["dull"]["taken"]
    prior = told["results"]["dull"]["priors"]["reasoning"]["prior"]
    assert quality(runtime, "dull", Task.REASONING) > prior + 0.2
    index = runtime.insight.estimator.index
    assert runtime.insight.estimator.observations(Task.REASONING)[index.rows["dull"]] == pytest.approx(30, abs=0.5)


async def test_questions_teach_speed_and_neither_quality_nor_the_length_of_answers(school: School) -> None:
    insight = school.runtime.insight
    assert insight is not None
    outputs = dict(insight.estimator._learned.output)
    told = await school.calibrated(models=["dull"])
    assert told["results"]["dull"]["speed"]
    assert insight.estimator._learned.output == outputs
    assert not insight.estimator._learned.evidence["dull"].hint_counts.any()
    assert insight.estimator._learned.paces["dull"].attempts > 0


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"models": ["no-such-model"]}, "no-such-model"),
        ({"tasks": ["cooking"]}, "cooking"),
        ({"budget": -1}, "budget"),
        ({"questions": 0}, "questions"),
        ({"seed": "x"}, "seed"),
        ({"models": ["gpt-5"]}, "gpt-5"),
        ({"tasks": ["speech"], "models": ["bright"]}, "needs the capability speak"),
        ({"tasks": ["summarise"], "models": ["bright"]}, "set model in [routing.judge]"),
    ],
)
async def test_a_request_that_cannot_be_met_is_refused_with_its_reason(
    school: School, body: Json, named: str
) -> None:
    answer = await school.client.post(PLACE, json=body)
    assert answer.status_code in (400, 404, 422), answer.text
    assert named in answer.text


async def test_every_answer_is_as_the_document_says(school: School, bright: Pupil) -> None:
    document = (await school.client.get("/openapi.json")).json()

    def check(answer: httpx.Response, path: str, method: str) -> Json:
        content = document["paths"][path][method]["responses"]["200"]["content"]["application/json"]
        told: Json = answer.json()
        Draft202012Validator({**content["schema"], "components": document["components"]}).validate(told)
        return told

    bright.gate = asyncio.Event()
    begun = check(await school.client.post(PLACE, json={"tasks": ["reasoning", "maths"]}), PLACE, "post")
    one = f"{PLACE}/{{calibration_id}}"
    check(await school.client.post(f"{PLACE}/{begun['id']}/cancel"), f"{one}/cancel", "post")
    bright.gate.set()
    await school.until_ended(begun)
    done = await school.calibrated()
    told = check(await school.client.get(f"{PLACE}/{done['id']}"), one, "get")
    assert told["results"]["bright"]["speed"]
    listed = check(await school.client.get(PLACE), PLACE, "get")
    assert [each["id"] for each in listed["data"]] == [done["id"], begun["id"]]


async def test_with_a_judge_summaries_and_translations_are_measured_beside_a_persons(
    tmp_path: Path, bright: Pupil, dull: Pupil
) -> None:
    bright.reply = "On reflection.\nB"  # the judge, too: it prefers the second text in either order
    async with opened(tmp_path, bright, dull, routing={"judge": {"model": "bright"}}) as school:
        told = await school.calibrated(tasks=["summarise"], questions=2, budget=5)
    assert told["judge"] == "bright"
    assert told["results"].keys() == {"dull"}, "a judge does not judge itself"
    assert told["results"]["dull"]["subjects"]["summaries.1"]["scores"] == [0.5, 0.5]
    judged = [prompt for prompt in bright.asked if "<answer A" in prompt]
    assert len(judged) == 4
    assert not any("dull" in prompt for prompt in judged)


async def test_a_judge_that_alone_is_named_is_told_that_it_does_not_judge_itself(
    tmp_path: Path, bright: Pupil, dull: Pupil
) -> None:
    async with opened(tmp_path, bright, dull, routing={"judge": {"model": "bright"}}) as school:
        answer = await school.client.post(PLACE, json={"models": ["bright"], "tasks": ["summarise"]})
    assert "'bright' is the judge, which does not judge itself" in answer.json()["error"]["message"]


async def test_a_name_of_several_replicas_measures_each(tmp_path: Path, bright: Pupil, dull: Pupil) -> None:
    async with opened(tmp_path, bright, dull, name="twin") as school:
        told = await school.begin(models=["twin"], tasks=["maths"], questions=1)
        assert set((await school.until_ended(told))["results"]) == {"bright", "dull"}


async def test_only_administrators_calibrate(tmp_path: Path, bright: Pupil, dull: Pupil) -> None:
    keys: dict[str, Any] = {"api_keys": ["plain"], "admin_keys": ["chief"]}
    async with opened(tmp_path, bright, dull, **keys) as school:
        client: httpx.AsyncClient = school.client
        refused = await client.post(PLACE, json={}, headers={"authorization": "Bearer plain"})
        assert refused.status_code == 403
        chief = {"authorization": "Bearer chief"}
        begun = await client.post(PLACE, json={"tasks": ["reasoning", "maths"], "questions": 1}, headers=chief)
        assert begun.status_code == 200
        assert (await client.get(PLACE, headers=chief)).json()["data"][0]["id"] == begun.json()["id"]
