"""Clients of one Redis or Valkey server, of one that Sentinels watch, and of a Redis Cluster, by their address.

All keys of a state are in one slot of a cluster (:mod:`routing.state.redis`), so one server of it has all of them,
and the client of a cluster speaks with that server alone: it asks any node for the owner of the slot when it
connects, and again when it is told that the slot has moved. Sentinels are asked for the master in the same way.

============================================  ==============================================
``redis://``, ``rediss://`` (TLS)             ``[USER:PASSWORD@]HOST[:PORT][/DB]``
``unix://``                                   ``[USER:PASSWORD@]PATH[?db=DB]``
``redis+sentinel://``, ``rediss+sentinel://``  ``[USER:PASSWORD@]HOST[:PORT][,...]/SERVICE[/DB]``
``redis+cluster://``, ``rediss+cluster://``   ``[USER:PASSWORD@]HOST[:PORT][,...]``
============================================  ==============================================

Options after ``?`` are those of redis-py: ``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile``, ``ssl_cert_reqs``.
``sentinel_username`` and ``sentinel_password`` are for the Sentinels' own accounts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

if TYPE_CHECKING:
    from redis.asyncio import Redis

PLAIN = ("redis", "rediss", "unix")
SENTINEL = ("redis+sentinel", "rediss+sentinel")
CLUSTER = ("redis+cluster", "rediss+cluster")
SCHEMES = (*PLAIN, *SENTINEL, *CLUSTER)
SENTINEL_PORT, PORT = 26379, 6379
_ASK_WITHIN = 1.0
"""Seconds in which a Sentinel or a node says where a server is; then the next one is asked."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """An address in its parts. ``nodes`` are Sentinels, or nodes of a cluster."""

    scheme: str
    nodes: tuple[tuple[str, int], ...]
    user: str
    service: str
    db: int
    query: tuple[tuple[str, str], ...]

    @property
    def place(self) -> str:
        """The address as messages show it: without user and password."""
        return ", ".join(f"{host}:{port}" for host, port in self.nodes) or "its socket"


def parse_address(url: str) -> RedisAddress:
    """The parts of an address. Raises ValueError, which says what is wrong without showing a password."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"begins with {', '.join(f'{scheme}://' for scheme in SCHEMES[:-1])} or {SCHEMES[-1]}://")
    user, _, hosts = parts.netloc.rpartition("@")
    default = SENTINEL_PORT if parts.scheme in SENTINEL else PORT
    nodes = () if parts.scheme == "unix" else tuple(_node(host, default) for host in hosts.split(","))
    if parts.scheme in ("redis", "rediss") and len(nodes) > 1:
        raise ValueError("several servers are named: begin with redis+sentinel:// or redis+cluster://")
    path = [part for part in parts.path.split("/") if part]
    if parts.scheme in SENTINEL and not path:
        raise ValueError("names no service: redis+sentinel://HOST:PORT/SERVICE")
    if parts.scheme in CLUSTER and path:
        raise ValueError("a cluster has no numbered databases: leave the path out")
    service, db = ("", path[:1]) if parts.scheme in PLAIN else ("".join(path[:1]), path[1:2])
    if parts.scheme != "unix" and db and not db[0].isdecimal():
        raise ValueError("its database must be a number")
    number = int(db[0]) if parts.scheme != "unix" and db else 0
    return RedisAddress(parts.scheme, nodes, user, service, number, tuple(parse_qsl(parts.query)))


def has_password(url: str) -> bool:
    """Whether an address has a password in it; a user's name alone is none."""
    return ":" in url.partition("://")[2].rpartition("@")[0]


def redis_client(url: str, *, prefix: str, password_file: Path | None = None, **options: Any) -> Redis:
    """A client by its address, not connected yet. ``options`` are those of redis-py's connections.

    The password in ``password_file`` is read at each new connection, so that it may be changed while the server
    runs. Raises ValueError as :func:`parse_address` does.
    """
    from redis.asyncio import Redis

    address = parse_address(url)
    if password_file is not None:
        options["credential_provider"] = _FileCredentials(address.user.partition(":")[0], password_file)
    if address.scheme in PLAIN:
        return Redis.from_url(url if password_file is None else _without_user(url), **options)
    return _managed_client(address, prefix, options)


