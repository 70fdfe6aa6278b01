"""Detection of idle workers that keep computing."""

from __future__ import annotations

from backends.workers.runaway import RunawayDetector


def test_only_what_is_used_within_one_rest_counts() -> None:
    detector = RunawayDetector(10.0)
    assert not detector.check("m", (1, 5.0), 100.0), "time used before the idle period does not count"
    assert not detector.check("m", (1, 5.0), 110.0)
    assert not detector.check("m", (1, 6.0), 130.0), "it was used in between"
    assert not detector.check("m", None, 190.0), "it is in use"
    assert not detector.check("m", (1, 6.0), 200.0)
    assert not detector.check("m", (2, 6.0), 0.0), "another process"
    assert detector.check("m", (2, 6.0), 10.1)
