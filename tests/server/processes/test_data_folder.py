"""A running server leaves its address in its data folder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from catalog.errors import ConfigurationError
from server.processes.data_folder import ADDRESS_FILE, published, read_address
from server.processes.sockets import bind_public, reachable
from server.settings import ServerSettings, Settings

URL = "http://127.0.0.1:8123"


def test_the_address_is_there_while_the_server_runs_and_gone_after(tmp_path: Path) -> None:
    assert read_address(tmp_path) is None
    with published(tmp_path, URL, "http://127.0.0.1:9"):
        found = read_address(tmp_path)
        assert found is not None
        assert (found.url, found.admin_url, found.pid) == (URL, "http://127.0.0.1:9", os.getpid())
    assert not (tmp_path / ADDRESS_FILE).exists()


def test_the_address_of_a_process_that_was_killed_is_not_believed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from server.processes.data_folder import published\n"
        f"with published(Path(sys.argv[1]), {URL!r}, None): os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert (tmp_path / ADDRESS_FILE).exists()
    assert read_address(tmp_path) is None


def test_a_process_id_that_another_process_has_now_is_not_believed(tmp_path: Path) -> None:
    with published(tmp_path, URL, None):
        left = json.loads((tmp_path / ADDRESS_FILE).read_text())
    (tmp_path / ADDRESS_FILE).write_text(json.dumps({**left, "started": left["started"] - 3600}))
    assert read_address(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"url": "x"}', "\udcff"])
def test_a_damaged_file_is_no_address(tmp_path: Path, content: str) -> None:
    (tmp_path / ADDRESS_FILE).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert read_address(tmp_path) is None


def test_a_second_server_leaves_the_address_of_the_first(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from server.processes.data_folder import published\n"
        "with published(Path(sys.argv[1]), 'http://127.0.0.1:1', None): print('up', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"up\n"
        with published(tmp_path, URL, None):
            pass
        found = read_address(tmp_path)
        assert found is not None
        assert found.url == "http://127.0.0.1:1"
        first.communicate()
    assert read_address(tmp_path) is None


def test_a_port_that_a_server_of_ours_has_is_told_with_its_process(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings(data_dir=tmp_path, server=ServerSettings(port=port))
        with (
            published(tmp_path, f"http://127.0.0.1:{port}", None),
            pytest.raises(ConfigurationError, match=f"process {os.getpid()}.* stop"),
        ):
            bind_public(settings)
        with pytest.raises(ConfigurationError, match="Stop the program that uses it"):
            bind_public(settings)


def test_a_server_on_every_address_is_called_by_loopback() -> None:
    assert reachable("http://0.0.0.0:8000") == "http://127.0.0.1:8000"
    assert reachable("http://[::]:8000") == "http://[::1]:8000"
    assert reachable("http://10.0.0.7:8000") == "http://10.0.0.7:8000"
