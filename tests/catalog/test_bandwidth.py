"""The bandwidth of memory: told by a driver, listed for a chip, or measured."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from catalog.bandwidth import apple_bandwidth, copying, nvidia_bandwidth, with_bandwidth
from catalog.hardware import Device, Machine


class NvmlError(Exception):
    """The error that the driver raises."""


def nvml(clock: int = 3201, width: int = 6144, fails: str = "") -> SimpleNamespace:
    def call(name: str, value: object) -> object:
        def answer(*_: object) -> object:
            if name == fails:
                raise NvmlError
            return value

        return answer

    return SimpleNamespace(
        NVMLError=NvmlError,
        NVML_CLOCK_MEM=2,
        nvmlInit=call("init", None),
        nvmlShutdown=call("shutdown", None),
        nvmlDeviceGetHandleByIndex=call("handle", "handle"),
        nvmlDeviceGetMaxClockInfo=call("clock", clock),
        nvmlDeviceGetMemoryBusWidth=call("width", width),
    )


def test_nvidias_driver_tells_clock_and_width() -> None:
    # An H200 has 4.8 TB/s by NVIDIA's data sheet, an RTX 4090 1008 GB/s.
    assert nvidia_bandwidth(0, nvml()) == pytest.approx(4.8e12, rel=0.03)
    assert nvidia_bandwidth(0, nvml(10501, 384)) == pytest.approx(1008e9, rel=0.01)


@pytest.mark.parametrize("fails", ["init", "handle", "clock", "width"])
def test_a_driver_that_does_not_tell_it_leaves_it_unknown(fails: str) -> None:
    assert nvidia_bandwidth(0, nvml(fails=fails)) == 0


@pytest.mark.parametrize(
    ("chip", "expected"),
    [("Apple M1", 68), ("Apple M3 Max", 300), ("Apple M2 Ultra", 800), ("Apple M99", 0), ("", 0), ("Intel", 0)],
)
def test_apples_chips_have_published_figures(chip: str, expected: int) -> None:
    assert apple_bandwidth(chip) == expected * 10**9


def test_main_memory_is_measured_and_never_less_than_one_old_channel() -> None:
    assert 12.8e9 <= copying(1) < 10e12


def test_every_device_gets_its_own_and_one_that_is_known_keeps_it() -> None:
    devices = (Device("cpu", "cpu", "", 1), Device("mps", "mps", "", 1), Device("cuda:0", "cuda", "", 1, 77))
    machine = with_bandwidth(Machine("Darwin", "arm64", 1, 1, devices), chip=lambda: "Apple M4 Pro")
    assert [device.bandwidth for device in machine.devices] == [273 * 10**9, 273 * 10**9, 77]
