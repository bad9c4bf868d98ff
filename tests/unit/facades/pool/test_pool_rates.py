"""Requests are counted over a window that slides."""

from __future__ import annotations

from arcray.facades.pool.rates import SlidingWindow


def test_a_request_counts_for_as_long_as_the_window_is() -> None:
    window = SlidingWindow(2, 60.0)
    assert window.take("a", 0.0) is None
    assert window.take("a", 30.0) is None
    assert window.take("a", 40.0) == 20.0
    assert window.take("a", 59.9) is not None
    assert window.take("a", 60.0) is None  # the first has left the window, the second has not
    assert window.take("a", 61.0) == 29.0


def test_addresses_do_not_count_for_each_other() -> None:
    window = SlidingWindow(1)
    assert window.take("a", 0.0) is None
    assert window.take("b", 0.0) is None
    assert window.take("a", 1.0) is not None


def test_no_limit_is_none() -> None:
    window = SlidingWindow(0)
    assert all(window.take("a", 0.0) is None for _ in range(1_000))
