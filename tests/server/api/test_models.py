"""Models, workers, metrics, rerank, classification, tokens and images over HTTP."""

from __future__ import annotations

import pytest
from openai.types.model import Model as OpenAIModel

from backends.workers.pool import WorkerView
from catalog.catalog import Catalog
from catalog.errors import ModelTooLarge
from catalog.model import Capability, Limits
from catalog.types import Json
from tests.server.api.test_chat import BODY, PATH
from tests.server.conftest import Gateway, Start
from tests.server.edge.test_gate import ADMIN, BEARER, KEYS
from tests.server.fakes import CHAT
from tests.server.test_bad_input import error


async def test_a_model_is_described(gateway: Gateway) -> None:
    body = (await gateway.client.get("/v1/models/parrot")).json()
    assert body["object"] == "model"
    assert isinstance(body["created"], int)
    assert body["capabilities"] == ["chat", "completion"]
    assert body["context_window"] == 4096
    assert (body["loaded"], body["state"], body["engine"], body["device"]) == (True, "ready", "parrot", "cpu")
    assert body["aliases"] == ["polly"]
    assert body["shutdown_date"] is None


async def test_the_end_of_a_model_has_the_name_of_openais_field(gateway: Gateway) -> None:
    answer = await gateway.client.get("/v1/models/cloud/oracle")
    assert OpenAIModel.model_validate(answer.json()).shutdown_date == "2027-01-14"
    assert answer.json()["successor"] == "parrot"


async def test_downloaded_key_and_available_are_three_facts(gateway: Gateway) -> None:
    remote = (await gateway.client.get("/v1/models/cloud/oracle")).json()
    assert remote["downloaded"] is None
    assert remote["key_configured"] is False
    assert remote["available"] is False
    assert "no key" in remote["unavailable_reason"]
    local = (await gateway.client.get("/v1/models/songbird")).json()
    assert (local["downloaded"], local["key_configured"], local["available"]) == (True, None, True)
    assert (local["loaded"], local["state"]) == (False, "stopped")


async def test_models_that_lack_a_key_an_engine_or_a_pull_are_listed_on_demand(gateway: Gateway) -> None:
    async def listed(query: str) -> set[str]:
        return {row["id"] for row in (await gateway.client.get(f"/v1/models{query}")).json()["data"]}

    assert "cloud/oracle" not in await listed("")
    assert "parrot" in await listed("")
    assert await listed("?all=true") - await listed("") == {"cloud/oracle"}


async def test_the_routers_names_are_models_too(gateway: Gateway) -> None:
    for name in ("auto", "auto:fast", "auto:best", "auto:cheap", "auto:local", "AUTO:Best"):
        body = (await gateway.client.get(f"/v1/models/{name}")).json()
        assert body["id"] == name.lower()
        assert body["owned_by"] == "roundhouse"


async def test_codex_gets_the_models_that_call_tools_with_their_context(gateway: Gateway) -> None:
    runtime = gateway.services.runtime
    assert runtime is not None
    able = frozenset({Capability.CHAT, Capability.TOOLS})
    rows = (
        CHAT.model_copy(update={"id": "doer", "capabilities": able, "aliases": ()}),
        CHAT.model_copy(
            update={
                "id": "thinker",
                "capabilities": able | {Capability.REASONING, Capability.VISION},
                "aliases": (),
                "limits": Limits(context_window=200_000),
            }
        ),
        CHAT.model_copy(update={"id": "gpt", "capabilities": able, "aliases": (), "provider": "openai"}),
    )
    runtime.live.current = Catalog.load(builtin=False, user_models=(CHAT, *rows))
    listed = (await gateway.client.get("/v1/models?client_version=0.171.0")).json()
    assert "parrot" in {row["id"] for row in listed["data"]}
    doer, thinker = listed["models"]
    assert (doer["slug"], doer["context_window"], doer["truncation_policy"]["limit"]) == ("doer", 4096, 819)
    assert (doer["supported_reasoning_levels"], doer["input_modalities"]) == ([], ["text"])
    assert [level["effort"] for level in thinker["supported_reasoning_levels"]] == ["low", "medium", "high"]
    assert (thinker["truncation_policy"]["limit"], thinker["input_modalities"]) == (10_000, ["text", "image"])
    assert doer["base_instructions"], "Codex refuses a model without"
    assert "models" not in (await gateway.client.get("/v1/models")).json()


