"""Directories of programs that are used again, and those that are not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from arcray.node.leftovers import remove_small_tree
from arcray.node.places import SOURCE, Place, Places

UID = os.getuid()


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path, lambda _, place: remove_small_tree(place.root))


def used(places: Places, owner: str, uid: int = UID) -> Place:
    """A place in which a program has run that left nothing."""
    place = places.take(owner) or places.named(uid)
    if not place.root.exists():
        place.root.mkdir(mode=0o711)
        for name in ("work", "results"):
            (place.root / name).mkdir(mode=0o700)
        os.close(os.open(place.root / "work" / SOURCE, os.O_CREAT | os.O_WRONLY, 0o600))
    return place


def test_what_was_left_as_it_was_is_used_again_by_the_same_owner_alone(places: Places) -> None:
    first, second = used(places, "one"), used(places, "one")
    assert places.give_back("one", first)
    assert places.give_back("one", second)
    assert used(places, "two") not in (first, second)
    assert used(places, "one") == second  # the newest: what belongs to it is most likely there yet
    assert used(places, "one") == first
    assert used(places, "one") not in (first, second)


def replaced_by_a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file": lambda root: (root / "work" / "x").touch(),
    "a result": lambda root: (root / "results" / "x").touch(),
    "something beside": lambda root: (root / "stdin").touch(),
    "no source": lambda root: (root / "work" / SOURCE).unlink(),
    "another mode": lambda root: (root / "work").chmod(0o755),
    "a readable file": lambda root: (root / "work" / SOURCE).chmod(0o644),
    "a link": lambda root: replaced_by_a_link(root / "work" / SOURCE),
    "another name": lambda root: os.link(root / "work" / SOURCE, root.parent / "other"),
    "a large file": lambda root: os.truncate(root / "work" / SOURCE, 1 << 20),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_program_has_changed_is_not_used_again(places: Places, change: str) -> None:
    place = used(places, "one")
    CHANGES[change](place.root)
    assert not places.give_back("one", place)


def test_what_is_another_users_is_not_used_again(places: Places) -> None:
    assert not places.give_back("one", used(places, "one", UID + 1))


def test_what_has_attributes_is_not_used_again(places: Places) -> None:
    place = used(places, "one")
    try:
        os.setxattr(place.root / "work", "user.x", b"1")
    except OSError:
        pytest.skip("this file system has no attributes")
    assert not places.give_back("one", place)


def test_only_so_many_are_kept_and_none_in_the_end(places: Places, tmp_path: Path) -> None:
    kept = [used(places, "one") for _ in range(70)]
    assert all(places.give_back("one", place) for place in kept)
    assert len(list(tmp_path.iterdir())) == 64
    assert not kept[0].root.exists()
    places.close()
    assert list(tmp_path.iterdir()) == []


def test_a_small_tree_is_removed_at_once_and_another_one_is_not(tmp_path: Path) -> None:
    small, wide, deep, large = (tmp_path / name for name in ("small", "wide", "deep", "large"))
    for each in (small, wide, deep, large):
        (each / "work").mkdir(parents=True)
    (small / "work" / "x").write_text("x")
    (small / "link").symlink_to(tmp_path)
    for number in range(9):
        (wide / "work" / str(number)).touch()
    (deep / "work" / "a" / "b").mkdir(parents=True)
    (large / "work" / "x").touch()
    os.truncate(large / "work" / "x", (1 << 20) + 1)
    assert [remove_small_tree(each) for each in (small, wide, deep, large)] == [True, False, False, False]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "large", "wide"]
