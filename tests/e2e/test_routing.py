"""Routing of a real server in front of fake providers: fallback, learning, secrets and discovery."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.providers import endpoint, model, providers
from tests.e2e.serving import Served, eventually, served
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import NO_FAULT, Fault

SECRET = "sk-planted-4f9c1e77d2"
MARKER = "the-heron-flies-at-dawn"
FREE = {"input": 0.0, "output": 0.0}
ASK = [{"role": "user", "content": "Say something."}]
GREETING = [{"role": "user", "content": "Hi, how are you today?"}]
PERSON = {
    "type": "json_schema",
    "json_schema": {
        "name": "person",
        "schema": {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]},
    },
}


@contextmanager
def serving(folder: Path, *tables: str, **environment: str) -> Iterator[Served]:
    """A server that knows these rows and has a data folder of its own, without starter models."""
    (folder / "roundhouse.toml").write_text("\n".join(tables))
    with served(folder, environment={"ROUNDHOUSE_DATA_DIR": str(folder / "data"), **environment}) as running:
        yield running


@contextmanager
def calling(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.v1, trust_env=False, timeout=30) as client:
        yield client


def events(text: str) -> list[Any]:
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in data]


def trace_of(client: httpx.Client, response: httpx.Response) -> dict[str, Any]:
    name = response.headers["x-roundhouse-trace"]

    def done() -> bool:
        return bool(client.get(f"/traces/{name}").json()["status"] != "running")

    assert eventually(done, within=30)
    found: dict[str, Any] = client.get(f"/traces/{name}").json()
    return found


# ---- replicas


@pytest.fixture(scope="module")
def twins() -> Iterator[tuple[FakeOpenAI, FakeOpenAI]]:
    a, b = FakeOpenAI(), FakeOpenAI()
    a.reply, b.reply = "From a.", "From b."
    with providers(a, b):
        yield a, b


@pytest.fixture(scope="module")
def replicated(twins: tuple[FakeOpenAI, FakeOpenAI], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    a, b = twins
    tables = (
        "[breakers]\nconsecutive_failures = 1000000\nwindow_minimum = 1000000\n",
        endpoint("a", a),
        endpoint("b", b),
        model("a/twin", "fake-chat", at="a", aliases=["twin"], price=FREE),
        model("b/twin", "fake-chat", at="b", aliases=["twin"], price=FREE),
    )
    with serving(tmp_path_factory.mktemp("replicated"), *tables) as running:
        yield running


@pytest.fixture
def healthy(twins: tuple[FakeOpenAI, FakeOpenAI]) -> Iterator[tuple[FakeOpenAI, FakeOpenAI]]:
    yield twins
    for fake in twins:
        fake.fault = NO_FAULT


@pytest.mark.parametrize(
    "fault", [Fault(status=503), Fault(die_after=0), Fault(cut_after=0)], ids=["503", "hangs-up", "says-nothing"]
)
@pytest.mark.parametrize("name", ["twin", "auto"])
def test_with_one_of_two_replicas_failing_every_stream_succeeds_and_the_other_is_credited(
    replicated: Served, healthy: tuple[FakeOpenAI, FakeOpenAI], fault: Fault, name: str
) -> None:
    a, b = healthy
    a.fault = fault
    before = len(a.calls), len(b.calls)
    with calling(replicated) as client:

        def ask(number: int) -> dict[str, Any]:
            messages = [{"role": "user", "content": f"Say something, number {number}."}]
            body = {"model": name, "messages": messages, "stream": True}
            response = client.post("/chat/completions", json=body)
            assert response.status_code == 200, response.text
            told = events(response.text)
            assert told[-1] == "[DONE]"
            text = "".join(c["choices"][0]["delta"].get("content") or "" for c in told[:-1])
            assert text == "From b."
            assert {c["model"] for c in told[:-1]} == {"b/twin"}
            assert response.headers["x-roundhouse-model"] == "b/twin"
            return trace_of(client, response)

        with ThreadPoolExecutor(10) as threads:
            traces = list(threads.map(ask, range(100)))

    assert {trace["answered_by"] for trace in traces} == {"b/twin"}
    attempts = [(each["model"], each["result"]) for trace in traces for each in trace["attempts"]]
    assert Counter(attempts)["b/twin", "success"] == 100
    assert set(attempts) <= {("b/twin", "success"), ("a/twin", "failed")}
    for trace in traces:
        assert [each["attempt"] for each in trace["attempts"]] == list(range(1, len(trace["attempts"]) + 1))
    assert len(attempts) == len(a.calls) - before[0] + len(b.calls) - before[1]


def test_after_the_first_token_comes_an_error_event_and_never_a_second_answer(
    replicated: Served, healthy: tuple[FakeOpenAI, FakeOpenAI]
) -> None:
    a, b = healthy
    a.fault = b.fault = Fault(die_after=2)
    before = len(a.calls) + len(b.calls)
    with calling(replicated) as client:
        response = client.post("/chat/completions", json={"model": "twin", "messages": ASK, "stream": True})
        told = events(response.text)
        trace = trace_of(client, response)
    assert told[-1]["error"]["code"] == "stream_broken"
    assert "[DONE]" not in told
    assert len(a.calls) + len(b.calls) == before + 1
    assert [each["result"] for each in trace["attempts"]] == ["failed"]


def test_an_id_and_a_provider_before_the_name_mean_one_replica(
    replicated: Served, healthy: tuple[FakeOpenAI, FakeOpenAI]
) -> None:
    with openai.OpenAI(base_url=replicated.v1, api_key="none", max_retries=0) as client:
        for name in ("a/twin", "b/twin"):
            answer = client.chat.completions.create(model=name, messages=ASK)  # type: ignore[arg-type]
            assert answer.model == name


def test_an_invalid_answer_escalates_to_the_other_replica_before_anybody_saw_it(
    replicated: Served, healthy: tuple[FakeOpenAI, FakeOpenAI]
) -> None:
    a, _ = healthy
    body = {"model": "twin", "messages": ASK, "response_format": PERSON, "stream": True}
    a.keeps_form = False
    try:
        with calling(replicated) as client:
            answers = [
                client.post("/chat/completions", json=body | {"routing": {"escalate": True}}) for _ in range(12)
            ]
            traces = [trace_of(client, each) for each in answers]
            plain = [client.post("/chat/completions", json=body) for _ in range(6)]
            unescalated = [trace_of(client, each) for each in plain]
    finally:
        a.keeps_form = True
    for response in answers:
        told = events(response.text)
        assert told[-1] == "[DONE]"
        text = "".join(c["choices"][0]["delta"].get("content") or "" for c in told[:-1])
        assert json.loads(text) == {"age": 7}
    verdicts = {(each["model"], each["valid"]) for trace in traces for each in trace["attempts"]}
    assert ("b/twin", True) in verdicts
    assert verdicts <= {("b/twin", True), ("a/twin", False)}
    assert all(len(trace["attempts"]) == 1 for trace in unescalated)
    assert {each["valid"] for trace in unescalated for each in trace["attempts"]} <= {True, False}


# ---- explaining and learning


def test_route_explains_a_choice_so_that_a_stranger_understands(replicated: Served) -> None:
    with calling(replicated) as client:
        told = client.post("/route", json={"messages": GREETING}).json()
    assert told["model"] in {"a/twin", "b/twin"}
    assert (told["request"]["task"], told["request"]["complexity"]) == ("chat", "simple")
    assert told["request"]["confidence"]["task"] > 0.5
    for part in (told["model"], "chat (simple)", "expected quality", "observations", "could answer", "could not"):
        assert part in told["reason"]
    assert {each["model"] for each in told["candidates"]} == {"a/twin", "b/twin"}
    for each in told["candidates"]:
        assert 0 <= each["quality"] <= 1
        assert each["latency_seconds"] >= 0
        assert each["cost_dollars"] == 0
    excluded = {each["model"]: each for each in told["excluded"]}
    assert excluded["smollm2-135m-instruct"]["code"] == "not_pulled"
    assert excluded["gpt-5-mini"]["code"] == "no_key"
    assert "no key is set" in excluded["gpt-5-mini"]["reason"]
    assert all(each["reason"] for each in excluded.values())


def test_outcomes_posted_for_one_task_move_the_choice_for_it_and_not_for_others(
    tmp_path: Path, twins: tuple[FakeOpenAI, FakeOpenAI]
) -> None:
    a, b = twins
    tables = (
        endpoint("a", a),
        endpoint("b", b),
        model("a/m", "fake-chat", at="a", price=FREE, benchmarks={"overall": 0.75}),
        model("b/m", "fake-chat", at="b", price=FREE, benchmarks={"overall": 0.65}),
    )

    with serving(tmp_path, *tables) as server, calling(server) as client:

        def quality(task: str) -> dict[str, float]:
            told = client.post("/route", json={"messages": ASK, "routing": {"task": task}}).json()
            return {each["model"]: each["quality"] for each in told["candidates"]}

        def share_of_a(task: str, times: int = 100) -> float:
            body = {"messages": ASK, "routing": {"task": task}}
            chosen = Counter(client.post("/route", json=body).json()["model"] for _ in range(times))
            return chosen["a/m"] / times

        def teach(task: str, best: str, times: int = 80) -> None:
            body = {"model": "auto", "messages": ASK, "routing": {"task": task}}
            for _ in range(times):
                response = client.post("/chat/completions", json=body)
                accepted = response.headers["x-roundhouse-model"] == best
                report = {"trace": response.headers["x-roundhouse-trace"], "accepted": accepted}
                assert client.post("/outcomes", json=report).json()["task"] == task

        for name in ("a/m", "b/m"):  # equal measured speeds, so that speed does not affect the choices below
            for _ in range(5):
                client.post("/chat/completions", json={"model": name, "messages": ASK})
        before = quality("summarise")
        assert before["a/m"] > before["b/m"] + 0.05
        assert share_of_a("classify") > 0.7
        assert share_of_a("summarise") > 0.7
        teach("classify", "b/m")
        assert quality("classify")["b/m"] > quality("classify")["a/m"] + 0.1
        assert share_of_a("classify") < 0.3
        assert quality("summarise") == pytest.approx(before, abs=0.03), (
            "reports of one task say nothing of another"
        )
        assert share_of_a("summarise") > 0.7


def test_calls_of_one_task_teach_a_speed_that_moves_no_other_tasks_choice(
    tmp_path: Path, twins: tuple[FakeOpenAI, FakeOpenAI]
) -> None:
    a, b = twins
    tables = (
        "[routing]\nunnoticed = 30.0\n",  # a first call on a busy machine may be slower than the default allows
        endpoint("a", a),
        endpoint("b", b),
        model("a/m", "fake-chat", at="a", price=FREE),
        model("b/m", "fake-chat", at="b", price=FREE),
    )
    with serving(tmp_path, *tables) as server, calling(server) as client:

        def chosen(task: str) -> Counter[str]:
            body = {"messages": ASK, "routing": {"task": task}}
            return Counter(client.post("/route", json=body).json()["model"] for _ in range(20))

        others = ("chat", "summarise", "extract")
        before = {task: chosen(task) for task in (*others, "code")}
        assert len(before["code"]) == 1, "nothing is known, so the first of equals is chosen"
        [worse] = before["code"]
        for _ in range(40):
            response = client.post(
                "/chat/completions", json={"messages": ASK, "routing": {"task": "code"}, "model": "auto"}
            )
            good = response.headers["x-roundhouse-model"] != worse
            client.post("/outcomes", json={"trace": response.headers["x-roundhouse-trace"], "accepted": good})
        assert worse not in chosen("code")
        assert {task: chosen(task) for task in others} == {task: before[task] for task in others}


# ---- secrets


def test_a_planted_key_and_a_prompt_appear_nowhere(tmp_path: Path, twins: tuple[FakeOpenAI, FakeOpenAI]) -> None:
    a, b = twins
    a.key = SECRET
    b.key = "another"  # so that b refuses with OpenAI's message, which repeats the key
    tables = (
        '[traces]\npersist = true\n[log]\nlevel = "debug"\n',
        endpoint("a", a, key_env=["PLANTED_KEY"]),
        endpoint("b", b, key_env=["PLANTED_KEY"]),
        model("a/m", "fake-chat", at="a", price=FREE),
        model("b/m", "fake-chat", at="b", price=FREE),
    )
    seen: list[str] = []
    try:
        with serving(tmp_path, *tables, PLANTED_KEY=SECRET) as server, calling(server) as client:
            ask = [{"role": "user", "content": MARKER}]
            for name in ("a/m", "b/m", "auto"):
                for stream in (False, True):
                    response = client.post(
                        "/chat/completions", json={"model": name, "messages": ask, "stream": stream}
                    )
                    seen += [response.text, str(response.headers)]
                    trace = response.headers.get("x-roundhouse-trace")
                    if trace:
                        seen.append(client.get(f"/traces/{trace}").text)
            assert any(SECRET in str(call.headers) for call in a.calls), "the key was not used at all"
            seen.append(client.post("/route", json={"model": "auto", "messages": ask}).text)
            for path in ("/models", "/usage", "/admin/report", "/admin/workers", "/models/a/m"):
                seen.append(client.get(path).text)
            seen.append(httpx.get(f"{server.url}/metrics", trust_env=False).text)
        seen.append(server.log.read_text(errors="replace"))
        stored = [path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()]
    finally:
        a.key = b.key = None
    assert any("keys_rejected" in text or "upstream" in text for text in seen)
    for text in seen:
        assert SECRET not in text
        assert MARKER not in text
    for data in stored:
        assert SECRET.encode() not in data
        assert MARKER.encode() not in data


# ---- discovery


def test_models_of_a_server_come_and_go_with_it_and_it_holds_nobody_up(tmp_path: Path) -> None:
    lan = FakeOpenAI()
    lan.models = ["llama-lan"]
    with providers(lan):
        tables = (
            "[discovery]\ninterval = 0.2\n",
            endpoint("lan", lan, discover=True, private=True),
            '[[endpoint]]\nid = "absent"\nbase_url = "http://127.0.0.1:9/v1"\ndiscover = true\n',
        )
        with serving(tmp_path, *tables) as server, calling(server) as client:

            def names() -> set[str]:
                return {row["id"] for row in client.get("/models").json()["data"]}

            assert eventually(lambda: "lan/llama-lan" in names(), within=30)
            answer = client.post("/chat/completions", json={"model": "llama-lan", "messages": ASK})
            assert answer.json()["model"] == "lan/llama-lan"
            assert client.post("/route", json={"messages": ASK}).json()["model"] == "lan/llama-lan"
            lan.models = ["llama-lan", "qwen-lan"]
            assert eventually(lambda: "lan/qwen-lan" in names(), within=30)
            lan.models = ["qwen-lan"]
            assert eventually(lambda: "lan/llama-lan" not in names(), within=30)
            assert (
                client.post("/chat/completions", json={"model": "llama-lan", "messages": ASK}).status_code == 404
            )
        log = server.log.read_text()
    assert log.count("cannot list models") == 1
