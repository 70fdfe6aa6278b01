"""Every endpoint that a worker's model can have is checked on the real starter models."""

from __future__ import annotations

from catalog.model import ENDPOINTS, Capability
from tests.conformance.capability_checks import CHECKS

ELSEWHERE = {Capability.TRANSLATE, Capability.REALTIME}
"""Translation is tested with what hears other languages (``tests/engines``); no worker holds a session itself."""


def test_every_endpoint_of_a_worker_has_a_check() -> None:
    assert set(CHECKS) == ENDPOINTS - ELSEWHERE