async def test_load_and_unload(gateway: Gateway) -> None:
    loaded = await gateway.client.post("/v1/models/polly/load", json={"keep_alive": 60})
    assert loaded.json()["loaded"] is True
    assert gateway.pool.loaded == [("parrot", 60.0)]
    assert (await gateway.client.post("/v1/models/parrot/load")).status_code == 200
    assert gateway.pool.loaded[-1] == ("parrot", None)
    unloaded = await gateway.client.post("/v1/models/parrot/unload")
    assert unloaded.json() == {"id": "parrot", "object": "model", "unloaded": True}
    assert (await gateway.client.post("/v1/models/parrot/unload", json={"force": True})).status_code == 200
    assert gateway.pool.forced == [False, True]
    error(await gateway.client.post("/v1/models/nobody/load"), 404, "model_not_found")
    error(await gateway.client.post("/v1/models/cloud/oracle/load"), 400, "model_capability_mismatch")
    error(await gateway.client.post("/v1/models/parrot/load", json={"keep_alive": -1}), 400, "invalid_request")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"context": 4096}, "context"),
        ({"slots": 500}, "slots"),
        ({"slots": 8, "context": 4096}, "context"),
        ({"options": {"batch": 9}}, "options"),
    ],
)
async def test_options_that_need_more_memory_than_there_is_are_the_requests_fault(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, body: Json, param: str
) -> None:
    async def too_large(*_: object, **__: object) -> WorkerView:
        raise ModelTooLarge("'parrot' needs about 9 MiB, more than the 8 MiB that workers may use on a device.")

    monkeypatch.setattr(gateway.pool, "load", too_large)
    refused = error(await gateway.client.post("/v1/models/parrot/load", json=body), 400, "invalid_request")
    assert refused["param"] == param
    assert "9 MiB" in refused["message"]
    error(await gateway.client.post("/v1/models/parrot/load"), 404, "model_unavailable")


async def test_workers_and_their_logs(gateway: Gateway) -> None:
    body = (await gateway.client.get("/v1/admin/workers")).json()
    assert body["workers"][0]["model"] == "parrot"
    assert body["workers"][0]["restarts"] == 2
    assert body["devices"] == [{"id": "cpu", "name": "CPU", "total": 100, "budget": 80, "used": 10}]
    log = await gateway.client.get("/v1/admin/workers/parrot/log?lines=5")
    assert log.text == "the last 5 lines of parrot\n"


@pytest.mark.parametrize("lines", ["0", "-1", "many", "99999999999"])
async def test_a_log_has_a_sensible_number_of_lines(gateway: Gateway, lines: str) -> None:
    error(await gateway.client.get(f"/v1/admin/workers/parrot/log?lines={lines}"), 400, "invalid_request")


async def test_metrics(gateway: Gateway) -> None:
    await gateway.client.post(PATH, json=BODY)
    await gateway.client.get("/v1/models/cloud/oracle")
    await gateway.client.post(PATH, json={})
    text = (await gateway.client.get("/metrics")).text
    for line in (
        'roundhouse_requests_total{method="POST",route="/v1/chat/completions",status="200"} 1.0',
        'roundhouse_requests_total{method="GET",route="/v1/models/{model_id:path}",status="200"} 1.0',
        'roundhouse_errors_total{code="invalid_request"} 1.0',
        'roundhouse_worker_memory_bytes{device="cpu",engine="parrot",model="parrot"} 1000.0',
        'roundhouse_worker_restarts_total{device="cpu",engine="parrot",model="parrot"} 2.0',
        'roundhouse_queue_depth{device="cpu",engine="parrot",model="parrot"} 3.0',
        "roundhouse_loaded_models 1.0",
        "roundhouse_in_flight 0.0",
        'roundhouse_device_used_bytes{device="cpu"} 10.0',
    ):
        assert line in text.splitlines(), line


async def test_metrics_are_for_administrators_and_for_keys_that_read_nothing_else(start: Start) -> None:
    async with start(**KEYS, metrics_keys="scraper-key") as gateway:
        scraper = {"authorization": "Bearer scraper-key"}
        error(await gateway.client.get("/metrics", headers=BEARER), 403, "permission_denied")
        for headers in (ADMIN, scraper):
            assert (await gateway.client.get("/metrics", headers=headers)).status_code == 200
        for path in ("/v1/models", "/v1/usage", "/openapi.json"):
            error(await gateway.client.get(path, headers=scraper), 403, "permission_denied")
        error(await gateway.client.post(PATH, json=BODY, headers=scraper), 403, "permission_denied")


async def test_a_metrics_key_alone_does_not_close_the_door_of_this_machine(start: Start) -> None:
    async with start(metrics_keys="scraper-key") as gateway:
        assert (await gateway.client.post(PATH, json=BODY)).status_code == 200


async def test_unknown_paths_share_one_metric(gateway: Gateway) -> None:
    for number in range(5):
        await gateway.client.get(f"/made-up/{number}")
    text = (await gateway.client.get("/metrics")).text
    assert 'route="other",status="404"} 5.0' in text
    assert "made-up" not in text


