"""Videos by the engine diffusion-video on real pipelines, through a complete server; by ``make engines``."""

from __future__ import annotations

import io
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import openai
import pytest
from openai.types import Video

from catalog.model import Capability, Model, PathSource
from tests.conformance.optional import models, pythons
from tests.e2e.serving import Served, served
from tests.fakes.films import brightness, tiny_mp4
from tests.fakes.pictures import encoded, quarters

FILMERS = [row for row in models().values() if Capability.VIDEO in row.capabilities]
ASK: Any = {"prompt": "A fox at dawn.", "seconds": "2", "size": "64x32"}
pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore:.*Sora API:DeprecationWarning"),
    pytest.mark.skipif(not FILMERS, reason="ROUNDHOUSE_ENGINES names no such environment; run make engines"),
]


def configured(folder: Path) -> Path:
    lines = ["[workers]", "keep_alive = 600", "[workers.python]"]
    lines += [f"{engine} = {json.dumps(str(python))}" for engine, python in pythons().items()]
    for row in FILMERS:
        assert isinstance(row.source, PathSource)
        lines += ["[[model]]", f"id = {json.dumps(row.id)}", f"engine = {json.dumps(row.engine)}"]
        lines.append(f"capabilities = {json.dumps(sorted(row.capabilities))}")
        lines.append(f'source = {{ kind = "path", path = {json.dumps(str(Path(row.source.path).absolute()))} }}')
        lines += [f"options.{name} = {json.dumps(value)}" for name, value in row.options.items()]
    (folder / "roundhouse.toml").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(configured(tmp_path_factory.mktemp("videos"))) as running:
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.v1, api_key="none", timeout=300, max_retries=0) as made:
        yield made


@pytest.fixture(params=FILMERS, ids=lambda row: row.id)
def filmer(request: pytest.FixtureRequest) -> Model:
    row: Model = request.param
    return row


def ended(client: openai.OpenAI, name: str, *, within: float = 300.0) -> Video:
    end = time.monotonic() + within
    while (video := client.videos.retrieve(name)).status in ("queued", "in_progress"):
        assert time.monotonic() < end, video
        time.sleep(0.2)
    return video


def test_a_video_is_an_mp4_that_a_decoder_reads(client: openai.OpenAI, server: Served, filmer: Model) -> None:
    video = ended(client, client.videos.create(model=filmer.id, extra_body={"seed": "7", "fps": "5"}, **ASK).id)
    assert (video.status, video.error, video.seconds, video.size) == ("completed", None, "2", "64x32")
    data = client.videos.download_content(video.id).read()
    opening: Any = av.open(io.BytesIO(data), format="mp4")
    with opening as opened:
        stream = opened.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in opened.decode(stream)]
    assert (stream.codec_context.name, float(stream.average_rate or 0), len(frames)) == ("h264", 5.0, 10)
    assert frames[0].shape == (32, 64, 3)
    assert any((frame != frames[0]).any() for frame in frames)
    notes = (video.model_extra or {})["x-roundhouse"]
    assert (notes["seed"], notes["fps"]) == (7, 5)
    trace = httpx.get(f"{server.v1}/traces/{notes['trace']}").json()
    assert trace["attempts"][0]["model"] == filmer.id
    assert client.videos.download_content(video.id, variant="thumbnail").read()[8:12] == b"WEBP"


def test_other_videos_are_changed_and_a_first_frame_is_taken_where_the_model_can(
    client: openai.OpenAI, filmer: Model
) -> None:
    source = ("a.mp4", io.BytesIO(tiny_mp4()))
    edited = ended(client, client.videos.edit(prompt="Snow.", video=source, extra_body={"model": filmer.id}).id)
    assert (edited.status, edited.error, edited.seconds, edited.size) == ("completed", None, "2", "64x48")
    remixed = ended(client, client.videos.remix(edited.id, prompt="Rain.").id)
    assert (remixed.status, remixed.error, remixed.remixed_from_video_id) == ("completed", None, edited.id)
    picture = ("a.png", io.BytesIO(encoded(quarters(80, 50))))
    if Capability.VISION not in filmer.capabilities:
        with pytest.raises(openai.BadRequestError) as refused:
            client.videos.create(model=filmer.id, input_reference=picture, **ASK)
        assert refused.value.code == "model_capability_mismatch"
        return
    moved = ended(client, client.videos.create(model=filmer.id, input_reference=picture, **ASK).id)
    assert (moved.status, moved.error) == ("completed", None)
    longer = client.videos.extend(
        prompt="On.", seconds="4", video=("a.mp4", io.BytesIO(tiny_mp4())), extra_body={"model": filmer.id}
    )
    whole = ended(client, longer.id)
    assert (whole.status, whole.error) == ("completed", None)
    levels = brightness(client.videos.download_content(whole.id).read())
    assert levels[:8] == pytest.approx(brightness(tiny_mp4()), abs=6)
    assert len(levels) == 8 + 15, "the first frame of what follows is the last one before"


def test_cancelling_stops_the_pipeline_between_steps(client: openai.OpenAI, server: Served, filmer: Model) -> None:
    begun = client.videos.create(model=filmer.id, extra_body={"steps": "500"}, **ASK)
    end = time.monotonic() + 60
    while client.videos.retrieve(begun.id).progress == 0:
        assert time.monotonic() < end
        time.sleep(0.1)
    told = httpx.post(f"{server.v1}/videos/{begun.id}/cancel", timeout=30).json()
    assert (told["status"], told["error"]["code"]) == ("failed", "cancelled")
    after = ended(client, client.videos.create(model=filmer.id, **ASK).id, within=60)
    assert after.status == "completed", "the worker is free again"


def test_a_video_goes_on_after_its_server_was_killed(tmp_path: Path) -> None:
    configured(tmp_path)
    name = FILMERS[0].id
    with served(tmp_path) as first, openai.OpenAI(base_url=first.v1, api_key="none", max_retries=0) as client:
        begun = client.videos.create(model=name, extra_body={"steps": "300", "seed": "5"}, **ASK)
        end = time.monotonic() + 120
        while client.videos.retrieve(begun.id).status != "in_progress":
            assert time.monotonic() < end
            time.sleep(0.1)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(10)
    with served(tmp_path) as second, openai.OpenAI(base_url=second.v1, api_key="none", max_retries=0) as client:
        video = ended(client, begun.id)
        assert (video.status, video.error) == ("completed", None)
        assert client.videos.download_content(video.id).read()[4:8] == b"ftyp"
