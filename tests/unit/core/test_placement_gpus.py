"""GPU devices: whole or shared, never both, and which ones are chosen."""

from __future__ import annotations

import pytest

from arcray.core.placement.gpus import Devices
from arcray.core.resources import Demand, Gpu, GpuShare


def devices(*sizes: int) -> Devices:
    found = Devices()
    found.resize(Gpu(index=index, memory_bytes=size) for index, size in enumerate(sizes))
    return found


def share(index: int, size: int) -> GpuShare:
    return GpuShare(index=index, memory_bytes=size, whole=False)


def whole(index: int, size: int) -> GpuShare:
    return GpuShare(index=index, memory_bytes=size, whole=True)


def indices(chosen: tuple[GpuShare, ...] | None) -> list[int] | None:
    return None if chosen is None else [each.index for each in chosen]


def test_whole_devices_are_the_lowest_idle_ones() -> None:
    found = devices(80, 80, 80, 80)
    found.take((whole(1, 80),))
    assert indices(found.choose(Demand(gpus=2))) == [0, 2]
    assert found.choose(Demand(gpus=4)) is None


def test_share_goes_to_the_fullest_device_that_still_fits() -> None:
    found = devices(80, 80, 80)
    found.take((share(0, 20), share(1, 60)))
    assert indices(found.choose(Demand(gpus=1, gpu_memory_bytes=20))) == [1]
    assert indices(found.choose(Demand(gpus=1, gpu_memory_bytes=30))) == [0]
    assert indices(found.choose(Demand(gpus=1, gpu_memory_bytes=70))) == [2]


def test_share_leaves_a_small_idle_device_whole_while_a_shared_one_has_room() -> None:
    found = devices(20, 80)
    found.take((share(1, 10),))
    assert indices(found.choose(Demand(gpus=1, gpu_memory_bytes=15))) == [1]


def test_equally_full_devices_are_told_apart_by_index() -> None:
    found = devices(80, 80, 80)
    assert indices(found.choose(Demand(gpus=2, gpu_memory_bytes=10))) == [0, 1]


def test_shares_of_one_demand_are_on_different_devices() -> None:
    found = devices(80, 80)
    found.take((share(0, 50), share(1, 10)))
    assert indices(found.choose(Demand(gpus=2, gpu_memory_bytes=30))) == [0, 1]
    assert found.choose(Demand(gpus=2, gpu_memory_bytes=31)) is None


def test_shared_device_is_not_given_whole_and_whole_device_is_not_shared() -> None:
    found = devices(80, 80)
    found.take((share(0, 1),))
    assert indices(found.choose(Demand(gpus=1))) == [1]
    found.take((whole(1, 80),))
    assert found.choose(Demand(gpus=1)) is None
    assert found.choose(Demand(gpus=1, gpu_memory_bytes=80)) is None
    assert (found.idle, found.open_bytes, found.shareable_bytes) == (0, 79, [79])


@pytest.mark.parametrize(
    "booked",
    [
        pytest.param((whole(0, 80), whole(0, 80)), id="whole twice"),
        pytest.param((whole(0, 80), share(0, 1)), id="whole and shared"),
        pytest.param((share(0, 50), share(0, 31)), id="shares beyond its memory"),
        pytest.param((share(7, 1),), id="device that is not there"),
    ],
)
def test_overcommitted_device_shuts_the_node_until_it_is_released(booked: tuple[GpuShare, ...]) -> None:
    found = devices(80, 80)
    found.take(booked)
    assert found.idle == -1
    assert found.choose(Demand(gpus=1)) is None
    assert found.choose(Demand(gpus=1, gpu_memory_bytes=1)) is None
    found.give_back(booked)
    assert (found.idle, found.open_bytes, found.shareable_bytes) == (2, 0, [80, 80])


def test_vanished_device_is_remembered_only_while_it_is_held() -> None:
    found = devices(80, 80)
    found.take((share(1, 40),))
    found.resize([Gpu(index=0, memory_bytes=80)])
    assert (found.idle, found.present) == (-1, 1)
    found.resize([Gpu(index=0, memory_bytes=80), Gpu(index=1, memory_bytes=80)])
    assert (found.idle, found.open_bytes) == (1, 40)
    found.give_back((share(1, 40),))
    assert found.idle == 2


def test_vanished_device_that_nobody_held_is_gone() -> None:
    found = devices(80, 80)
    found.resize([Gpu(index=1, memory_bytes=80)])
    assert (found.idle, found.present, found.shareable_bytes) == (1, 1, [80])
    assert indices(found.choose(Demand(gpus=1))) == [1]


def test_releasing_more_than_was_held_is_our_own_fault() -> None:
    found = devices(80)
    with pytest.raises(AssertionError, match="released more"):
        found.give_back((whole(0, 80),))
