"""What a process remembers of keys is bounded, whoever asks."""

from __future__ import annotations

from arcray.testing.builders import a_key
from arcray.wire.address_limit import AddressLimit
from arcray.wire.key_cache import KeyCache


def a_digest(number: int) -> bytes:
    return bytes.fromhex(a_key(number).digest)


def test_no_more_is_remembered_than_the_limit_and_the_oldest_goes_first() -> None:
    cache = KeyCache(limit=2, term_s=60, wrong_term_s=5)
    for number in range(4):
        cache.add(a_digest(number), a_key(number), 0.0)
        cache.add_wrong(a_digest(100 + number), 0.0)
    assert len(cache) == 4
    assert cache.find(a_digest(1), 0.0) is None
    assert cache.find(a_digest(3), 0.0) is not None
    assert not cache.is_wrong(a_digest(101), 0.0)
    assert cache.is_wrong(a_digest(103), 4.9)
    assert not cache.is_wrong(a_digest(103), 5.0)


def test_a_key_that_was_let_go_of_can_be_forgotten() -> None:
    cache = KeyCache(limit=1, term_s=60, wrong_term_s=5)
    cache.add(a_digest(1), a_key(1), 0.0)
    cache.add(a_digest(2), a_key(2), 0.0)
    cache.forget(a_key(1).id)
    assert cache.find(a_digest(2), 0.0) is not None


def test_failures_run_off_with_time_and_addresses_are_apart() -> None:
    limit = AddressLimit(per_minute=60)
    for _ in range(60):
        limit.note("a", 0.0)
    assert limit.exceeded("a", 0.0)
    assert not limit.exceeded("b", 0.0)
    assert not limit.exceeded("a", 1.0)


def test_addresses_are_remembered_up_to_a_bound() -> None:
    limit = AddressLimit(per_minute=1)
    for number in range(20_000):
        limit.note(str(number), 0.0)
    assert len(limit) == 10_000


def test_what_is_over_the_limit_is_not_counted() -> None:
    limit = AddressLimit(per_minute=60)
    assert [limit.take("a", 0.0) for _ in range(62)] == [True] * 60 + [False] * 2
    assert [limit.take("a", 1.0) for _ in range(2)] == [True, False]
    assert all(AddressLimit(per_minute=0).take("a", 0.0) for _ in range(62))
