"""Access tokens of Google Cloud, by google-auth: from a file, or as Google's own tools find them.

Without a ``credentials_file`` the library looks for application default credentials: the file named by
``GOOGLE_APPLICATION_CREDENTIALS`` or made by gcloud, then the metadata server of Google's machines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
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
from catalog.store.credential_files import read_google_credentials

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
TOKEN_TIMEOUT = 10.0
"""Seconds for one request to a token or metadata server. The library repeats some."""

_READERS: Mapping[str, tuple[str, str]] = {
    "service_account": ("google.oauth2.service_account", "from_service_account_info"),
    "authorized_user": ("google.oauth2.credentials", "from_authorized_user_info"),
    "external_account_authorized_user": ("google.auth.external_account_authorized_user", "from_info"),
    "impersonated_service_account": (
        "google.auth.impersonated_credentials",
        "from_impersonated_service_account_info",
    ),
}
"""By the ``type`` in a credentials file: the module and method of google-auth that read it."""

_FRESHNESS = {"FRESH": Freshness.FRESH, "STALE": Freshness.STALE, "INVALID": Freshness.EXPIRED}


@dataclass(frozen=True, slots=True)
class AccessToken:
    """Headers that authenticate a call, and the credentials that they were made of."""

    credentials: Any = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


class GoogleAccounts(Accounts[AccessToken]):
    """The tokens of all Vertex endpoints; :meth:`sign` is the signer of their calls."""

    async def sign(
        self, upstream: Upstream, method: str, url: URL, headers: Mapping[str, str], body: bytes | None
    ) -> Mapping[str, str]:
        """The header with the token; none if the endpoint has an API key.

        Raises EngineMissing without google-auth, ModelUnavailable without credentials, UpstreamRejectedKey when
        Google refuses them, UpstreamUnreachable when no token server answers.
        """
        del method, url, headers, body
        return {} if upstream.api_key else (await self.of(upstream).get()).headers

    def renewed(self, endpoint: str, account: CloudAccount) -> Renewed[AccessToken]:
        """See :class:`Accounts`."""
        return Renewed(_Renewal(endpoint, account, self.settings), _freshness)


class _Renewal:
    """Makes the next token; runs in a thread."""

    def __init__(self, endpoint: str, account: CloudAccount, settings: BackendSettings) -> None:
        self._endpoint = endpoint
        self._account = account
        self._settings = settings
        self._request: Callable[..., Any] | None = None

    def __call__(self, last: AccessToken | None) -> AccessToken:
        try:
            if self._request is None:
                self._request = _transport(self._settings)
            exceptions = import_module("google.auth.exceptions")
        except ImportError:
            raise EngineMissing.told(
                "Calls to Vertex AI without an API key need more packages (google-auth and requests). "
                f"Install them with: {install_command('vertex')}"
            ) from None
        try:
            credentials = self._load(self._request) if last is None else last.credentials
            credentials.refresh(self._request)
        except (exceptions.GoogleAuthError, OSError, ValueError) as error:
            raise self._translated(error, exceptions) from None
        headers = {"authorization": f"Bearer {credentials.token}"}
        if quota := getattr(credentials, "quota_project_id", None):
            headers["x-goog-user-project"] = quota
        return AccessToken(credentials, headers)

    def _load(self, request: Callable[..., Any]) -> Any:
        if self._account.credentials_file is None:
            credentials, _ = import_module("google.auth").default(scopes=[SCOPE], request=request)
            return credentials
        info = read_google_credentials(self._account.credentials_file)
        kind = str(info["type"])
        reader = _workload_identity(info) if kind == "external_account" else _READERS.get(kind)
        if reader is None:
            raise ValueError(f"its type '{kind[:40]}' is not known")
        module, method = reader
        try:
            return getattr(import_module(module).Credentials, method)(info, scopes=[SCOPE])
        except (AttributeError, KeyError, TypeError):
            raise ValueError("its fields are not those of its type") from None

    def _translated(self, error: Exception, exceptions: Any) -> RoundhouseError:
        """The typed error, without the library's text: it may quote an answer of a token server."""
        endpoint = f"The endpoint '{self._endpoint}'"
        if isinstance(error, exceptions.TransportError) or getattr(error, "retryable", False):
            return UpstreamUnreachable(f"{endpoint}: Google's token server could not be reached.")
        if isinstance(error, exceptions.RefreshError):
            return UpstreamRejectedKey(f"{endpoint}: Google refused the credentials; renew them.")
        # Callers read this, so it does not name the file.
        source = (
            "application default credentials" if self._account.credentials_file is None else "its credentials_file"
        )
        reason = f": {error}" if type(error) is ValueError else ""
        return ModelUnavailable(
            f"{endpoint} has no Google credentials to use ({source}{reason}). Set its credentials_file, or run "
            "'gcloud auth application-default login'.",
            param="model",
        )


def _workload_identity(info: Mapping[str, Any]) -> tuple[str, str]:
    """The reader of an external account, by the source of its subject token. Source: google.auth's own choice."""
    source = info.get("credential_source")
    source = source if isinstance(source, dict) else {}
    if str(source.get("environment_id", "")).startswith("aws"):
        return "google.auth.aws", "from_info"
    if "executable" in source:
        return "google.auth.pluggable", "from_info"
    return "google.auth.identity_pool", "from_info"


def _transport(settings: BackendSettings) -> Callable[..., Any]:
    """google-auth's requests, through the settings' proxy and certificates, and none of the environment's."""
    requests = import_module("requests")
    session = requests.Session()
    session.trust_env = False
    if settings.proxy is not None:  # not for http: a metadata server is no proxy's to reach
        session.proxies = {"https": settings.proxy.get_secret_value()}
    if settings.ca_file is not None:
        session.verify = str(settings.ca_file)
    plain = import_module("google.auth.transport.requests").Request(session)

    def request(url: str, *args: Any, timeout: float | None = None, **options: Any) -> Any:
        return plain(url, *args, timeout=min(timeout or TOKEN_TIMEOUT, TOKEN_TIMEOUT), **options)

    request.session = session  # type: ignore[attr-defined]  # its library mounts a certificate for metadata here
    return request


def _freshness(token: AccessToken) -> Freshness:
    return _FRESHNESS[token.credentials.token_state.name]
