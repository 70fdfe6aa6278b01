"""Settings of calls to upstreams: timeouts, bounds of sizes, proxy and certificates."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, StringConstraints, field_validator
from yarl import URL

from backends.base import Timeouts
from catalog.store.file_checks import read_regular
from catalog.validation.section import Section


class FetchSettings(Section):
    """The hosts from which pictures and videos in a chat may be fetched by URL; with none, nothing is fetched."""

    hosts: tuple[Annotated[str, StringConstraints(pattern=r"^(\*\.)?[a-z0-9.-]+$")], ...] = Field(
        default=(),
        description="names in lower case; '*.example.com' is every name below example.com",
        examples=[["images.example.com", "*.example.org"]],
    )
    ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = Field(
        default=(80, 443), description="ports of those hosts that may be connected to"
    )
    timeout: float = Field(
        default=10.0, gt=0, description="seconds for a whole picture or video, its lookup included"
    )
    max_bytes: int = Field(default=20 * 1024 * 1024, gt=0, description="largest picture, in bytes")
    max_video_bytes: int = Field(default=64 * 1024 * 1024, gt=0, description="largest video, in bytes")


class BackendSettings(Section):
    """Defaults for every upstream; an endpoint's row may set times of its own.

    Times are in seconds, sizes in bytes. The only proxy is ``proxy``; none is read from the environment.
    """

    connect_timeout: float = Field(default=5.0, gt=0, description="seconds until a connection is established")
    first_byte_timeout: float = Field(
        default=120.0,
        gt=0,
        description="seconds until an answer begins; until it ends, if it is short and not streamed",
    )
    idle_timeout: float = Field(default=60.0, gt=0, description="seconds between two pieces of an answer")
    total_timeout: float = Field(default=900.0, gt=0, description="seconds for a whole call")

    video_poll: float = Field(
        default=5.0, gt=0, description="most seconds between two looks at a video that a provider makes"
    )

    max_queue: int = Field(
        default=256, ge=1, description="calls that may wait for an endpoint that has max_concurrency"
    )
    keepalive: float = Field(default=15.0, ge=0, description="seconds for which an idle connection is kept")
    max_response_bytes: int = Field(default=512 * 1024 * 1024, gt=0, description="largest whole answer, in bytes")
    max_event_bytes: int = Field(
        default=32 * 1024 * 1024, gt=0, description="largest event of a stream, or JSON answer, in bytes"
    )
    max_error_bytes: int = Field(default=64 * 1024, gt=0, description="bytes that are read of an error's body")

    proxy: SecretStr | None = Field(
        default=None,
        description="proxy for remote upstreams: http://host:port, which may have a user and password",
        examples=["http://proxy.example:3128"],
    )
    fetch: FetchSettings = FetchSettings()
    ca_file: Path | None = Field(
        default=None,
        description="PEM file of certificates to trust instead of the system's",
        examples=["/etc/ssl/certs/company.pem"],
    )

    @field_validator("proxy")
    @classmethod
    def _usable(cls, proxy: SecretStr | None) -> SecretStr | None:
        if proxy is not None:
            try:
                url = URL(proxy.get_secret_value())
            except ValueError:
                url = URL()
            if url.scheme != "http" or not url.raw_host:
                raise ValueError("a proxy is 'http://host:port'; others (https://, socks5://) are not supported")
        return proxy

    @field_validator("ca_file")
    @classmethod
    def _certificates(cls, file: Path | None) -> Path | None:
        if file is not None:
            try:
                file = file.expanduser()
                read_regular(file)
                ssl.create_default_context(cafile=str(file))
            except OSError as error:  # also ssl.SSLError
                reason = error.strerror or "no certificates are in it"
                raise ValueError(f"{file} cannot be read ({reason}); name a file of certificates in PEM") from None
        return file

    def timeouts(self) -> Timeouts:
        """The times of an endpoint that sets none of its own."""
        return Timeouts(
            connect=self.connect_timeout,
            first_byte=self.first_byte_timeout,
            idle=self.idle_timeout,
            total=self.total_timeout,
        )
