"""AWS credentials and Signature Version 4, by botocore.

Without a ``profile`` or ``credentials_file``, botocore looks where AWS's other tools do: the ``AWS_`` variables,
the shared files, single sign-on, a role of the container or of the machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from yarl import URL

from backends.base import Upstream
from backends.clouds.renewed import Accounts, Freshness, Renewed
from backends.settings import BackendSettings
from catalog.clouds import CloudAccount
from catalog.errors import (
    EngineMissing,
    ModelUnavailable,
    RoundhouseError,
    UpstreamRejectedKey,
    UpstreamUnreachable,
)
from catalog.installing import install_command

SERVICE = "bedrock"
"""The name that a signature is made for."""

LARGE = 256 * 1024
"""Bytes of a body from which it is signed in a thread: its digest is part of the signature."""

_EXPIRED_WITHIN = 60
"""Seconds before their end at which credentials are no longer used."""


@dataclass(frozen=True, slots=True)
class AwsCredentials:
    """A snapshot of credentials, and botocore's own object, which knows how to renew them."""

    source: Any = field(repr=False)
    frozen: Any = field(repr=False)


class AwsAccounts(Accounts[AwsCredentials]):
    """The credentials of all Bedrock endpoints; :meth:`sign` is the signer of their calls."""

    async def sign(
        self, upstream: Upstream, method: str, url: URL, headers: Mapping[str, str], body: bytes | None
    ) -> Mapping[str, str]:
        """The headers of the signature; none if the endpoint has an API key.

        Raises EngineMissing without botocore, ModelUnavailable without credentials, UpstreamRejectedKey when AWS
        refuses to renew them, UpstreamUnreachable when it cannot be asked.
        """
        if upstream.api_key:
            return {}
        credentials = await self.of(upstream).get()
        request = (credentials.frozen, upstream.cloud.region, method, url, headers, body)
        if body is not None and len(body) >= LARGE:
            return await asyncio.to_thread(_signature, *request)
        return _signature(*request)

    def renewed(self, endpoint: str, account: CloudAccount) -> Renewed[AwsCredentials]:
        """See :class:`Accounts`."""
        return Renewed(_Renewal(endpoint, account, self.settings), _freshness)


class _Renewal:
    """Makes the next credentials; runs in a thread."""

    def __init__(self, endpoint: str, account: CloudAccount, settings: BackendSettings) -> None:
        self._endpoint = endpoint
        self._account = account
        self._settings = settings

    def __call__(self, last: AwsCredentials | None) -> AwsCredentials:
        try:
            exceptions = import_module("botocore.exceptions")
            import_module("botocore.auth")  # here, and not on the event loop by the first signature
        except ImportError:
            raise EngineMissing.told(
                "Calls to Amazon Bedrock without an API key need one more package (botocore is missing). "
                f"Install it with: {install_command('bedrock')}"
            ) from None
        try:
            source = self._load() if last is None else last.source
            if source is None:
                raise exceptions.NoCredentialsError
            return AwsCredentials(source, source.get_frozen_credentials())
        except (exceptions.BotoCoreError, exceptions.ClientError, RuntimeError, OSError, ValueError) as error:
            raise self._translated(error, exceptions) from None

    def _load(self) -> Any:
        account = self._account
        # A file that is named here wins over the variables, as a profile does in botocore.
        profile = account.profile or ("default" if account.credentials_file is not None else None)
        session = import_module("botocore.session").Session(profile=profile)
        if account.credentials_file is not None:
            session.set_config_variable("credentials_file", str(Path(account.credentials_file).expanduser()))
        if self._settings.ca_file is not None:
            session.set_config_variable("ca_bundle", str(self._settings.ca_file))
        proxy = self._settings.proxy
        proxies = {} if proxy is None else {"https": proxy.get_secret_value(), "http": proxy.get_secret_value()}
        config = import_module("botocore.config").Config
        session.set_default_client_config(config(proxies=proxies, connect_timeout=5, read_timeout=10))
        return session.get_credentials()

    def _translated(self, error: Exception, exceptions: Any) -> RoundhouseError:
        """The typed error, without the library's text: it may quote an answer of a token server."""
        endpoint = f"The endpoint '{self._endpoint}'"
        if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
            return UpstreamUnreachable(f"{endpoint}: AWS could not be asked for credentials.")
        absent = (
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.ProfileNotFound,
            exceptions.ConfigNotFound,
            exceptions.ConfigParseError,
            OSError,
            ValueError,
        )
        if isinstance(error, absent):
            return ModelUnavailable(
                f"{endpoint} has no AWS credentials to use: {self._lack(error, exceptions)}.", param="model"
            )
        return UpstreamRejectedKey(f"{endpoint}: AWS gave no credentials ({type(error).__name__}); renew them.")

    def _lack(self, error: Exception, exceptions: Any) -> str:
        """The missing credential and the remedy. Callers read it, so it names neither the file nor the profile."""
        account = self._account
        where = "AWS's configuration" if account.credentials_file is None else "its credentials_file"
        if isinstance(error, exceptions.ProfileNotFound):
            wanted = "the 'profile' of its row" if account.profile else "a profile called 'default'"
            return f"{where} lacks {wanted}; add it there, or correct the row"
        if isinstance(error, exceptions.PartialCredentialsError):
            return f"{where} has an id of a key without its secret, or a secret without its id; complete them"
        if isinstance(error, exceptions.ConfigParseError | ValueError):
            return f"{where} is not in AWS's format; correct the file"
        if isinstance(error, exceptions.ConfigNotFound | OSError):
            return f"{where} cannot be read; check that the file is there and may be read"
        if account.profile or account.credentials_file is not None:
            return f"{where} has none for this profile; add aws_access_key_id and aws_secret_access_key there"
        return (
            "there are none in AWS's usual places. Set its 'profile', its 'credentials_file', or a Bedrock API "
            "key in 'key_env'"
        )


def _freshness(credentials: AwsCredentials) -> Freshness:
    needs = getattr(credentials.source, "refresh_needed", None)
    if needs is None or not needs():
        return Freshness.FRESH
    return Freshness.EXPIRED if needs(_EXPIRED_WITHIN) else Freshness.STALE


def _signature(
    credentials: Any, region: str | None, method: str, url: URL, headers: Mapping[str, str], body: bytes | None
) -> dict[str, str]:
    signed = {
        name: value
        for name, value in headers.items()
        if name.lower() == "content-type" or name.lower().startswith("x-amz")
    }
    signed["host"] = url.host_port_subcomponent or ""
    request = import_module("botocore.awsrequest").AWSRequest(
        method=method, url=str(url), data=body, headers=signed
    )
    import_module("botocore.auth").SigV4Auth(credentials, SERVICE, region).add_auth(request)
    names = ("Authorization", "X-Amz-Date", "X-Amz-Security-Token")
    return {name.lower(): request.headers[name] for name in names if name in request.headers}
