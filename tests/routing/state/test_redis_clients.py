"""Redis by every address: TLS, passwords in files, Sentinels, a cluster; failovers and moved slots."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from catalog.errors import ConfigurationError
from routing.state.redis import RedisState
from routing.state.redis_clients import has_password, parse_address, redis_client
from routing.state.redis_peers import RedisPeers
from tests.e2e.serving import free_port
from tests.routing.state.stores import DAY, charge, hold, needs_redis_server


@asynccontextmanager
async def server(folder: Path, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Redis server with options of its own, in a folder of its own, until the block ends."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        *("redis-server", *options, "--save", "", "--appendonly", "no", "--dir", str(folder)),
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def answers(client: Redis, *command: str, want: Any = None) -> Any:
    """The answer of a server that is starting; with ``want``, once it is that."""
    async with asyncio.timeout(30):
        while True:
            try:
                answer = await client.execute_command(*command)  # type: ignore[no-untyped-call]
                if want is None or want(answer):
                    return answer
            except (RedisError, OSError):
                pass
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("url", "nodes", "service", "db"),
    [
        ("redis://h", (("h", 6379),), "", 0),
        ("rediss://u:p@h:7/3", (("h", 7),), "", 3),
        ("redis+sentinel://:p@a,b:9/main", (("a", 26379), ("b", 9)), "main", 0),
        ("rediss+sentinel://a/main/2?ssl_ca_certs=/c", (("a", 26379),), "main", 2),
        ("redis+cluster://a:1,[::1]:2", (("a", 1), ("::1", 2)), "", 0),
        ("unix:///run/redis.sock?db=1", (), "", 0),
    ],
)
def test_an_address_is_read(url: str, nodes: tuple[tuple[str, int], ...], service: str, db: int) -> None:
    address = parse_address(url)
    assert (address.nodes, address.service, address.db) == (nodes, service, db)
    assert ":p" not in address.place


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://h", "begins with redis://"),
        ("redis://a,b", "several servers are named"),
        ("redis+sentinel://a", "names no service"),
        ("redis+cluster://a/1", "no numbered databases"),
        ("redis://h/x", "must be a number"),
        ("redis://h:99999", "port"),
        ("redis+cluster://a:1,b:x", "port"),
    ],
)
def test_a_wrong_address_is_refused_with_the_reason(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_address(url)


@pytest.mark.parametrize(
    ("url", "has"),
    [
        ("redis://h:6379/0", False),
        ("rediss+sentinel://rh@s1:26379,s2:26379/main", False),
        ("redis+cluster://rh:secret@a:1,b:2", True),
        ("redis://:secret@h", True),
        ("unix://:secret@/run/redis.sock", True),
    ],
)
def test_a_password_in_an_address_is_seen(url: str, *, has: bool) -> None:
    assert has_password(url) is has


@needs_redis_server
async def test_over_tls_the_server_is_checked_against_the_authority(tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(tmp_path / "cert.pem", append=bool(number))
    for name, which in (("ca.pem", authority), ("other.pem", other)):
        which.cert_pem.write_to_path(tmp_path / name)
    port = free_port()
    tls = ("--port", "0", "--tls-port", str(port), "--tls-cert-file", str(tmp_path / "cert.pem"))
    async with server(
        tmp_path / "d", *tls, "--tls-key-file", str(tmp_path / "key.pem"), "--tls-auth-clients", "no"
    ):
        url = f"rediss://localhost:{port}/0?ssl_ca_certs={tmp_path}"
        async with redis_client(f"{url}/ca.pem", prefix="rh") as client:
            await answers(client, "PING")
        state = RedisState(f"{url}/ca.pem")
        await state.start()
        await state.charge(charge(None, 5))
        await state.close()
        with pytest.raises(ConfigurationError, match="does not answer"):
            await RedisState(f"{url}/other.pem").start()


@needs_redis_server
async def test_a_password_in_a_file_is_read_at_each_new_connection(tmp_path: Path) -> None:
    file, socket = tmp_path / "password", tmp_path / "redis.sock"
    file.write_text("first\n")
    async with server(tmp_path / "d", "--port", "0", "--unixsocket", str(socket), "--requirepass", "first"):
        operator = Redis.from_url(f"unix://:first@{socket}")
        await answers(operator, "PING")
        state = RedisState(f"unix://{socket}", password_file=file)
        await state.start()
        await state.charge(charge(None, 5))
        await operator.config_set("requirepass", "second")
        file.write_text("second\n")
        await operator.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # type: ignore[no-untyped-call]
        await asyncio.wait_for(state.charge(charge(None, 7)), 30)
        assert (await state.counts("spend/"))[DAY.name] == 12
        await state.close()
        await operator.aclose()
    with pytest.raises(ConfigurationError) as refused:
        await RedisState(f"unix://{socket}", password_file=file).start()
    assert "second" not in str(refused.value)


@needs_redis_server
async def test_after_a_failover_the_state_goes_on_at_the_new_master(tmp_path: Path) -> None:
    first, second, watcher = free_port(), free_port(), free_port()
    conf = tmp_path / "sentinel.conf"
    conf.write_text(
        f"port {watcher}\nsentinel monitor main 127.0.0.1 {first} 1\nsentinel down-after-milliseconds main 300\n"
        "sentinel failover-timeout main 3000\n"
    )
    async with AsyncExitStack() as stack:
        master = await stack.enter_async_context(server(tmp_path / "a", "--port", str(first)))
        replica_of = (
            "--port",
            str(second),
            "--replicaof",
            "127.0.0.1",
            str(first),
            "--repl-diskless-sync-delay",
            "0",
        )
        await stack.enter_async_context(server(tmp_path / "b", *replica_of))
        replica = Redis(port=second, decode_responses=True)
        stack.push_async_callback(replica.aclose)
        await answers(replica, "INFO", "replication", want=lambda told: told["master_link_status"] == "up")
        sentinel = await asyncio.create_subprocess_exec(
            *("redis-server", str(conf), "--sentinel"), stdout=asyncio.subprocess.DEVNULL
        )
        stack.push_async_callback(sentinel.wait)
        stack.callback(sentinel.kill)
        asked = Redis(port=watcher, decode_responses=True)
        stack.push_async_callback(asked.aclose)
        await answers(asked, "SENTINEL", "REPLICAS", "main", want=bool)

        state = RedisState(f"redis+sentinel://127.0.0.1:1,127.0.0.1:{watcher}/main")
        await state.start()
        await state.charge(charge(None, 5))
        async with asyncio.timeout(10):
            while not await replica.exists("{rh}:c:" + DAY.name):
                await asyncio.sleep(0.01)
        master.kill()
        await asyncio.wait_for(state.charge(charge(None, 7)), 60)
        assert (await state.counts("spend/"))[DAY.name] == 12, "what was charged meanwhile is there, once"
        assert await replica.get("{rh}:c:" + DAY.name) == "12"
        assert await state.hold(hold(1, 60), 5.0) is None
        assert (await state.hold(hold(2, 60), 5.0)) == DAY, "limits hold at the new master"
        await state.close()


@asynccontextmanager
async def cluster(folder: Path, ports: list[int]) -> AsyncIterator[list[Redis]]:
    """A Redis Cluster of masters, each with its share of the slots."""
    async with AsyncExitStack() as stack:
        nodes = []
        for port in ports:
            options = ("--port", str(port), "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
            await stack.enter_async_context(server(folder / str(port), *options))
            nodes.append(Redis(port=port, decode_responses=True))
            stack.push_async_callback(nodes[-1].aclose)
        for number, node in enumerate(nodes):
            await answers(node, "PING")
            share = 16384 // len(nodes)
            end = 16383 if node is nodes[-1] else share * (number + 1) - 1
            await node.execute_command("CLUSTER", "ADDSLOTSRANGE", share * number, end)  # type: ignore[no-untyped-call]
        for port, node in zip(ports, nodes, strict=True):
            bus = (await node.config_get("cluster-port"))["cluster-port"]
            await nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus)  # type: ignore[no-untyped-call]
        for node in nodes:
            await answers(node, "CLUSTER", "INFO", want=lambda told: "cluster_state:ok" in told)
        yield nodes


@needs_redis_server
async def test_in_a_cluster_the_state_follows_its_slot_to_another_node(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    async with cluster(tmp_path, ports) as nodes:
        slot = key_slot(b"rh")
        owner, other = (nodes[0], nodes[1]) if slot < 8192 else (nodes[1], nodes[0])
        to = ports[nodes.index(other)]
        state = RedisState(f"redis+cluster://127.0.0.1:1,127.0.0.1:{to}")
        await state.start()
        peers = RedisPeers(f"redis+cluster://127.0.0.1:{ports[0]}")
        told = RedisPeers(f"redis+cluster://127.0.0.1:{ports[1]}")

        async def echo(question: Any) -> Any:
            return question

        await peers.start(echo)
        await told.start(echo)
        await state.charge(charge(None, 5))
        assert await state.hold(hold(1, 60), 5.0) is None
        assert await peers.ask({"n": 1}) == {"n": 1}

        ids = [await node.execute_command("CLUSTER", "MYID") for node in (owner, other)]  # type: ignore[no-untyped-call]
        await other.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])  # type: ignore[no-untyped-call]
        await owner.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])  # type: ignore[no-untyped-call]
        keys = await owner.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000)  # type: ignore[no-untyped-call]
        await owner.execute_command("MIGRATE", "127.0.0.1", to, "", 0, 5000, "KEYS", *keys)  # type: ignore[no-untyped-call]
        for node in (other, owner):
            await node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])  # type: ignore[no-untyped-call]

        await asyncio.wait_for(state.charge(charge(None, 7)), 30)
        assert (await state.counts("spend/"))[DAY.name] == 72
        assert await state.hold(hold(2, 60), 5.0) == DAY
        await peers.close()
        await told.close()
        await state.close()
