from __future__ import annotations

from uuid import UUID

from arcray.wire.system import RandomIds


def test_ids_are_version_7_uuids_in_canonical_form() -> None:
    for made in (RandomIds().new() for _ in range(1000)):
        parsed = UUID(made)
        assert (str(parsed), parsed.version, parsed.variant) == (made, 7, "specified in RFC 4122")


def test_ids_are_never_equal() -> None:
    assert len({RandomIds().new() for _ in range(10_000)}) == 10_000


def test_an_id_tells_the_millisecond_so_that_later_ones_sort_after() -> None:
    made = [RandomIds().new() for _ in range(20_000)]  # longer than some milliseconds
    times = [UUID(each).int >> 80 for each in made]
    assert times == sorted(times)
    assert times[0] < times[-1]
