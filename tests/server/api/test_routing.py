"""Routes explained, outcomes reported and usage read over HTTP."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import InvalidRequest
from catalog.index import Index
from catalog.model import Capability
from catalog.types import Json
from routing.accounts.virtual_keys import KeyLimits, Rate
from routing.beliefs.estimator import Estimator
from routing.calling.traces import Traces, TraceSettings
from routing.clock import SystemClock
from routing.facts import Complexity, Confidence, Intent, Task
from server.api.management.route import evidence_of, prior_of, reading_of
from server.app import create_app
from server.peers import Verdict, answer_peer, learn
from tests.routing.catalogue import chat, remote
from tests.server.api.test_chat import BODY, PATH
from tests.server.conftest import Gateway, Start, settings
from tests.server.edge.test_gate import ADMIN, BEARER, KEYS
from tests.server.fakes import fake_runtime
from tests.server.test_bad_input import error


async def test_a_route_is_explained_and_nothing_is_executed(gateway: Gateway) -> None:
    body = (await gateway.client.post("/v1/route", json={**BODY, "model": "auto:fast"})).json()
    assert body["model"] == "parrot"
    assert body["request"]["mode"] == "fast"
    assert body["request"]["capability"] == "chat"
    assert body["candidates"][0]["quality"] == 0.8
    assert body["candidates"][0]["cost_dollars"] == 0.0
    assert body["excluded"] == [
        {"model": "cloud/oracle", "code": "no_key", "reason": "no key is set for the endpoint 'cloud'"}
    ]
    assert not gateway.backend.requests


@pytest.mark.parametrize(
    ("body", "capability"),
    [
        ({"prompt": "a"}, "completion"),
        ({"input": "a"}, "embed"),
        ({"query": "q", "documents": ["a"]}, "rerank"),
        ({"input": "a", "labels": ["b", "c"]}, "classify"),
        ({"input": "a", "voice": "robin"}, "speak"),
        ({"prompt": "a", "capability": "image"}, "image"),
        ({"messages": BODY["messages"]}, "chat"),
    ],
)
async def test_a_route_is_explained_for_every_kind_of_request(
    gateway: Gateway, body: Any, capability: str
) -> None:
    answer = await gateway.client.post("/v1/route", json=body)
    assert answer.json()["request"]["capability"] == capability
    assert "capability" not in gateway.dispatcher.facts[-1].parameters


TOLD: Json = {"role": "user", "content": "translate hallo"}


@pytest.mark.parametrize(
    ("body", "endpoint"),
    [
        ({"input": "translate hallo", "max_output_tokens": 50}, "/v1/responses"),
        ({"input": "translate hallo", "instructions": "Be brief."}, "/v1/responses"),
        ({"input": [TOLD]}, "/v1/responses"),
        ({"input": "translate hallo", "capability": "chat"}, "/v1/responses"),
        ({"messages": [TOLD], "max_tokens": 5}, "/v1/chat/completions"),
        ({"messages": [TOLD], "max_tokens": 5, "system": "Be brief."}, "/v1/messages"),
        ({"messages": [TOLD], "max_tokens": 5, "tools": [{"name": "f", "input_schema": {}}]}, "/v1/messages"),
    ],
)
async def test_a_route_reads_a_chat_in_each_of_its_languages_and_says_which(
    gateway: Gateway, body: Json, endpoint: str
) -> None:
    answer = await gateway.client.post("/v1/route", json=body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["endpoint"], told["request"]["capability"], told["warnings"]) == (endpoint, "chat", [])


async def test_the_input_of_a_named_model_that_only_chats_is_that_of_a_response(start: Start) -> None:
    async with start() as gateway:
        told = (await gateway.client.post("/v1/route", json={"model": "cloud/oracle", "input": "hallo"})).json()
    assert (told["endpoint"], told["warnings"]) == ("/v1/responses", [])


async def test_a_route_remarks_on_what_may_be_meant_otherwise(gateway: Gateway) -> None:
    either = (await gateway.client.post("/v1/route", json={"input": "hallo"})).json()
    assert either["endpoint"] == "/v1/embeddings"
    assert "capability: 'chat'" in either["warnings"][0]
    told = (await gateway.client.post("/v1/route", json={"input": ["hallo"], "dimensions": 5})).json()
    assert told["warnings"] == []
    misspelt = (await gateway.client.post("/v1/route", json={**BODY, "max_token": 5, "top_k": 3})).json()
    (warning,) = misspelt["warnings"]
    assert "'max_token'" in warning
    assert "did you mean 'max_tokens'" in warning


@pytest.mark.parametrize(
    ("endpoint", "capability"),
    [
        ("/v1/images/generations", "image"),
        ("images/generations", "image"),
        ("/v1/videos", "video"),
        ("/v1/completions", "completion"),
    ],
)
async def test_a_route_is_explained_for_the_endpoint_that_is_named(
    gateway: Gateway, endpoint: str, capability: str
) -> None:
    answer = await gateway.client.post("/v1/route", json={"prompt": "a cat", "endpoint": endpoint})
    told = answer.json()
    assert told["endpoint"].endswith(endpoint), answer.text
    assert (told["request"]["capability"], told["warnings"]) == (capability, [])
    assert "endpoint" not in gateway.dispatcher.facts[-1].parameters


@pytest.mark.parametrize("more", [{"endpoint": "/v1/images/edits"}, {"endpoint": 7}, {"endpoint": ""},
                                  {"endpoint": "/v1/videos", "capability": "image"}])  # fmt: skip
async def test_a_route_of_an_endpoint_that_is_not_explained_is_refused(gateway: Gateway, more: Json) -> None:
    answer = await gateway.client.post("/v1/route", json={"prompt": "a cat", **more})
    assert answer.json()["error"]["param"] == "endpoint"
    error(answer, 400, "invalid_request")


@pytest.mark.parametrize("body", [{}, {"capability": "fly", "messages": []}, {"capability": 7}, {"messages": []}])
async def test_a_route_of_nothing_is_refused(gateway: Gateway, body: Any) -> None:
    error(await gateway.client.post("/v1/route", json=body), 400, "invalid_request")


def _learned() -> Estimator:
    made = Estimator(writer="test")
    rows = [remote("measured", benchmarks={"overall": 0.8}), remote("guessed", benchmarks={})]
    made.align(Index(rows, version=1))
    for _ in range(3):
        made.observe_quality("measured", Task.CODE, Complexity.SIMPLE, 1.0)
    made.hint_quality("guessed", Task.CODE, Complexity.SIMPLE, 1.0, 0.5)
    return made


def test_a_route_tells_of_each_model_what_was_believed_first_and_what_was_observed_since() -> None:
    made, facts = _learned(), chat(task=Task.CODE)
    measured, guessed = prior_of(made, "measured", facts), prior_of(made, "guessed", facts)
    assert measured is not None
    assert guessed is not None
    assert measured["source"] == "benchmarks"
    assert measured["reason"]
    assert guessed["source"] != "benchmarks"
    assert guessed["strength"] < measured["strength"], "little is known of it"
    assert evidence_of(made, "measured", facts) == {"reports": 3.0, "signs": 0.0}
    assert evidence_of(made, "guessed", facts) == {"reports": 0.0, "signs": 0.5}
    assert evidence_of(made, "measured", chat(task=Task.CHAT)) == {"reports": 0.0, "signs": 0.0}
    assert prior_of(made, "a model that left", facts) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"confidence": Confidence(0.93, 0.8)}, "its words read as maths (93% sure), complex (80% sure)"),
        ({"confidence": Confidence(0.1, 0.8)}, "its words say no task for sure (10%), so it counts as maths"),
        ({"confidence": Confidence(1.0, 0.8)}, "its parts (tools, pictures, a schema or labels) make it maths"),
        ({"confidence": Confidence(0.9, 0.0)}, "complex by its size"),
        ({"intent": Intent(task=Task.MATHS), "confidence": Confidence(1.0, 0.8)}, "the caller names the task"),
        ({"requested": "parrot"}, "a model is named: the words are not read"),
        ({"capability": Capability.EMBED}, "the request is for embed: its words are not read"),
    ],
)
def test_a_route_says_in_words_why_a_request_counts_as_its_task(changes: Json, words: str) -> None:
    facts = replace(chat(task=Task.MATHS, complexity=Complexity.COMPLEX), **{"requested": "auto", **changes})
    assert words in reading_of(facts)


async def test_an_outcome_is_reported_once_and_teaches(gateway: Gateway) -> None:
    answered = await gateway.client.post(PATH, json=BODY)
    trace = answered.headers["x-roundhouse-trace"]
    shown = (await gateway.client.get(f"/v1/traces/{trace}")).json()
    assert shown["answered_by"] == "parrot"
    assert shown["status"] == "done"
    report = await gateway.client.post("/v1/outcomes", json={"trace": trace, "accepted": False, "note": "wrong"})
    taught = report.json()
    assert taught["model"] == "parrot"
    assert taught["expected_quality"]["after"] < taught["expected_quality"]["before"]
    error(await gateway.client.post("/v1/outcomes", json={"trace": trace, "score": 1}), 400, "invalid_request")


async def test_a_second_report_is_refused_alike_by_every_process(gateway: Gateway) -> None:
    trace = (await gateway.client.post(PATH, json=BODY)).headers["x-roundhouse-trace"]
    served = gateway.services.runtime
    assert served is not None

    class Others:
        async def ask(self, question: Any) -> Any:
            return await answer_peer(served, question)

        async def ask_all(self, question: Any) -> list[Any]:
            return [await self.ask(question)]

    other = replace(served, traces=Traces(TraceSettings(), SystemClock()), peers=Others())
    verdict = Verdict(trace=trace, score=1.0, key="", admin=True)
    assert await learn(other, verdict) is not None
    for here in (other, served):
        with pytest.raises(InvalidRequest, match="reported before") as refused:
            await learn(here, verdict)
        assert refused.value.param == "trace"


@pytest.mark.parametrize("body", [{"score": 0.5, "accepted": True}, {}, {"score": 2}, {"score": "high"}])
async def test_a_report_is_a_score_or_a_verdict(gateway: Gateway, body: Any) -> None:
    error(await gateway.client.post("/v1/outcomes", json={"trace": "t", **body}), 400, "invalid_request")


async def test_unknown_traces(gateway: Gateway) -> None:
    error(await gateway.client.get("/v1/traces/nothing"), 404, "not_found")
    error(await gateway.client.post("/v1/outcomes", json={"trace": "nothing", "score": 1}), 404, "not_found")


async def test_another_keys_trace_does_not_exist(start: Start) -> None:
    async with start(api_keys="caller-key,other-key", admin_keys="admin-key") as gateway:
        answered = await gateway.client.post(PATH, json=BODY, headers=BEARER)
        path = f"/v1/traces/{answered.headers['x-roundhouse-trace']}"
        assert (await gateway.client.get(path, headers=BEARER)).status_code == 200
        assert (await gateway.client.get(path, headers=ADMIN)).status_code == 200
        error(await gateway.client.get(path, headers={"x-api-key": "other-key"}), 404, "not_found")


async def test_a_trace_and_a_route_name_no_model_that_the_key_may_not_use(start: Start) -> None:
    async with start(**KEYS) as gateway:
        made = await gateway.keys.create("app", models=("parrot",))
        headers = {"x-api-key": made.secret}
        answered = await gateway.client.post(PATH, json=BODY, headers=headers)
        path = f"/v1/traces/{answered.headers['x-roundhouse-trace']}"
        route = (await gateway.client.post("/v1/route", json=BODY, headers=headers)).text
        assert "oracle" not in (await gateway.client.get(path, headers=headers)).text + route
        assert "oracle" in (await gateway.client.get(path, headers=ADMIN)).text


async def test_a_key_bound_to_an_alias_may_use_that_alias(start: Start) -> None:
    async with start(**KEYS) as gateway:
        made = await gateway.keys.create("app", models=("Polly",))
        headers = {"x-api-key": made.secret}
        for model in ("polly", "auto", "parrot"):
            answer = await gateway.client.post(PATH, json={**BODY, "model": model}, headers=headers)
            assert answer.status_code == 200, model
        assert gateway.dispatcher.facts[-1].allowed == ("Polly", "parrot")
        refused = await gateway.client.post(PATH, json={**BODY, "model": "cloud/oracle"}, headers=headers)
        error(refused, 403, "permission_denied")
        listed = (await gateway.client.get("/v1/models", headers=headers)).json()["data"]
        assert [row["id"] for row in listed if not row.get("router")] == ["parrot"]


async def test_priors_are_for_administrators(start: Start) -> None:
    body = {"benchmarks": {"parrot": {"chat": 0.9}}}
    async with start(**KEYS) as gateway:
        error(await gateway.client.post("/v1/admin/priors", json=body, headers=BEARER), 403, "permission_denied")
        taken = await gateway.client.post("/v1/admin/priors", json=body, headers=ADMIN)
        assert taken.json()["taken"] == {"parrot": True}
        wrong = {"benchmarks": {"parrot": {"juggling": 0.9}}}
        error(await gateway.client.post("/v1/admin/priors", json=wrong, headers=ADMIN), 400, "invalid_request")
        for both in (
            {},
            {**body, "weigth": 1},
            {**body, "weight": 1.0},
            {**body, "models": {"parrot": {}}},
            {"models": {"parrot": {"quality": {"strength": 0}}}},
        ):
            error(await gateway.client.post("/v1/admin/priors", json=both, headers=ADMIN), 400, "invalid_request")


async def test_a_profile_that_one_server_exports_another_imports_and_reports(start: Start) -> None:
    async with start(**KEYS) as gateway:
        error(await gateway.client.get("/v1/admin/priors", headers=BEARER), 403, "permission_denied")
        body = {"benchmarks": {"parrot": {"chat": 0.9, "overall": 0.3}}, "source": "a test"}
        await gateway.client.post("/v1/admin/priors", json=body, headers=ADMIN)
        profile = (await gateway.client.get("/v1/admin/priors", headers=ADMIN)).json()
    assert profile["models"]["parrot"]["quality"]["prior"]["chat"] == pytest.approx(0.9)
    async with start(**KEYS) as gateway:
        sent = {**profile, "source": "the first server"}
        taken = await gateway.client.post("/v1/admin/priors", json=sent, headers=ADMIN)
        assert taken.json()["taken"] == {"parrot": True}
        again = (await gateway.client.get("/v1/admin/priors", headers=ADMIN)).json()
        assert again["models"]["parrot"]["quality"]["prior"] == profile["models"]["parrot"]["quality"]["prior"]
        assert again["models"]["parrot"]["quality"]["imported"] == "the first server"


async def test_an_import_takes_what_a_file_of_priors_says_and_tells_unknown_names(
    start: Start,
) -> None:
    async with start(**KEYS) as gateway:

        async def sent(**body: Json) -> Json:
            answer = await gateway.client.post("/v1/admin/priors", json=body, headers=ADMIN)
            assert answer.status_code == 200, answer.text
            told: Json = answer.json()
            return told

        told = await sent(models={"POLLY": {"code": 0.9}, "nosuch": {"overall": 0.3}})
        assert told["taken"] == {"POLLY": True, "nosuch": True}
        assert told["unknown_models"] == ["nosuch"]
        profile = (await gateway.client.get("/v1/admin/priors", headers=ADMIN)).json()
        assert profile["models"]["parrot"]["quality"]["prior"]["code"] == pytest.approx(0.9)
        assert (await sent(**profile))["unknown_models"] == ["nosuch"]
        twice = await sent(models={"parrot": {"code": 0.2}, "Parrot": {"code": 0.3}, "polly": {"code": 0.4}})
        assert twice["unknown_models"] == []


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"mmlu": 0.9}, "'mmlu' is no task"),
        ({"overall": 2}, "at most 1"),
        ({"overall": 0.5, "latency_p50_ms": 900}, "leave out latency_p50_ms"),
        ({"quality": {"strength": 0}}, "quality"),
    ],
)
async def test_an_import_of_other_figures_is_refused_by_name(start: Start, model: Json, told: str) -> None:
    async with start(**KEYS) as gateway:
        for name in ("models", "benchmarks"):
            answer = await gateway.client.post("/v1/admin/priors", json={name: {"parrot": model}}, headers=ADMIN)
            assert told in error(answer, 400, "invalid_request")["message"]


async def test_usage_as_json_and_csv(gateway: Gateway) -> None:
    report = (await gateway.client.get("/v1/usage?by=model")).json()
    assert report["object"] == "usage.report"
    assert report["total"]["calls"] == 0
    csv = await gateway.client.get("/v1/usage?format=csv&start=2026-01-01&end=2026-01-31")
    assert csv.headers["content-type"].startswith("text/csv")
    assert csv.text.startswith("day,model,key,calls")


@pytest.mark.parametrize(
    "query", ["start=yesterday", "start=2020-01-01", "by=mood", "format=xml", "end=2026-02-30"]
)
async def test_wrong_questions_about_usage(gateway: Gateway, query: str) -> None:
    error(await gateway.client.get(f"/v1/usage?{query}"), 400, "invalid_request")


@pytest.mark.parametrize(
    ("path", "name", "told"),
    [
        ("/v1/usage?form=csv", "form", "Known: start, end, by, format"),
        ("/v1/admin/report?days=3", "days", "has none"),
        ("/v1/admin/workers/parrot/log?tail=3", "tail", "Known: lines"),
        ("/v1/traces/some?key=a", "key", "has none"),
    ],
)
async def test_an_unknown_query_parameter_of_our_own_paths_is_refused(
    gateway: Gateway, path: str, name: str, told: str
) -> None:
    refused = error(await gateway.client.get(path), 400, "invalid_request")
    assert refused["param"] == name
    assert told in refused["message"]


async def test_a_report_that_ends_before_it_starts_says_so(gateway: Gateway) -> None:
    answer = await gateway.client.get("/v1/usage?start=2026-02-01&end=2026-01-01")
    assert "after 'end'" in error(answer, 400, "invalid_request")["message"]
    answer = await gateway.client.get("/v1/usage?start=2999-01-01")
    assert "after today" in error(answer, 400, "invalid_request")["message"]


async def test_a_virtual_key_is_bound_to_its_models_and_limits(start: Start) -> None:
    async with start() as gateway:
        keys = gateway.keys
        made = await keys.create("app", models=("parrot",))
        headers = {"authorization": f"Bearer {made.secret}"}
        assert (await gateway.client.post(PATH, json=BODY)).status_code == 401, "a first key closes the door"
        assert (await gateway.client.post(PATH, json=BODY, headers=headers)).status_code == 200
        assert (
            await gateway.client.post(PATH, json={**BODY, "model": "polly"}, headers=headers)
        ).status_code == 200
        refused = await gateway.client.post(PATH, json={**BODY, "model": "cloud/oracle"}, headers=headers)
        error(refused, 403, "permission_denied")
        await gateway.client.post(PATH, json={**BODY, "model": "auto"}, headers=headers)
        assert gateway.dispatcher.facts[-1].allowed == ("parrot",)
        listed = (await gateway.client.get("/v1/models", headers=headers)).json()["data"]
        assert "cloud/oracle" not in {row["id"] for row in listed}
        await keys.revoke(made.info.id)
        error(await gateway.client.post(PATH, json=BODY, headers=headers), 401, "invalid_api_key")


async def test_a_virtual_keys_requests_are_counted(start: Start) -> None:
    async with start() as gateway:
        made = await gateway.keys.create("app", limits=KeyLimits(requests=Rate(day=2)))
        headers = {"x-api-key": made.secret}
        statuses = [
            (await gateway.client.post(PATH, json={**BODY, "stream": stream}, headers=headers)).status_code
            for stream in (False, True, True)
        ]
        assert statuses == [200, 200, 429]


def test_creating_an_app_writes_no_state(tmp_path: Path) -> None:
    create_app(settings(), runtime=fake_runtime(tmp_path)[0])
    assert list(tmp_path.iterdir()) == []


async def test_an_explanation_says_when_the_request_will_not_fit(gateway: Gateway) -> None:
    def body(words: int) -> dict[str, Any]:
        return {"model": "parrot", "messages": [{"role": "user", "content": "word " * words}]}

    short = (await gateway.client.post("/v1/route", json=body(10))).json()
    assert (short["candidates"][0]["fits"], short["candidates"][0]["context_window"]) == (True, 4096)
    assert short["warnings"] == []
    long = (await gateway.client.post("/v1/route", json=body(8000))).json()
    assert long["candidates"][0]["fits"] is False
    assert "holds 4096" in long["warnings"][0]
    assert str(long["request"]["prompt_tokens"] + 256) in long["warnings"][0]
