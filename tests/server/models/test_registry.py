"""Rows that are registered, changed and removed over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from catalog.types import Json
from routing.state.records import Record
from server.models.rows import MODEL
from tests.fakes.gguf import chat_model
from tests.fakes.openai import FakeOpenAI
from tests.server.conftest import Start
from tests.server.models.conftest import ADDRESS, TINY, OpenShop, PeerOf, Shop
from tests.server.test_bad_input import error


def refused(answer: httpx.Response, param: str) -> str:
    """The message of a refusal that names the field."""
    error(answer, 400, "invalid_request")
    told = answer.json()["error"]
    assert told["param"] == param, told
    return str(told["message"])


async def test_a_registered_row_is_in_force_at_once_and_after_a_restart(open_shop: OpenShop) -> None:
    async with open_shop() as shop:
        answer = await shop.client.post("/v1/models", json={**TINY, "aliases": ["small"], "tags": ["mine"]})
        assert "x-roundhouse-dropped" not in answer.headers, "a row has more fields than the body's type names"
        made = answer.json()
        assert (made["id"], made["registered"], made["origin"]) == ("tiny", True, "user")
        assert (made["downloaded"], made["available"]) == (False, False)
        assert "roundhouse pull tiny" in made["unavailable_reason"]
        assert (await shop.client.get("/v1/models/small")).json()["id"] == "tiny"
    async with open_shop() as shop:
        assert "tiny" in await shop.listed()
        gone = (await shop.client.delete("/v1/models/small")).json()
        assert (gone["id"], gone["deleted"], gone["freed"]) == ("tiny", True, 0)
        assert "tiny" not in await shop.listed()
    async with open_shop() as shop:
        assert "tiny" not in await shop.listed()


async def test_other_gateways_of_the_state_have_a_row_at_once(open_shop: OpenShop) -> None:
    async with open_shop() as here, open_shop() as there:
        here.runtime.peers, there.runtime.peers = PeerOf(there), PeerOf(here)
        await here.client.post("/v1/models", json=TINY)
        assert "tiny" in await there.listed()
        await there.client.post("/v1/models", json={"id": "tiny", "aliases": ["wee"]})
        assert (await here.client.get("/v1/models/wee")).json()["engine"] == "llamacpp"
        await there.client.delete("/v1/models/tiny")
        assert "tiny" not in await here.listed()


async def test_a_gateway_that_was_not_told_sees_a_row_when_it_looks(open_shop: OpenShop) -> None:
    async with open_shop() as here, open_shop() as there:
        await here.client.post("/v1/models", json=TINY)
        assert "tiny" not in await there.listed()
        assert there.runtime.library is not None
        await there.runtime.library.look()  # what the look at the disk does every few seconds
        assert "tiny" in await there.listed()


async def test_a_change_is_merged_and_null_removes_a_field(shop: Shop) -> None:
    await shop.client.post("/v1/models", json={**TINY, "aliases": ["small"], "license": "mit"})
    changed = (await shop.client.post("/v1/models", json={"id": "TINY", "family": "llama"})).json()
    assert (changed["aliases"], changed["family"], changed["license"]) == (["small"], "llama", "mit")
    changed = (await shop.client.post("/v1/models", json={"id": "tiny", "license": None, "aliases": ["b"]})).json()
    assert (changed["aliases"], changed["license"]) == (["b"], None)
    message = refused(
        await shop.client.post("/v1/models", json={"id": "tiny", "capabilities": None}), "capabilities"
    )
    assert "this field is needed" in message
    assert (await shop.client.get("/v1/models/tiny")).json()["capabilities"], "nothing has changed"


async def test_a_built_in_row_is_changed_and_restored(shop: Shop) -> None:
    name = "smollm2-135m-instruct"
    before = (await shop.client.get(f"/v1/models/{name}")).json()
    changed = (await shop.client.post("/v1/models", json={"id": name, "tags": ["mine"]})).json()
    assert (changed["tags"], changed["capabilities"]) == (["mine"], before["capabilities"])
    await shop.client.delete(f"/v1/models/{name}")
    assert (await shop.client.get(f"/v1/models/{name}")).json() == before


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"capabilities": ["fly"]}, "capabilities.0"),
        ({"capabilities": ["tools"]}, "capabilities"),
        ({"engine": "steam"}, "engine"),
        ({"capabilities": ["chat", "speak"]}, "capabilities"),
        ({"engine": None}, "engine"),
        ({"options": {"speed": 1}}, "options.speed"),
        ({"options": {"context": 1}}, "options.context"),
        ({"limits": {"context_window": -1}}, "limits.context_window"),
        ({"limits": {"context_window": 10, "max_output_tokens": 20}}, "limits.max_output_tokens"),
        ({"colour": "red"}, "colour"),
        ({"source": "tiny"}, "source"),
        ({"source": "hub:tiny"}, "source"),
        ({"source": {"kind": "library", "module": "os"}}, "source.kind"),
        ({"source": {"kind": "package", "wheels": []}}, "source.kind"),
        ({"source": {}}, "source.kind"),
        ({"source": {"kind": "hub", "repository": "../x"}}, "source.hub.repository"),
        ({"source": {"kind": "upstream", "endpoint": "none", "model": "m"}}, "source.endpoint"),
        ({"source": "/no/such/file.gguf"}, "source.path"),
        ({"source": "/dev/null"}, "source.path"),
        ({"source": "/etc/passwd"}, "source.path"),
        ({"source": __file__}, "source.path"),
        ({"id": "pulls/x"}, "id"),
        ({"id": "auto"}, "id"),
        ({"id": "a/../b"}, "id"),
        ({"id": ".."}, "id"),
        ({"aliases": ["a/./b"]}, "aliases.0"),
        ({"origin": "builtin"}, "origin"),
        (
            {
                "engine": "zzz",
                "source": {"kind": "upstream", "model": "m"},
                "endpoint": {"id": "x", "base_url": "http://127.0.0.1:1/v1"},
            },
            "engine",
        ),
        ({"endpoint": {"base_url": "http://x/v1"}}, "endpoint.id"),
        ({"endpoint": {"id": "openai", "base_url": "http://x/v1"}}, "endpoint.id"),
        ({"endpoint": {"id": "x", "base_url": "ftp://x"}}, "endpoint.base_url"),
        ({"endpoint": {"id": "x", "base_url": "http://x/v1", "protocol": "smoke"}}, "endpoint.protocol"),
    ],
)
async def test_a_wrong_field_is_named_and_nothing_is_kept(shop: Shop, change: Json, param: str) -> None:
    refused(await shop.client.post("/v1/models", json={**TINY, **change}), param)
    assert "tiny" not in await shop.listed()
    assert "pulls/x" not in await shop.listed()


async def test_a_capability_that_the_engine_cannot_have_is_refused_with_those_that_it_can(shop: Shop) -> None:
    wrong = {**TINY, "capabilities": ["chat", "speak"]}
    message = refused(await shop.client.post("/v1/models", json=wrong), "capabilities")
    assert "the engine 'llamacpp' cannot speak; its models can chat, classify" in message
    assert "tiny" not in await shop.listed()


async def test_a_row_of_the_settings_is_changed_there_alone(open_shop: OpenShop) -> None:
    async with open_shop() as shop:
        await shop.client.post("/v1/models", json={**TINY, "family": "registered"})
    row = {**TINY, "source": {"kind": "hub", "repository": "a/b"}, "family": "of the file"}
    async with open_shop(model=[row]) as shop:
        assert (await shop.client.get("/v1/models/tiny")).json()["family"] == "of the file"
        assert "settings" in refused(await shop.client.post("/v1/models", json=TINY), "id")


async def test_a_stored_row_that_is_no_longer_valid_keeps_nothing_from_starting(open_shop: OpenShop) -> None:
    async with open_shop() as shop:
        await shop.client.post("/v1/models", json=TINY)
        entry = {"given": {"id": "old", "field_of_another_version": 1}, "facts": {}}
        await shop.runtime.storage.records.add([Record(MODEL, "old", entry)])
    async with open_shop() as shop:
        assert "tiny" in await shop.listed()
        assert "old" not in await shop.listed()


async def test_a_preferred_model_may_be_a_registered_one(open_shop: OpenShop) -> None:
    async with open_shop() as shop:
        await shop.client.post("/v1/models", json=TINY)
    async with open_shop(routing={"preferred": {"chat": "tiny"}}) as shop:
        assert "tiny" in await shop.listed()
        await shop.client.delete("/v1/models/tiny")
    with pytest.raises(Exception, match="does not exist"):
        async with open_shop(routing={"preferred": {"chat": "tiny"}}):
            pass


# ---- files of this machine


async def test_a_local_file_says_its_own_facts(open_shop: OpenShop, tmp_path: Path) -> None:
    file = tmp_path / "own" / "Mine-Q4_K_M.gguf"
    file.parent.mkdir()
    file.write_bytes(chat_model(padding=99))
    async with open_shop(admin_keys="a", models={"folders": [file.parent]}) as shop:
        made = (await shop.client.post("/v1/models", json={"id": "mine", "source": str(file)})).json()
        assert (made["engine"], made["context_window"], made["quantization"]) == ("llamacpp", 8192, "Q4_K_M")
        assert (made["parameter_count"], made["available"], made["languages"]) == (135_000_000, True, ["en", "fr"])
        assert "chat" in made["capabilities"]
        other = file.with_name("other.gguf")
        other.write_bytes(chat_model(name="Other"))
        moved = (await shop.client.post("/v1/models", json={"id": "mine", "source": str(other)})).json()
        assert (moved["name"], moved["quantization"]) == ("Other", None), "the facts are those of the new file"
        answer = await shop.client.post("/v1/chat/completions", json={"model": "mine", "messages": HELLO})
        assert answer.json()["choices"][0]["message"]["content"].startswith("mine:0")


HELLO = [{"role": "user", "content": "Hello"}]


async def test_files_outside_the_folders_of_the_settings_are_refused(open_shop: OpenShop, tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    secret = outside / "secret.gguf"
    secret.write_bytes(chat_model())
    (inside / "link.gguf").symlink_to(secret)
    (inside / "real.gguf").write_bytes(chat_model())
    folders: Any = {"models": {"folders": [inside]}, "admin_keys": "a"}
    async with open_shop(**folders) as shop:
        messages = set()
        for path in (secret, inside / "link.gguf", inside / ".." / "out" / "secret.gguf", outside / "none.gguf"):
            row = {"id": "x", "source": {"kind": "path", "path": str(path)}}
            messages.add(refused(await shop.client.post("/v1/models", json=row), "source.path"))
        assert len(messages) == 1, "it does not tell what is there"
        for option, value in (
            ("chat_template_file", "/etc/passwd"),
            ("mmproj", str(secret)),
            ("lora", [{"path": str(secret)}]),
        ):
            row = {"id": "x", "source": str(inside / "real.gguf"), "options": {option: value}}
            answer = await shop.client.post("/v1/models", json=row)
            assert answer.status_code == 400, option
            assert answer.json()["error"]["param"].startswith(f"options.{option}")
        assert "x" not in await shop.listed()
        await shop.client.post("/v1/models", json={"id": "x", "source": str(inside / "real.gguf")})
        loading = {"options": {"chat_template_file": "/etc/passwd"}}
        refused(await shop.client.post("/v1/models/x/load", json=loading), "options.chat_template_file")


@pytest.mark.parametrize("option", ["batch", "micro_batch", "prompt_cache_mib", "context"])
async def test_a_number_that_no_engine_can_read_is_refused_before_a_load(shop: Shop, option: str) -> None:
    await shop.client.post("/v1/models", json=TINY)
    loading = {"options": {option: 10**12}}
    told = refused(await shop.client.post("/v1/models/tiny/load", json=loading), f"options.{option}")
    assert "2147483647" in told
    refused(await shop.client.post("/v1/models", json={**TINY, **loading}), f"options.{option}")


# ---- models of other servers


async def test_a_remote_model_comes_with_its_endpoint_and_answers(open_shop: OpenShop) -> None:
    async with FakeOpenAI(key=None) as fake, open_shop() as shop:
        source = {"kind": "upstream", "model": "fake-chat"}
        endpoint = {"id": "lan", "base_url": fake.base_url, "private": True}
        row = {"id": "far", "capabilities": ["chat"], "source": source, "endpoint": endpoint}
        made = (await shop.client.post("/v1/models", json=row)).json()
        assert (made["endpoint"], made["local"], made["available"]) == ("lan", False, True)
        answer = await shop.client.post("/v1/chat/completions", json={"model": "far", "messages": HELLO})
        assert answer.status_code == 200, answer.text
        second = {"id": "farther", "capabilities": ["chat"], "source": {**source, "endpoint": "lan"}}
        assert (await shop.client.post("/v1/models", json=second)).status_code == 200
        await shop.client.delete("/v1/models/far")
        answer = await shop.client.post("/v1/chat/completions", json={"model": "farther", "messages": HELLO})
        assert answer.status_code == 200, "its endpoint stays while a row names it"
        await shop.client.delete("/v1/models/farther")
        refused(await shop.client.post("/v1/models", json=second), "source.endpoint")


async def test_hosts_and_keys_beyond_the_settings_are_refused(open_shop: OpenShop) -> None:
    keyed: Any = {"admin_keys": "a", "models": {"hosts": ["*.lan", "10.0.0.5"]}}
    async with open_shop(**keyed) as shop:

        async def asked(**endpoint: Any) -> httpx.Response:
            row = {"id": "far", "capabilities": ["chat"], "source": {"kind": "upstream", "model": "m"}}
            return await shop.client.post("/v1/models", json={**row, "endpoint": {"id": "x", **endpoint}})

        for host in ("169.254.169.254", "10.0.0.6", "evil.example", "lan", "x.lan.example", "10.0.0.5.example"):
            assert "hosts in [models]" in refused(await asked(base_url=f"http://{host}/v1"), "endpoint.base_url")
        refused(await asked(protocol="bedrock", region="eu-west-1"), "endpoint.base_url")
        for field in ("key_keyring", "credentials_file", "profile"):
            refused(await asked(base_url="http://10.0.0.5/v1", **{field: "x"}), f"endpoint.{field}")
        for variable in ("AWS_SECRET_ACCESS_KEY", "HOME"):
            refused(await asked(base_url="http://10.0.0.5/v1", key_env=[variable]), "endpoint.key_env")
        made = await asked(base_url="http://vllm.lan:8000/v1", key_env=["LAN_API_KEY"])
        assert made.json()["key_configured"] is False
        assert (await asked(base_url="http://10.0.0.5/v1")).status_code == 200, "a registered endpoint is changed"
    async with open_shop(admin_keys="a") as shop:
        row = {"id": "new", "capabilities": ["chat"], "source": {"kind": "upstream", "model": "m"}}
        endpoint = {"id": "y", "base_url": "http://127.0.0.1:1/v1"}
        refused(await shop.client.post("/v1/models", json={**row, "endpoint": endpoint}), "endpoint.base_url")


async def test_without_keys_this_machines_user_may_name_any_host_but_a_clouds_own(shop: Shop) -> None:
    row = {"id": "far", "capabilities": ["chat"], "source": {"kind": "upstream", "model": "m"}}
    endpoint = {"id": "x", "base_url": "http://169.254.169.254/v1"}
    refused(await shop.client.post("/v1/models", json={**row, "endpoint": endpoint}), "endpoint.base_url")
    endpoint = {"id": "x", "base_url": "http://192.168.1.9:11434/v1"}
    assert (await shop.client.post("/v1/models", json={**row, "endpoint": endpoint})).status_code == 200


@pytest.mark.parametrize("keyed", [{}, {"admin_keys": "a", "models": {"hosts": ["evil.example", "*.lan"]}}])
async def test_the_key_of_an_endpoint_is_sent_to_its_own_host_alone(open_shop: OpenShop, keyed: Any) -> None:
    own = {"id": "lab", "base_url": "https://vllm.lan/v1", "key_env": ["LAB_KEY"]}
    async with open_shop(endpoint=[own], **keyed) as shop:

        async def asked(address: str, *variables: str) -> httpx.Response:
            end = {"id": "x", "base_url": address, "key_env": list(variables)}
            row = {"id": "far", "capabilities": ["chat"], "source": {"kind": "upstream", "model": "m"}}
            return await shop.client.post("/v1/models", json={**row, "endpoint": end})

        elsewhere = (
            "https://evil.example/v1",
            "http://vllm.lan/v1",
            "https://x.vllm.lan/v1",
            "https://vllm.lan:8443/v1",
        )
        for address in elsewhere:
            for variable in ("OPENAI_API_KEY", "LAB_KEY"):
                told = refused(await asked(address, "FREE_API_KEY", variable), "endpoint.key_env")
                assert variable in told
        assert (await asked("https://VLLM.lan:443/other", "LAB_KEY")).status_code == 200
        assert (await asked("https://evil.example/v1", "FREE_API_KEY")).status_code == 200
        moved = {"id": "far", "endpoint": {"id": "x", "key_env": ["OPENAI_API_KEY"]}}
        refused(await shop.client.post("/v1/models", json=moved), "endpoint.key_env")


async def test_registering_needs_an_admin_key(start: Start) -> None:
    async with start(api_keys="user", admin_keys="admin") as gateway:
        user = {"authorization": "Bearer user"}
        asked = (
            ("POST", "/v1/models"),
            ("POST", "/v1/models/pulls"),
            ("GET", "/v1/models/pulls"),
            ("GET", "/v1/models/pulls/x"),
            ("POST", "/v1/models/pulls/x/cancel"),
        )
        for method, path in asked:
            answer = await gateway.client.request(method, path, json={"id": "x", "model": ADDRESS}, headers=user)
            assert answer.status_code == 403, path
