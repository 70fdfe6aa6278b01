"""The console's files: served without a key, to browsers, with headers that keep foreign scripts out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

import server
from server.api.console import CONSOLE_PATHS, HEADERS, MEDIA
from server.edge.gate import OPEN_PATHS
from server.ui import STATIC
from tests.server.conftest import Gateway, Start
from tests.server.test_bad_input import error
from tests.ui.vendoring import FILES, PACKAGES, VENDOR, digest

KEYS = {"api_keys": "caller-key", "admin_keys": "admin-key"}
BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
PAGES = ("/", "/ui/", "/docs")


def files() -> list[str]:
    """Every file of the console, relative to its folder."""
    return sorted(path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", files())
async def test_every_file_is_served_with_its_type_and_the_policy(gateway: Gateway, name: str) -> None:
    got = await gateway.client.get(f"/ui/{name}")
    assert got.status_code == 200
    assert got.headers["content-type"] == MEDIA[name[name.rfind(".") :]]
    assert got.content == (STATIC / name).read_bytes()
    for header, value in HEADERS.items():
        assert got.headers[header] == value


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_is_html_without_scripts_or_styles_within_it(gateway: Gateway, path: str) -> None:
    got = await gateway.client.get(path, headers=BROWSER)
    assert got.status_code == 200
    assert got.headers["content-type"].startswith("text/html")
    assert "unsafe" not in got.headers["content-security-policy"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bon\w+=|style=|https?://", got.text)


async def test_a_client_that_is_no_browser_gets_the_document_at_the_root(gateway: Gateway) -> None:
    for accept in ("*/*", "application/json"):
        got = await gateway.client.get("/", headers={"accept": accept})
        assert got.headers["content-type"] == "application/json"
        assert got.headers["vary"] == "accept"
        assert (got.json()["console"], got.json()["reference"]) == ("/ui", "/docs")
    greeted = await gateway.client.get("/api/hello", headers=BROWSER)
    assert greeted.json()["name"] == "Roundhouse"


async def test_the_console_needs_no_key_and_the_api_behind_it_does(start: Start) -> None:
    async with start(**KEYS) as gateway:
        for path in PAGES:
            assert (await gateway.client.get(path, headers=BROWSER)).status_code == 200
        assert (await gateway.client.get("/ui")).status_code == 307
        assert (await gateway.client.get("/")).status_code == 401
        for path in ("/openapi.json", "/v1/models", "/v1/key"):
            error(await gateway.client.get(path), 401, "invalid_api_key")
        for path in ("/ui/", "/docs"):
            assert (await gateway.client.post(path)).status_code == 401
        assert (await gateway.client.get("/v1/ui", headers=BROWSER)).status_code == 401


async def test_the_folder_is_named_by_a_redirect_that_a_prefix_of_a_proxy_does_not_break(gateway: Gateway) -> None:
    got = await gateway.client.get("/ui")
    assert (got.status_code, got.headers["location"]) == (307, "ui/")


async def test_a_browser_that_has_a_file_is_told_so(gateway: Gateway) -> None:
    first = await gateway.client.get("/ui/app.js")
    again = await gateway.client.get("/ui/app.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == HEADERS["content-security-policy"]


@pytest.mark.parametrize(
    "name",
    ["nothing.js", "../__init__.py", "..%2f__init__.py", "%2e%2e/__init__.py", "pages", "app.py", "/etc/passwd",
     "app.js%00.html", "%00", "a" * 3000 + ".js", "pages/", "core//api.js", "...", "APP.JS"],
)  # fmt: skip
async def test_nothing_else_is_served(gateway: Gateway, name: str) -> None:
    got = await gateway.client.get(f"/ui/{name}")
    assert got.status_code == 404, name
    assert got.json()["error"]["code"] == "not_found"


async def test_no_console_is_served_where_it_is_switched_off(start: Start) -> None:
    async with start(server={"console": False}, **KEYS) as gateway:
        for path in ("/ui", "/ui/", "/ui/app.js", "/docs"):
            error(await gateway.client.get(path, headers=BROWSER), 401, "invalid_api_key")
            got = await gateway.client.get(path, headers={"x-api-key": "caller-key"})
            assert got.status_code == 404
        assert (await gateway.client.get("/", headers=BROWSER)).status_code == 401
        told = (await gateway.client.get("/", headers={"x-api-key": "caller-key", **BROWSER})).json()
        assert told["console"] is None
        assert told["reference"] is None


async def test_the_reference_goes_with_the_document(start: Start) -> None:
    async with start(server={"docs": False}) as gateway:
        assert (await gateway.client.get("/docs", headers=BROWSER)).status_code == 404
        assert (await gateway.client.get("/ui/")).status_code == 200


def test_the_open_paths_are_those_of_the_console_and_of_health() -> None:
    assert OPEN_PATHS.isdisjoint(CONSOLE_PATHS)
    assert all(path.startswith(("/ui", "/docs")) for path in CONSOLE_PATHS)


@pytest.mark.parametrize("name", [name for name in files() if name.endswith((".js", ".css", ".html"))])
def test_no_file_of_ours_names_another_host(name: str) -> None:
    if name.startswith("vendor/"):
        pytest.skip("a library names its home in a comment")
    for address in re.findall(r"https?://[\w.-]+", (STATIC / name).read_text()):
        assert address == "http://www.w3.org", f"{name}: {address}"
    assert "innerHTML" not in (STATIC / name).read_text().replace("without ``innerHTML``", "")


def test_the_libraries_are_those_whose_licences_and_digests_are_told() -> None:
    told = (VENDOR / "licences.txt").read_text()
    kept = {path.name for path in VENDOR.iterdir()}
    assert kept == {*FILES, "licences.txt"}
    for name in FILES:
        assert f"{digest(VENDOR / name)}  {name}" in told
    for package, version in PACKAGES.items():
        assert f"==== {package} {version} ====" in told


def test_the_wheel_holds_the_console() -> None:
    root = Path(server.__file__).parents[1]
    packed = {file.distribution_path for file in WheelBuilder(str(root)).recurse_included_files()}
    assert {f"server/ui/static/{name}" for name in files()} <= packed
