"""OpenAI's own tests of its Python SDK's resources, which its source package holds, against the server.

The tests are written for a mock that takes any id and value. A door between them and the server puts an object
made for the request in the place of an example id, and an allowed value in the place of one that is not. The table
counts the tests of each resource; one fails if its reason is not among :data:`EXPECTED`.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from openai import OpenAI, OpenAIError
from task import KEY, MODEL, URL

SUITE = Path(sys.prefix) / "source" / "tests"
RESOURCES = [
    *("chat", "completions", "embeddings", "responses", "conversations", "images", "audio", "files", "uploads"),
    *("batches", "moderations", "models"),
]
DATA = b"Example data"
NO_USERS = "the SDK's types know no user's messages here, which OpenAI sends"
EXPECTED = (
    ("", "There is nothing at this path", "not served"),
    ("", "This path does not take this method", "not served"),
    ("test_models", "needs an admin key", "an operator's own method"),
    ("transcriptions", "timestamp_granularities", "of verbose_json alone, also at OpenAI"),
    ("test_images", "'partial_images' is only for", "a plain answer has no partial images"),
    ("test_images", "A stream carries pictures", "a stream carries no addresses"),
    ("responses.", "'input' is empty", "a response without any input"),
    ("test_completions", "'stream_options' is only for", "of streams alone, also at OpenAI"),
    ("chat.", "Send 'tools' alone", "one or the other, also at OpenAI"),
    ("responses.", "exclude each other", "one or the other, also at OpenAI"),
    ("test_responses", "'starting_after' is only for", "of streams alone, also at OpenAI"),
    ("test_responses", "made in the background can be resumed", "of background responses alone, also at OpenAI"),
    ("test_batches", "The batch has ended", "a batch of one line ends before it is cancelled"),
    ("test_embeddings", "Data returned by API invalid", "the SDK's strict mode does not read base64"),
    ("test_messages", "Data returned by API invalid", NO_USERS),
    ("test_messages", "'user' in ('assistant',)", NO_USERS),
    ("compact", "Data returned by API invalid", NO_USERS),
    ("compact", "Did not match any variants", NO_USERS),
)
"""Parts of a test's name and of its failure's reason that say nothing against the server, and what each means."""
VALUES = {
    r'"(best_of|bytes|max_completion_tokens|max_tokens|max_tool_calls)":0': r'"\1":1',
    r'"foo":0': '"50256":0',
    r'"md5":"md5"': f'"md5":"{hashlib.md5(DATA).hexdigest()}"',
    r"\blimit=0": "limit=1",
    r"\bafter=after&?": "",
}
"""Patterns of example values that a server rightly refuses, and allowed values."""
client = OpenAI(max_retries=0)
unmade: Counter[str] = Counter()
HELLO: Any = [{"role": "user", "content": "Say hello."}]
LINE = {
    "custom_id": "1",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": MODEL, "messages": HELLO},
}


def file() -> str:
    return client.files.create(file=("lines.jsonl", json.dumps(LINE).encode()), purpose="batch").id


def substitutes(path: str, text: str) -> dict[str, str]:
    """The example ids of a request, each with the id of an object that is there."""
    found: dict[str, str] = {}
    if "conv_123" in text:
        found["conv_123"] = client.conversations.create(items=[{"type": "message", **HELLO[0]}]).id
    if "msg_abc" in text:
        found["msg_abc"] = client.conversations.items.list(found["conv_123"]).data[0].id
    for example in ("resp_677efb5139a88190b512bc3fef8e535d", "previous_response_id", "response_id", "resp_123"):
        if f'"{example}"' in text or f"/{example}" in text:
            background = path.endswith("/cancel")
            found[example] = client.responses.create(
                model=MODEL, input="Hi.", background=background, store=True
            ).id
    if "completion_id" in path:
        found["completion_id"] = client.chat.completions.create(model=MODEL, messages=HELLO, store=True).id
    if "input_file_id" in text:
        found["input_file_id"] = file()
    elif "file_id" in path:
        found["file_id"] = file()
    if "batch_id" in path:
        asked: Any = {"completion_window": "24h", "endpoint": "/v1/chat/completions"}
        found["batch_id"] = client.batches.create(**asked, input_file_id=file()).id
    if "upload_abc123" in path:
        sized: Any = {"bytes": len(DATA), "filename": "a.txt", "mime_type": "text/plain", "purpose": "assistants"}
        found["upload_abc123"] = client.uploads.create(**sized).id
        if path.endswith("/complete"):
            found["string"] = client.uploads.parts.create(found["upload_abc123"], data=DATA).id
    return found


class Door(BaseHTTPRequestHandler):
    """Forwards a request with its example ids replaced, and the whole answer."""

    protocol_version = "HTTP/1.1"

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = self.path
        try:
            found = substitutes(path.partition("?")[0], path + body.decode(errors="replace"))
        except OpenAIError as error:  # without the object, the example id itself is asked for
            unmade[str(error)] += 1
            found = {}
        for example, real in found.items():  # a step of the path, or a value: never a field's name
            path = re.sub(rf"(?<=/){example}(?=/|\?|$)", real, path)
            body = re.sub(rf'(?<=[:\[])"{example}"'.encode(), f'"{real}"'.encode(), body)
        for pattern, value in VALUES.items():
            path, body = re.sub(pattern, value, path), re.sub(pattern.encode(), value.encode(), body)
        kept = {
            name: value for name, value in self.headers.items() if name.lower() not in ("host", "content-length")
        }
        request = urllib.request.Request(
            f"{URL}/v1{path}", body or None, {**kept, "authorization": f"Bearer {KEY}"}, method=self.command
        )
        try:
            answer = urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            data = answer.read()
        self.send_response(answer.status)
        self.send_header("content-type", answer.headers.get("content-type", "application/json"))
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = forward  # noqa: N815, the names that the base class calls

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


class Server(ThreadingHTTPServer):
    """A server of doors."""

    def handle_error(self, *_: Any) -> None:
        """Log nothing: the suite's clients leave without a word."""


