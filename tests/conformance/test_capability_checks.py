"""Every endpoint that a worker's model can have is checked on the real starter models."""

from __future__ import annotations

from catalog.model import ENDPOINTS, Capability
from tests.conformance.capability_checks import CHECKS

REMOTE_ONLY = {Capability.TRANSLATE, Capability.VIDEO, Capability.REALTIME}
"""The endpoints that no engine of a worker serves."""


def test_every_endpoint_of_a_worker_has_a_check() -> None:
    assert set(CHECKS) == ENDPOINTS - REMOTE_ONLY
