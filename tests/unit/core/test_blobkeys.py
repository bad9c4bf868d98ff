from __future__ import annotations

import pytest

from arcray.core.blobkeys import OWNED, log_key, owner_of, program_key, result_key, stdin_key
from arcray.testing.builders import a_workload

ID = a_workload(7).id


@pytest.mark.parametrize(
    "key",
    [
        log_key(ID),
        program_key(ID, archive=True),
        program_key(ID, archive=False),
        stdin_key(ID),
        result_key(ID, "a/b.c"),
    ],
)
def test_the_owner_of_a_blob_is_told_by_its_entry(key: str) -> None:
    directory, entry = key.split("/")[:2]
    assert directory in OWNED
    assert owner_of(entry) == ID


@pytest.mark.parametrize("entry", ["readme", "", ".partial", "7.log"])
def test_what_is_none_of_ours_has_no_owner(entry: str) -> None:
    assert owner_of(entry) is None
