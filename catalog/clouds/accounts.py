"""The accounts of cloud platforms that endpoints name, and the addresses of those platforms by region."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

_PATTERNS = {
    "region": re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?"),
    "project": re.compile(r"[a-z0-9](?:[a-z0-9.:-]{0,98}[a-z0-9])?"),
}


class CloudAccount(NamedTuple):
    """The account of a cloud that an endpoint's calls belong to. All are ``None`` at any other endpoint.

    Without a ``profile`` or ``credentials_file``, the cloud's library finds credentials where its other tools do.
    """

    region: str | None = None
    project: str | None = None
    profile: str | None = None
    credentials_file: str | None = None


NO_ACCOUNT = CloudAccount()


class _Cloud(NamedTuple):
    fields: frozenset[str]
    default_region: str | None


_CLOUDS: Mapping[str, _Cloud] = MappingProxyType(
    {
        "bedrock": _Cloud(frozenset({"region", "profile", "credentials_file"}), None),
        "vertex": _Cloud(frozenset({"region", "project", "credentials_file"}), "global"),
    }
)
"""By protocol: the fields of an account that it has."""


def checked_account_field(protocol: str, name: str, value: str | None) -> str | None:
    """A field of an endpoint's account, or its default. Raises ValueError for a wrong one."""
    cloud = _CLOUDS.get(protocol)
    if cloud is None or name not in cloud.fields:
        if value is None:
            return None
        owners = " or ".join(f"'{owner}'" for owner, one in _CLOUDS.items() if name in one.fields)
        raise ValueError(f"it belongs to endpoints of the protocol {owners}, not '{protocol}'")
    if name == "region":
        value = value or cloud.default_region
        if value is None:
            raise ValueError(f"an endpoint of the protocol '{protocol}' needs it, such as us-east-1")
    if value is not None and name in _PATTERNS and not _PATTERNS[name].fullmatch(value):
        raise ValueError("it must be in lower case letters, digits and hyphens")
    return value


def address_of(protocol: str, region: str | None) -> str:
    """The usual ``base_url`` of a cloud's endpoint in a region; empty for other protocols.

    Sources: the endpoint rules of botocore, and those of google-genai for the locations global, us and eu.
    """
    if protocol == "bedrock":
        return f"https://bedrock-runtime.{region}.amazonaws.com{'.cn' if str(region).startswith('cn-') else ''}"
    if protocol != "vertex":
        return ""
    if region == "global":
        return "https://aiplatform.googleapis.com"
    if region in ("us", "eu"):
        return f"https://aiplatform.{region}.rep.googleapis.com"
    return f"https://{region}-aiplatform.googleapis.com"
