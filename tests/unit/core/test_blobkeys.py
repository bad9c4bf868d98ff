from __future__ import annotations

import pytest

from arcray.core.blobkeys import (
    OWNED,
    foreign_log_key,
    log_key,
    owner_of,
    program_key,
    result_key,
    result_path,
    stdin_key,
)
from arcray.testing.builders import a_workload

ID = a_workload(7).id


@pytest.mark.parametrize(
    "key",
    [
        log_key(ID),
        program_key(ID, archive=True),
        program_key(ID, archive=False),
        program_key(ID, archive=True, submission="11111111-2222-4333-8444-555555555555"),
        foreign_log_key(ID),
        stdin_key(ID),
        result_key(ID, "a/b.c"),
    ],
)
def test_the_owner_of_a_blob_is_told_by_its_entry(key: str) -> None:
    directory, entry = key.split("/")[:2]
    assert directory in OWNED
    assert owner_of(entry) == ID


def test_submissions_of_one_id_share_no_program() -> None:
    keys = {program_key(ID, archive=False, submission=each) for each in ("", "a", "b")}
    assert keys == {f"programs/{ID}.py", f"programs/{ID}.a.py", f"programs/{ID}.b.py"}


@pytest.mark.parametrize("attempt", [1, 2])
def test_no_result_lies_where_foreign_logs_do(attempt: int) -> None:
    assert result_key(ID, "-log", attempt) != foreign_log_key(ID)


@pytest.mark.parametrize("entry", ["readme", "", ".partial", "7.log"])
def test_what_is_none_of_ours_has_no_owner(entry: str) -> None:
    assert owner_of(entry) is None


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a_b/c-d.txt", "a_b/c-d.txt"),
        ("r\u00e9sum\u00e9.txt", "r\u00e9sum\u00e9.txt"),
        ("re\u0301sume\u0301.txt", "re=CC=81sume=CC=81.txt"),
        ("\u7ed3\u679c/\u8868.csv", "\u7ed3\u679c/\u8868.csv"),
        ("a b\n*.txt", "a=20b=0A=2A.txt"),
        ("a=20b.txt", "a=3D20b.txt"),
        ("-2/x", "=2D2/x"),
        ("\u202e\u212b\U0001f600", "=E2=80=AE=E2=84=AB=F0=9F=98=80"),
    ],
)
@pytest.mark.parametrize("attempt", [1, 2])
def test_the_name_of_a_result_is_told_by_its_key(path: str, key: str, attempt: int) -> None:
    found = result_key(ID, path, attempt)
    assert found == f"results/{ID}/{'' if attempt == 1 else '-2/'}{key}"
    assert result_path(found) == path


def test_names_that_are_no_utf8_differ() -> None:
    latin, other = (result_key(ID, name.decode("utf-8", "surrogateescape")) for name in (b"\xe9", b"\xe8"))
    assert (result_path(latin), result_path(other)) == ("=E9", "=E8")


@pytest.mark.parametrize("tail", ["a", "b"])
@pytest.mark.parametrize("path", ["\u0301" * 120, "x/" * 300, "\u7ed3" * 84 + "." * 3])
def test_a_long_name_has_a_key_that_fits_and_is_its_own(path: str, tail: str) -> None:
    key = result_key(ID, path + tail, 12)
    assert len(key) <= 512
    assert all(len(part.encode()) <= 255 for part in key.split("/"))
    assert key != result_key(ID, path + "c", 12)