def _managed_client(address: RedisAddress, prefix: str, options: Mapping[str, Any]) -> Redis:
    """The client of a server that has to be looked for."""
    from redis.asyncio import Redis
    from redis.asyncio.connection import parse_url
    from redis.asyncio.sentinel import SentinelConnectionPool

    own = {name: value for name, value in address.query if name.startswith("sentinel_")}
    rest = urlencode([(name, value) for name, value in address.query if name not in own])
    user = f"{address.user}@" if address.user and "credential_provider" not in options else ""
    scheme = address.scheme.partition("+")[0]
    kwargs: dict[str, Any] = {**parse_url(f"{scheme}://{user}localhost/{address.db}?{rest}"), **options}
    for name in ("host", "port", "connection_class"):
        kwargs.pop(name, None)
    asking = {**kwargs, "socket_timeout": _ASK_WITHIN, "socket_connect_timeout": _ASK_WITHIN, "db": 0}
    if scheme == "rediss":
        kwargs["ssl"] = asking["ssl"] = True
    if address.scheme in SENTINEL:
        for name in ("credential_provider", "username", "password"):
            asking.pop(name, None)
        asking |= {name.removeprefix("sentinel_"): value for name, value in own.items()}
        finder = _Finder(address.nodes, asking, partial(_master, address.service))
    else:
        finder = _Finder(address.nodes, asking, partial(_slot_owner, prefix))
        kwargs["connection_class"] = _cluster_connection(tls=bool(kwargs.pop("ssl", False)))
    return Redis.from_pool(SentinelConnectionPool(address.service, finder, **kwargs))  # type: ignore[no-untyped-call]


Nodes = Sequence[tuple[str, int]]
Find = Callable[["Redis", str], Awaitable[tuple[tuple[str, int] | None, Nodes]]]
"""Asks a node, whose host is given, for the address of the server; and which other nodes there are."""


class _Finder:
    """Asks Sentinels or nodes for a server's address, with the interface of redis-py's ``Sentinel``."""

    def __init__(self, nodes: Nodes, options: Mapping[str, Any], find: Find) -> None:
        self._nodes = [*nodes]
        self._options = options
        self._find = find

    async def discover_master(self, service: str) -> tuple[str, int]:
        """The address. Nodes that it learns of are asked, too, the next time.

        Raises redis-py's ConnectionError if no node knows one.
        """
        from redis.asyncio import Redis
        from redis.exceptions import ConnectionError as Unreachable
        from redis.exceptions import RedisError

        last: Exception | None = None
        for host, port in tuple(self._nodes):
            client = Redis(host=host, port=port, **self._options)
            try:
                found, nodes = await self._find(client, host)
            except (RedisError, OSError) as error:
                last = error
                continue
            finally:
                await client.aclose()
            self._nodes += [node for node in nodes if node not in self._nodes]
            if found is not None:
                return found
        raise Unreachable(f"none that was asked knows the server {service}".strip()) from last


async def _master(service: str, client: Redis, asked: str) -> tuple[tuple[str, int] | None, Nodes]:
    """The master that a Sentinel names. Source: https://redis.io/docs/latest/develop/reference/sentinel-clients/"""
    del asked
    found = await client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", service)  # type: ignore[no-untyped-call]
    return (None if not found else (_text(found[0]), int(found[1]))), ()


async def _slot_owner(prefix: str, client: Redis, asked: str) -> tuple[tuple[str, int] | None, Nodes]:
    """The node that owns the slot of the state's keys, and all masters of the cluster."""
    from redis.crc import key_slot

    slot = key_slot(prefix.encode())
    found = await client.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
    rows = [(first, end, (_text(owner[0]) or asked, int(owner[1]))) for first, end, owner, *_ in _rows(found)]
    owners = [node for first, end, node in rows if first <= slot <= end]
    return (owners[0] if owners else None), [node for _, _, node in rows]


def _rows(found: Any) -> Sequence[Any]:
    """The reply of CLUSTER SLOTS: first and last slot, then the owner and its replicas."""
    if isinstance(found, Mapping):  # as redis-py's cluster client reads it
        return [(*slots, node["primary"]) for slots, node in found.items()]
    rows: Sequence[Any] = found
    return rows


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


def _cluster_connection(*, tls: bool) -> type:
    """A class of connections that look for another server once this one no longer owns the slot."""
    from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
    from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError
    from redis.exceptions import ConnectionError as Unreachable

    base: Any = SentinelManagedSSLConnection if tls else SentinelManagedConnection

    class ClusterConnection(base):  # type: ignore[misc]
        async def read_response(self, *args: Any, **options: Any) -> Any:
            try:
                return await super().read_response(*args, **options)
            except (MovedError, AskError, TryAgainError, ClusterDownError) as error:
                await self.disconnect()
                raise Unreachable("the state's slot has moved to another node") from error

    return ClusterConnection


class _FileCredentials:
    """redis-py's ``CredentialProvider``: the user's name, and the password that a file has at the moment."""

    def __init__(self, user: str, file: Path) -> None:
        self._user = user
        self._file = file

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = self._file.read_text("utf-8").strip()
        return (self._user, password) if self._user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


def _node(host: str, default: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname or "localhost", default if parts.port is None else parts.port
    except ValueError:
        raise ValueError("its port must be a number up to 65535") from None


def _without_user(url: str) -> str:
    """A plain address without user and password, as redis-py takes either these or a file's."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
