"""Directories of programs that are used again, and those that are not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from arcray.node.leftovers import remove_small_tree
from arcray.node.places import SOURCE, Places

UID = os.getuid()


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path, remove_small_tree)


def used(places: Places, owner: str) -> Path:
    """A place in which a program has run that left nothing."""
    root = places.take(owner)
    if not root.exists():
        root.mkdir(mode=0o711)
        for name in ("work", "results"):
            (root / name).mkdir(mode=0o700)
        os.close(os.open(root / "work" / SOURCE, os.O_CREAT | os.O_WRONLY, 0o600))
    return root


def test_what_was_left_as_it_was_is_used_again_by_the_same_owner_alone(places: Places) -> None:
    root = used(places, "one")
    assert places.give_back("one", root, UID)
    assert used(places, "two") != root
    assert used(places, "one") == root
    assert used(places, "one") != root


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
    root = used(places, "one")
    CHANGES[change](root)
    assert not places.give_back("one", root, UID)


def test_what_is_another_users_is_not_used_again(places: Places) -> None:
    assert not places.give_back("one", used(places, "one"), UID + 1)


def test_what_has_attributes_is_not_used_again(places: Places) -> None:
    root = used(places, "one")
    try:
        os.setxattr(root / "work", "user.x", b"1")
    except OSError:
        pytest.skip("this file system has no attributes")
    assert not places.give_back("one", root, UID)


def test_only_so_many_are_kept_and_none_in_the_end(places: Places, tmp_path: Path) -> None:
    roots = [used(places, "one") for _ in range(70)]
    assert all(places.give_back("one", root, UID) for root in roots)
    assert len(list(tmp_path.iterdir())) == 64
    assert not roots[0].exists()
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
