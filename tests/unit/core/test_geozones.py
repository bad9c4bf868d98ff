"""Geohashes decode to the centre of their cell; a zone reaches 500 km from its nearest centre."""

from __future__ import annotations

import pytest

from arcray.core.errors import InvalidArgumentError
from arcray.core.geozones import UNKNOWN, ZONES, centre_of, decode_geohash, encode_geohash, locate, zone_at
from arcray.core.node import Location


@pytest.mark.parametrize(
    ("geohash", "longitude", "latitude"),
    # The geohash algorithm's own worked example, and the cells that the protocol's documents name.
    [("ezs42", -5.603, 42.605), ("9q9hvu", -122.09, 37.42), ("drt2yz", -71.065, 42.4), ("9v6kn8", -97.7, 30.3)],
)
def test_geohash_decodes_to_its_centre(geohash: str, longitude: float, latitude: float) -> None:
    found = decode_geohash(geohash)
    assert found == pytest.approx((longitude, latitude), abs=0.1)
    assert encode_geohash(*found, len(geohash)) == geohash


@pytest.mark.parametrize("text", ["", "9q9hva", "9Q9HVU", "9q9hvu9q9hvu9", "9q9 vu", "é"])
def test_what_is_no_geohash_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as refusal:
        decode_geohash(text)
    assert refusal.value.field == "geohash"


@pytest.mark.parametrize(
    ("geohash", "zone"),
    [("9q9hvu", "CAISO"), ("9v6kn8", "ERCOT"), ("drt2yz", "ISO-NE"), ("dr5r7p", "NYISO"), ("s00000", UNKNOWN)],
)
def test_zone_follows_from_the_geohash(geohash: str, zone: str) -> None:
    assert locate(geohash).geozone == zone


def test_zone_reaches_five_hundred_kilometres() -> None:
    # One degree of latitude is 111.2 km; south of San Diego no other centre is nearer.
    assert zone_at(-117.2, 32.7 - 4.45) == "CAISO"
    assert zone_at(-117.2, 32.7 - 4.55) == UNKNOWN


def test_every_centre_lies_in_its_own_zone() -> None:
    for zone, centres in ZONES.items():
        assert centre_of(zone) == centres[0]
        assert {zone_at(*centre) for centre in centres} == {zone}
    assert centre_of("NOWHERE") is None


def test_configured_zone_wins_and_nothing_configured_is_unknown() -> None:
    assert locate("9q9hvu", "LAB").geozone == "LAB"
    assert locate() == Location()
    assert locate(geozone="LAB") == Location(geozone="LAB")


def test_short_geohash_is_filled_up_to_six_characters() -> None:
    found = locate("9q9")
    assert len(found.geohash) == 6
    assert found.geohash.startswith("9q9")
