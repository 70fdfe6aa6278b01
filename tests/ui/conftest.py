"""A browser, a server before a fake provider, and pages that fail a test on any error in their console."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from server.settings import load_settings
from tests.e2e.serving import Served, served
from tests.fakes.gguf import chat_model
from tests.fakes.hub import FakeHub, Repository, serve
from tests.ui.upstream import SETTINGS, Lab, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, ViewportSize

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDE: ViewportSize = {"width": 1280, "height": 800}
NARROW: ViewportSize = {"width": 390, "height": 844}
PICTURES = os.environ.get("ROUNDHOUSE_SCREENSHOTS")
"""The folder for the screenshots of the documentation, if they are to be made."""
REPOSITORY, FILE = "tiny/Tiny-GGUF", "Tiny-Q4_K_M.gguf"
"""The hub's model."""
LARGEST_PICTURE = 200_000
MICROPHONE = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
"""A microphone that beeps, which the page may use without asking."""


def find_browser() -> str | None:
    """The program of a browser: ``ROUNDHOUSE_BROWSER``, or one on the path."""
    return os.environ.get("ROUNDHOUSE_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium. Without one the tests are skipped, or fail where ``ROUNDHOUSE_UI=demanded``."""
    program = find_browser()
    if program is None:
        reason = "there is no browser: install chromium (make test-ui does), or name one in ROUNDHOUSE_BROWSER"
        if os.environ.get("ROUNDHOUSE_UI") == "demanded":
            pytest.fail(reason)
        pytest.skip(reason)
    sync_api = pytest.importorskip("playwright.sync_api")
    sync_api.expect.set_options(timeout=20_000)
    # It runs an event loop of its own, with which no other package's asynchronous test could run.
    with sync_api.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=program, args=["--no-sandbox", *MICROPHONE])
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def lab() -> Iterator[Lab]:
    """The provider."""
    with running() as provider:
        yield provider


@pytest.fixture(scope="package")
def console(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server without keys, with the provider's models, and this machine's where they were pulled."""
    folder = tmp_path_factory.mktemp("console")
    (folder / "roundhouse.toml").write_text(SETTINGS.format(base_url=lab.base_url))
    data = folder / "data"
    data.mkdir(mode=0o700)
    pulled = load_settings().data_dir / "models"
    if pulled.is_dir():
        (data / "models").symlink_to(pulled)
    with served(folder, environment={"ROUNDHOUSE_DATA_DIR": str(data)}) as server:
        yield server


@pytest.fixture(scope="package")
def hub() -> Iterator[FakeHub]:
    """The hub, with one small model, of whose file the second half waits for ``hub.gates[FILE]``."""
    repository = Repository({FILE: chat_model(padding=3_000_000)})
    with serve(FakeHub({REPOSITORY: repository}, gates={FILE: threading.Event()})) as running_hub:
        yield running_hub


@pytest.fixture(scope="package")
def locked(lab: Lab, hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with keys: ``reader-key`` for models, ``admin-key`` for everything. It pulls from the fake hub."""
    folder = tmp_path_factory.mktemp("locked")
    (folder / "roundhouse.toml").write_text(SETTINGS.format(base_url=lab.base_url))
    keys = {"ROUNDHOUSE_API_KEYS": "reader-key", "ROUNDHOUSE_ADMIN_KEYS": "admin-key", "HF_ENDPOINT": hub.address}
    with served(folder, environment={"ROUNDHOUSE_DATA_DIR": str(folder / "data"), **keys}) as server:
        yield server


Open = Callable[..., "Page"]
Picture = Callable[["Page", str], None]


@pytest.fixture
def opened(browser: Browser, console: Served) -> Iterator[Open]:
    """Open a page of the console: ``opened("#/models", NARROW)``. Its errors and foreign requests fail the test.

    ``expects`` are parts of messages that the page may log, such as the status of an answer that a test provokes.
    """
    contexts, faults = [], []

    def open_page(
        path: str = "ui/",
        size: ViewportSize = WIDE,
        *,
        server: Served = console,
        scheme: Literal["light", "dark"] = "light",
        expects: tuple[str, ...] = (),
    ) -> Page:
        context = browser.new_context(viewport=size, color_scheme=scheme, permissions=["microphone"])
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)

        def said(text: str) -> None:
            if not any(part in text for part in expects):
                faults.append(text)

        page.on("console", lambda message: said(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said(str(error)))

        def requested(address: str) -> None:
            if not address.startswith((server.url, "data:", "blob:")):
                faults.append(f"a request to another host: {address}")

        page.on("request", lambda request: requested(request.url))
        page.goto(f"{server.url}/{path}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults, "\n".join(faults)


@pytest.fixture
def picture() -> Picture:
    """Keep a picture of a page for the documentation, where such are wanted."""

    def take(page: Page, name: str) -> None:
        if PICTURES:
            target = Path(PICTURES) / f"console-{name}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=target, animations="disabled")
            assert target.stat().st_size < LARGEST_PICTURE, f"{target} is too large"

    return take