def suite(url: str, report: Path) -> None:
    """Run the tests; their results are in ``report``, as JUnit's XML."""
    places = [SUITE / "api_resources" / name for name in RESOURCES]
    files = [str(place.with_name(f"test_{place.name}.py")) for place in places]
    folders = [str(place) for place in places if place.is_dir()]
    unserved = ["voices", "voice_consents"]
    left_out = [f"--ignore={SUITE / 'api_resources' / 'audio' / f'test_{name}.py'}" for name in unserved]
    options = [
        "-c",
        os.devnull,
        "--rootdir",
        str(SUITE.parent),
        "-q",
        "--no-header",
        "--tb=line",
        "-p",
        "no:cacheprovider",
    ]
    options += [
        "-o",
        "asyncio_mode=auto",
        "-o",
        "asyncio_default_fixture_loop_scope=session",
        f"--junitxml={report}",
    ]
    subprocess.call(
        [
            sys.executable,
            "-m",
            "pytest",
            *options,
            *left_out,
            *[name for name in files if Path(name).exists()],
            *folders,
        ],
        cwd=SUITE.parent,
        env={**os.environ, "TEST_API_BASE_URL": url},
        stdout=subprocess.DEVNULL,
    )


def table(report: Path) -> int:
    """Print the tests of each resource and why some failed; the number of failures that are not expected."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for case in ElementTree.parse(report).iter("testcase"):
        resource = case.get("classname", "").removeprefix("tests.api_resources.").rpartition(".")[0]
        fault = next((child for child in case if child.tag in ("failure", "error")), None)
        if fault is None:
            counts[resource]["skipped" if case.find("skipped") is not None else "passed"] += 1
            continue
        reason = (fault.get("message") or "?").splitlines()[0][:220]
        name = f"{case.get('classname')}.{case.get('name')}"
        known = next((why for test, part, why in EXPECTED if test in name and part in reason), None)
        counts[resource][known if known == "not served" else "failed" if known is None else "expected"] += 1
        reasons[resource][f"{known}: {reason}" if known else f"FAILED: {reason}"] += 1
    for resource, count in sorted(counts.items()):
        kinds = ("passed", "failed", "not served", "expected", "skipped")
        print(f"{resource:34}", *(f"{count[kind]:4} {kind}" for kind in kinds))
        for reason, times in reasons[resource].most_common():
            print(f"    {times} x {reason}")
    for reason, times in unmade.most_common():
        print(f"no object: {times} x {reason[:200]}")
    total = sum(counts.values(), Counter())
    print(", ".join(f"{count} {kind}" for kind, count in total.items()))
    return total["failed"]


server = Server(("127.0.0.1", 0), Door)
threading.Thread(target=server.serve_forever, daemon=True).start()
report = Path("report.xml").resolve()
suite(f"http://127.0.0.1:{server.server_port}", report)
sys.exit(1 if table(report) else 0)
