"""The sorted index: blocks split and join, and a search finds what a look at everything finds."""

from __future__ import annotations

import random

from arcray.core.placement.columns import CPU, MEMORY, Columns
from arcray.core.placement.order import Order
from arcray.core.placement.scores import Standing


class Pool:
    """Slots with a CPU and a memory value, sorted by their sum."""

    def __init__(self) -> None:
        self.columns = Columns()
        self.order = Order(self.columns)
        self.keys: dict[int, Standing] = {}

    def add(self, cpu: int, memory: int, mark: int = 0) -> int:
        slot = self.columns.open_slot()
        self.columns.status[slot] = 0
        self.columns.marks[slot] = mark
        self.columns.write(slot, cpu, memory, 0)
        self.keys[slot] = f"{cpu + memory:05} {slot:05}".encode()
        self.order.add(slot, self.keys[slot])
        return slot

    def discard(self, slot: int) -> None:
        self.order.discard(self.keys.pop(slot))
        self.columns.close_slot(slot)

    def first(self, cpu: int, memory: int, mark: int = 0) -> int | None:
        rows = self.columns.rows
        fitting = [
            (key, slot)
            for slot, key in self.keys.items()
            if rows[CPU][slot] >= cpu and rows[MEMORY][slot] >= memory and (not mark or self.columns.marks[slot] & mark)
        ]
        return min(fitting)[1] if fitting else None


def test_empty_order_finds_nothing() -> None:
    assert Order(Columns()).first([(CPU, 1)]) is None


def test_search_finds_what_a_look_at_everything_finds_while_blocks_split_and_join() -> None:
    rng = random.Random(7)
    pool = Pool()
    longest = 0
    for target in (1500, 40, 700, 0, 300):
        while len(pool.keys) != target:
            if len(pool.keys) < target:
                cpu = rng.randrange(100)
                pool.add(cpu, rng.randrange(100), mark=2 if cpu > 97 else rng.choice([0, 0, 1]))
            else:
                pool.discard(rng.choice(list(pool.keys)))
            if rng.random() < 0.1:
                cpu, memory, mark = rng.randrange(1, 110), rng.randrange(1, 110), rng.choice([0, 0, 1, 2])
                found = pool.order.first([(CPU, cpu), (MEMORY, memory)], mark=mark)
                assert found == pool.first(cpu, memory, mark)
        assert len(pool.order) == target
        longest = max(longest, len(pool.order._keys))
    assert longest >= 1500 // 64


def test_blocks_stay_few_after_most_nodes_have_left() -> None:
    pool = Pool()
    slots = [pool.add(number, 1) for number in range(4000)]
    for slot in slots[::2] + slots[1::4]:
        pool.discard(slot)
    for slot in slots[3::8]:
        pool.discard(slot)
    assert len(pool.order) == 500
    assert len(pool.order._keys) <= 500 // 8


def test_peaks_are_exact_after_a_node_has_left() -> None:
    pool = Pool()
    rich = [pool.add(100, 100) for _ in range(3)]
    for _ in range(50):
        pool.add(1, 250)
    assert pool.order._peaks[CPU, 0] == 100
    for slot in rich:
        pool.discard(slot)
    assert pool.order._peaks[CPU, 0] == 1


def test_marks_that_misled_a_search_are_made_exact() -> None:
    pool = Pool()
    marked = [pool.add(number, 1, mark=2) for number in range(1, 201)]
    for number in range(1, 201):
        pool.add(number, 1, mark=1)
    for slot in marked:
        pool.discard(slot)
    assert pool.order._marks[0] == 3
    assert pool.order.first([(CPU, 1)], mark=2) is None
    assert not (pool.order._marks[: len(pool.order._keys)] & 2).any()


def test_blocks_that_mislead_one_after_the_other_hide_nothing() -> None:
    """CPU and memory are opposed, so that peaks and what follows from both suffice in every block."""
    pool = Pool()
    for _ in range(40):
        for _ in range(20):
            pool.add(1000, 10)
            pool.add(10, 1000)
    last = pool.add(1000, 1000)
    assert len(pool.order._keys) > 20
    assert pool.order.first([(CPU, 500), (MEMORY, 500)]) == last
    assert pool.order.first([(CPU, 500), (MEMORY, 500)], without={last}) is None


def test_passed_over_slots_are_not_found() -> None:
    pool = Pool()
    first, second = pool.add(1, 1), pool.add(2, 2)
    assert pool.order.first([(CPU, 1)], without={first}) == second
    assert pool.order.first([(CPU, 1)], without={first, second}) is None
