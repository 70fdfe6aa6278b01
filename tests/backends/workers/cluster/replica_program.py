"""The program of a replica with the test engines: ``python -m tests.backends.workers.cluster.replica_program``."""

from __future__ import annotations

from backends.workers.cluster.replica import main
from tests.backends.workers.conftest import FakeStore, fake_engines

if __name__ == "__main__":
    main(fake_engines(), FakeStore())