async def test_rerank_in_the_shapes_of_cohere_and_jina(gateway: Gateway) -> None:
    body = {
        "model": "r",
        "query": "q",
        "documents": ["a", {"text": "b"}, "c"],
        "top_n": 2,
        "return_documents": True,
    }
    for path in ("/v1/rerank", "/rerank", "/v2/rerank"):
        answer = (await gateway.client.post(path, json=body)).json()
        assert [(r["index"], r["relevance_score"]) for r in answer["results"]] == [(2, 0.2), (1, 0.1)]
        assert [r["document"] for r in answer["results"]] == [{"text": "c"}, {"text": "b"}]
        assert answer["usage"] == {"total_tokens": 9}
        assert answer["meta"]["billed_units"]
        assert answer["scoring"] == "similarity"
    bare = (await gateway.client.post("/v1/rerank", json={"model": "r", "query": "q", "documents": ["a"]})).json()
    assert bare["results"] == [{"index": 0, "relevance_score": 0.0}]


async def test_texts_are_put_under_labels_in_jinas_shape(gateway: Gateway) -> None:
    body = {"model": "r", "input": ["a", {"text": "b"}], "labels": ["good", "bad", "neither"]}
    answer = (await gateway.client.post("/v1/classify", json=body)).json()
    assert answer["object"] == "list"
    assert answer["model"] == "parrot"
    assert answer["scoring"] == "similarity"
    assert answer["usage"] == {"total_tokens": 9}
    told = [
        {"label": "good", "score": 0.25},
        {"label": "bad", "score": 0.5},
        {"label": "neither", "score": 0.25},
    ]
    assert answer["data"] == [
        {"object": "classification", "index": i, "prediction": "bad", "score": 0.5, "predictions": told}
        for i in range(2)
    ]


async def test_one_text_is_a_list_of_one(gateway: Gateway) -> None:
    body = {"model": "r", "input": "a", "labels": ["good", "bad", "neither"]}
    answer = (await gateway.client.post("/v1/classify", json=body)).json()
    assert [row["index"] for row in answer["data"]] == [0]


async def test_tokens_go_there_and_back(gateway: Gateway) -> None:
    tokens = (await gateway.client.post("/tokenize", json={"content": "né"})).json()["tokens"]
    told = (await gateway.client.post("/detokenize", json={"tokens": tokens})).json()
    assert told == dict.fromkeys(("content", "prompt", "text"), "né")


async def test_openapi_describes_every_body(gateway: Gateway) -> None:
    document = (await gateway.client.get("/openapi.json")).json()
    operation = document["paths"]["/v1/chat/completions"]["post"]
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert reference == "#/components/schemas/ChatRequest"
    assert "messages" in document["components"]["schemas"]["ChatRequest"]["properties"]
    form = document["paths"]["/v1/audio/transcriptions"]["post"]["requestBody"]["content"]
    assert "multipart/form-data" in form
    for path, methods in document["paths"].items():
        if "post" in methods and not path.endswith(("load", "/cancel")):
            assert "requestBody" in methods["post"], path


async def test_the_root_links_to_the_other_endpoints(gateway: Gateway) -> None:
    document = (await gateway.client.get("/")).json()
    assert document["name"] == "Roundhouse"
    assert document["base_url"] == "http://localhost/v1"
    paths = {document[name] for name in ("models", "endpoints", "health", "ready", "metrics")}
    for path in paths:
        assert (await gateway.client.get(path)).status_code == 200


async def test_a_better_model_that_fits_is_told_in_the_list(gateway: Gateway) -> None:
    runtime = gateway.services.runtime
    assert runtime is not None
    old = CHAT.model_copy(update={"id": "old", "aliases": (), "successor": "qwen3.5-0.8b"})
    best = CHAT.model_copy(update={"id": "best", "aliases": (), "successor": "nothing-known"})
    runtime.live.current = Catalog.load(builtin=False, user_models=(CHAT, old, best))
    rows = {row["id"]: row for row in (await gateway.client.get("/v1/models")).json()["data"]}
    assert rows["old"]["upgrade"] == "qwen3.5-0.8b"
    assert "upgrade" not in rows["best"]
    assert "upgrade" not in rows["parrot"]


async def test_a_model_that_is_known_and_not_here_is_refused_with_the_command_to_pull(
    gateway: Gateway,
) -> None:
    told = await gateway.client.get("/v1/models/Qwen3:8B")
    message = error(told, 404, "model_not_found")["message"]
    assert message == "The model 'Qwen3:8B' is not on this machine. Pull it with: roundhouse pull qwen3-8b"
    named = await gateway.client.get("/v1/models/qwen3:8b-q8_0")
    assert "roundhouse pull qwen3-8b-q8_0" in error(named, 404, "model_not_found")["message"]
    unknown = await gateway.client.get("/v1/models/no-such-model")
    assert "does not exist" in error(unknown, 404, "model_not_found")["message"]
