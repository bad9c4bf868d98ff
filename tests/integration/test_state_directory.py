"""Who else on the machine may read what arcray writes, whatever the umask; modes of real files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from arcray import state_directory
from arcray.cli import daemon
from arcray.config import Settings
from arcray.control.blobs import FsspecBlobs
from arcray.control.journal import Journal
from arcray.core.errors import UnavailableError
from arcray.node.identity import machine_node_id
from arcray.node.machine import Machine
from arcray.testing.clock import FakeClock, SequenceIds
from arcray.testing.node_fakes import FakeGpus

PASSAGE = 0o711
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has programs and models run as other users")


@pytest.fixture(autouse=True, params=[0o022, 0o000])
def usual_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def readable_by_others(directory: Path) -> set[str]:
    """Returns the files that others can read, and the directories that they can list, if they know every name."""
    if not mode(directory) & 0o001:
        return set()
    found = {directory.name} if mode(directory) & 0o004 else set()
    for path in directory.iterdir():
        if path.is_dir():
            found |= readable_by_others(path)
        elif mode(path) & 0o044:
            found.add(path.name)
    return found


async def write_everything(settings: Settings) -> None:
    """Does what ``up``, the scheduler and a node do first."""
    directory = settings.state_dir
    with pytest.raises(UnavailableError):
        daemon.spawn([sys.executable, "-c", "raise SystemExit(3)"], directory, timeout_s=20)
    with daemon.claim(directory) as claim:
        claim.ready("http://127.0.0.1:9")
        journal = Journal(settings.sql_url, settings.database)
        await journal.open()
        blobs = FsspecBlobs(settings.blob_place, max_blob_bytes=1000)
        await blobs.put("results/w/1", b"secret")
        await blobs.append("logs/w.log", b"secret")
        node_id = machine_node_id(directory, SequenceIds())
        machine = Machine(node_id=node_id, settings=settings, clock=FakeClock(), probe=FakeGpus(), engine=None)
        await machine.look()
        assert (directory / "arcray.db-wal").exists()
        assert readable_by_others(directory) - {"state"} == set()
        await machine.close()
        await journal.close()


def settings_in(directory: Path) -> Settings:
    node = {"containers": {"enabled": "never"}, "programs": {"sandbox": "none"}}
    return Settings.model_validate({"state_dir": directory, "node": node})


async def test_others_read_nothing_of_a_directory_that_arcray_made(tmp_path: Path) -> None:
    """Starts a program and an interpreter."""
    await write_everything(settings_in(tmp_path / "state"))
    assert mode(tmp_path / "state") == (PASSAGE if os.geteuid() == 0 else 0o700)


async def test_others_read_nothing_in_a_directory_that_was_open_to_them_and_stays_so(tmp_path: Path) -> None:
    """Starts a program and an interpreter."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o755)
    await write_everything(settings_in(tmp_path / "state"))
    assert mode(tmp_path / "state") == 0o755


def test_what_an_earlier_arcray_left_open_is_closed_and_nothing_else(tmp_path: Path) -> None:
    ours = [tmp_path / name for name in ("arcray.db", "arcray.db-wal", "arcray.log")]
    theirs = tmp_path / "notes.txt"
    for path in (*ours, theirs):
        path.touch()
    (tmp_path / "blobs").mkdir()
    (tmp_path / "arcray.link").symlink_to(theirs)
    state_directory.make(tmp_path)
    assert [mode(path) & 0o077 for path in (*ours, tmp_path / "blobs")] == [0, 0, 0, 0]
    assert mode(theirs) & 0o044 == 0o044


@as_root
def test_what_belongs_to_another_is_left_alone(tmp_path: Path) -> None:
    database = tmp_path / "arcray.db"
    database.touch(0o644)
    database.chmod(0o644)
    os.chown(database, 12_345, 12_345)
    state_directory.make(tmp_path)
    assert mode(database) == 0o644


@as_root
def test_programs_of_other_users_pass_through_to_their_own(tmp_path: Path) -> None:
    os.umask(0o077)
    machine_node_id(tmp_path / "state", SequenceIds())
    for path in (tmp_path / "state", tmp_path / "state" / "node"):
        assert mode(path) == PASSAGE


async def test_a_database_elsewhere_is_private_too(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.db"
    journal = Journal(f"sqlite:///{path}")
    await journal.open()
    await journal.close()
    assert mode(path) == 0o600
