"""The last lines of a log begin where a reader expects them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arcray.facades.rest import logs
from arcray.testing.node_fakes import MemoryBlobs


@given(st.lists(st.sampled_from([b"", b"a", b"line"]), max_size=8), st.booleans(), st.integers(0, 10))
async def test_tail_begins_at_the_last_lines(lines: list[bytes], ended: bool, wanted: int) -> None:
    blobs = MemoryBlobs()
    blobs.data["log"] = data = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    start = await logs.tail_start(blobs, "log", wanted)
    kept = data.splitlines(keepends=True)
    assert data[start:] == b"".join(kept[len(kept) - wanted :] if wanted < len(kept) else kept)
