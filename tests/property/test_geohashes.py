"""Every place on Earth has a cell, and every cell a centre."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arcray.core.geozones import decode_geohash, encode_geohash, zone_at


@given(longitude=st.floats(-180, 180), latitude=st.floats(-90, 90))
def test_encoding_a_cells_centre_returns_the_cell(longitude: float, latitude: float) -> None:
    cell = encode_geohash(longitude, latitude)
    assert encode_geohash(*decode_geohash(cell)) == cell
    zone_at(longitude, latitude)
