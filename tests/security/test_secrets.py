"""A provider's key, a caller's key and a prompt are planted; then everything that leaves a trace is searched."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tests.fakes.server import Fault
from tests.security.conftest import CHAT, PROVIDER_KEY, OpenSite

CALLER = "planted-caller-key-zyxwvutsrqponm"
ADMIN = "planted-admin-key-zyxwvutsrqponm"
PROMPT = "planted-prompt-marker-qwertzuiop"
FAULTS = (
    Fault(),
    Fault(status=400, message=f"You sent {PROVIDER_KEY} and {PROMPT}."),
    Fault(status=500, message=f"Oops: {PROVIDER_KEY} {PROMPT}"),
    Fault(status=503, message=f"{PROVIDER_KEY}", content_type="text/html"),
    Fault(malformed_after=1),
    Fault(die_after=1),
    Fault(bad_json=True),
    Fault(status=401, message=f"Incorrect API key provided: {PROVIDER_KEY}."),
)


async def test_what_was_planted_is_found_nowhere(site: OpenSite, logs: io.StringIO, tmp_path: Path) -> None:
    """Success, 4xx, 5xx, a crash, a provider that repeats the key; at debug level."""
    errors: list[str] = []
    headers = {"authorization": f"Bearer {CALLER}"}
    async with site(api_keys=CALLER, admin_keys=ADMIN) as running:
        ask = {**CHAT, "messages": [{"role": "user", "content": PROMPT}]}
        traces = []
        for fault in FAULTS:
            for stream in (False, True):
                running.provider.script(fault, fault)
                body = {**ask, "model": "far", "stream": stream}
                answer = await running.client.post("/v1/chat/completions", json=body, headers=headers)
                traces.append(answer.headers.get("x-roundhouse-trace"))
                if answer.status_code != 200 or b'"error"' in answer.content:
                    errors.append(answer.text)
        for bad in (
            {**ask, "temperature": PROMPT},
            {**ask, "model": PROMPT[:5]},
            {**ask, PROMPT: 1, "stop": [PROMPT] * 9},
        ):
            errors.append((await running.client.post("/v1/chat/completions", json=bad, headers=headers)).text)  # noqa: PERF401
        wrong = {"authorization": f"Bearer {CALLER}x"}
        errors.append((await running.client.post("/v1/chat/completions", json=ask, headers=wrong)).text)
        local = await running.client.post("/v1/chat/completions", json=ask, headers=headers)
        assert local.status_code == 200
        (worker,) = running.house.pool.snapshot().workers
        process = Path(f"/proc/{worker.pid}")
        if process.exists():  # noqa: ASYNC240
            errors.append(process.joinpath("cmdline").read_bytes().decode(errors="replace"))
            errors.append(process.joinpath("environ").read_bytes().decode(errors="replace"))
        boss = {"authorization": f"Bearer {ADMIN}"}
        kept: list[str] = []
        for path in ("/metrics", "/v1/usage", "/v1/models", "/v1/models/far", "/v1/admin/workers",
                     "/v1/admin/workers/near/log", *(f"/v1/traces/{t}" for t in traces if t)):  # fmt: skip
            kept.append((await running.client.get(path, headers=boss)).text)  # noqa: PERF401
    logged = logs.getvalue()
    assert "request" in logged, "nothing was logged, so nothing was searched"
    assert len(errors) + len(kept) > 20
    for secret in (PROVIDER_KEY, PROVIDER_KEY[4:], CALLER, ADMIN, PROMPT):
        assert secret not in logged
        # What a provider says about a prompt goes to the caller who sent that prompt, and to nobody else.
        for seen in (*kept, *(errors if secret != PROMPT else ())):
            assert secret not in seen, seen[:600]
        for file in tmp_path.rglob("*"):  # noqa: ASYNC240
            if file.is_file():
                assert secret.encode() not in file.read_bytes(), file


@pytest.mark.parametrize("prompts", [False, True])
async def test_prompts_are_written_only_when_the_setting_says_so(site: OpenSite, prompts: bool) -> None:
    async with site(log={"level": "debug", "prompts": prompts}) as running:
        assert running.services.settings.log.prompts is prompts
        assert (await running.client.post("/v1/chat/completions", json=CHAT)).status_code == 200
