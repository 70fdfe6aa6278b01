"""An address of a private network is given to no model, wherever in a request it stands."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from backends.fetch import leads_inside
from catalog.errors import InvalidRequest
from catalog.types import Json
from server.realtime.passing import check_event
from tests.fakes.openai import FakeOpenAI
from tests.security.conftest import OpenSite, assert_error, rows
from tests.security.tricks import SPECIAL_ADDRESSES

INSIDE = (
    "http://169.254.169.254/latest/meta-data",
    "http://127.0.0.1:9313/x.png",
    "https://localhost/x",
    "https://LOCALHOST./x",
    "https://a.localhost:8443",
    "https://[::1]/",
    "https://[::ffff:127.0.0.1]/",
    "http://[fe80::1%25eth0]/",
    "http://[::1",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://127.1",
    "http://4294967296/",
    "http://10.0.0.8/a.png",
    "http://metadata.google.internal/",
    "http://printer.local/a.png",
    "http://intranet/a.png",
    "http://user:secret@127.0.0.1/",
    "http://127.0.0.1\\@pictures.example/",
    "http://127.0.0.1:80@pictures.example/",
    "http:\\\\127.0.0.1/",
    "http:///127.0.0.1/",
    "http:127.0.0.1/",
    " http://127.0.0.1/",
    "ht\ttp://127.0.0.1/",
    "http://%31%32%37.0.0.1/",
    "http://127\u30020\u30020\u30021/",
    "http://\uff4cocalhost/",
)
OUTSIDE = (
    "https://pictures.example/a.png",
    "https://user@pictures.example:8443/a@b.png?u=http://127.0.0.1/",
    "https://localhost.pictures.example/a.png",
    "https://8.8.8.8/a.png",
    "https://[2606:2800:21f:cb07::1]/a.png",
    "data:image/png;base64,AAAA",
)


@pytest.mark.parametrize("url", INSIDE, ids=ascii)
def test_an_address_leads_inside_in_every_notation(url: str) -> None:
    assert leads_inside(url)


@pytest.mark.parametrize("address", SPECIAL_ADDRESSES)
def test_every_special_address_leads_inside(address: str) -> None:
    assert leads_inside(f"http://[{address}]/a.png" if ":" in address else f"http://{address}/a.png")


@pytest.mark.parametrize("url", OUTSIDE)
def test_a_public_address_does_not(url: str) -> None:
    assert not leads_inside(url)


def test_the_operators_hosts_may_be_named() -> None:
    assert not leads_inside("http://10.0.0.8:81/a.png", ("10.0.0.8",))
    assert not leads_inside("http://nas.local/a.png", ("*.local",))
    assert leads_inside("http://10.0.0.8@10.0.0.9/", ("10.0.0.8",))


def asked(where: str, url: str) -> tuple[str, dict[str, Any]]:
    """A door, and a body with this address in the place."""
    shown: dict[str, Any] = {"type": "image_url", "image_url": {"url": url}}
    parts: dict[str, Any] = {
        "picture": shown,
        "video": {"type": "video_url", "video_url": {"url": url}},
        "sound": {"type": "input_audio", "input_audio": {"url": url, "format": "wav"}},
        "file": {"type": "file", "file": {"file_data": url, "filename": "a.pdf"}},
        "file by address": {"type": "file", "file": {"file_url": url}},
    }
    user = {"role": "user", "content": [parts.get(where, shown)]}
    match where:
        case "ground":
            return "/v1/ground", {"model": "far", "image": url, "phrase": "a cat"}
        case "vectors":
            return "/v1/embeddings", {"model": "eye", "input": [shown]}
        case "moderation":
            return "/v1/moderations", {"model": "warden", "input": [shown]}
        case "response":
            content = [{"type": "input_image", "image_url": url, "detail": "auto"}]
            return "/v1/responses", {"model": "far", "input": [{"role": "user", "content": content}]}
        case "file of a response":
            content = [{"type": "input_file", "file_url": url}]
            return "/v1/responses", {"model": "far", "input": [{"role": "user", "content": content}]}
        case "message":
            picture: Json = {"type": "image", "source": {"type": "url", "url": url}}
            message = {"role": "user", "content": [picture]}
            return "/v1/messages", {"model": "far", "max_tokens": 9, "messages": [message]}
        case _:
            return "/v1/chat/completions", {"model": "far", "messages": [user]}


PLACES = (
    *("picture", "video", "sound", "file", "file by address", "ground", "vectors", "moderation", "response"),
    *("file of a response", "message"),
)


def with_an_eye(provider: FakeOpenAI) -> list[dict[str, Any]]:
    """The site's models, and ``eye``, which embeds pictures."""
    source = {"kind": "upstream", "endpoint": "cloud", "model": "fake-embed"}
    eye = {"id": "eye", "provider": "cloud", "capabilities": ["embed", "vision"], "source": source}
    return [*rows(provider)["model"], eye]


@pytest.mark.parametrize("url", ["http://169.254.169.254/a", "https://localhost/a", "https://[::1]/a"])
async def test_it_is_refused_wherever_it_stands_and_nothing_is_sent(
    site: OpenSite, provider: FakeOpenAI, url: str
) -> None:
    async with site(model=with_an_eye(provider)) as running:
        for where in PLACES:
            path, body = asked(where, url)
            refused = await running.client.post(path, json=body)
            assert refused.status_code == 400, (where, refused.text)
            assert "private network" in refused.text, (where, refused.text)
    assert provider.calls == []


def test_an_item_of_a_realtime_session_names_none() -> None:
    storage = SimpleNamespace(hosts=(), settings=SimpleNamespace(provider_ids=()))
    context: Any = SimpleNamespace(runtime=SimpleNamespace(storage=storage), caller=SimpleNamespace(admin=True))
    content = [{"type": "input_image", "image_url": "http://127.0.0.1/a.png"}]
    with pytest.raises(InvalidRequest, match="private network"):
        check_event(context, {"type": "conversation.item.create", "item": {"content": content}})


async def test_a_public_address_and_a_host_of_the_operators_go_to_the_provider(
    site: OpenSite, provider: FakeOpenAI
) -> None:
    async with site(backends={"fetch": {"hosts": ["10.0.0.8"]}}) as running:
        for url in ("https://pictures.example/a.png", "http://10.0.0.8/a.png"):
            path, body = asked("picture", url)
            answer = await running.client.post(path, json=body)
            assert answer.status_code == 200, answer.text
            assert provider.calls[-1].body["messages"][0]["content"][0]["image_url"] == {"url": url}
        path, body = asked("picture", "http://10.0.0.9/a.png")
        assert_error(await running.client.post(path, json=body), 400)
