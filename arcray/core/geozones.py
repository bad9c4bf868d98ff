"""Where things stand: geohashes, positions, and the grid zone that a position belongs to.

A zone is the one whose nearest listed centre lies within 500 km by great circle, else ``UNKNOWN``: no protocol here
defines borders, only the centres that its console draws. Positions are (longitude, latitude) in degrees.
"""

from __future__ import annotations

from functools import lru_cache
from math import asin, cos, radians, sin, sqrt
from typing import Final

from arcray.core.errors import InvalidArgumentError
from arcray.core.node import Location

__all__ = ["UNKNOWN", "ZONES", "centre_of", "decode_geohash", "encode_geohash", "locate", "zone_at"]

UNKNOWN: Final = "UNKNOWN"

ZONES: Final[dict[str, tuple[tuple[float, float], ...]]] = {
    "CAISO": ((-121.9, 37.3), (-118.2, 34.0), (-122.4, 37.8), (-117.2, 32.7)),
    "ERCOT": ((-97.7, 30.3), (-95.4, 29.8), (-96.8, 32.8), (-98.5, 29.4)),
    "SPP": ((-97.5, 35.5), (-94.6, 39.1), (-96.7, 40.8), (-97.3, 37.7)),
    "MISO": ((-87.6, 41.9), (-86.2, 39.8), (-93.3, 45.0), (-90.2, 38.6), (-83.0, 42.3)),
    "PJM": ((-77.0, 38.9), (-75.2, 40.0), (-76.6, 39.3), (-80.0, 40.4), (-82.0, 39.9)),
    "NYISO": ((-74.0, 40.7), (-73.8, 42.7), (-77.6, 43.2), (-76.1, 43.0)),
    "ISO-NE": ((-71.1, 42.4), (-72.7, 41.8), (-71.4, 41.8), (-72.6, 44.3)),
}
"""The grid operators of the ArcNet console and the centres that it draws them by; the first stands for the zone."""

_ALPHABET: Final = "0123456789bcdefghjkmnpqrstuvwxyz"
_VALUE: Final = {character: value for value, character in enumerate(_ALPHABET)}
_LENGTH: Final = 6
_BITS: Final = 5
_REACH_KM: Final = 500.0
_EARTH_RADIUS_KM: Final = 6371.0


def locate(geohash: str = "", geozone: str = "") -> Location:
    """Returns a location from what a machine or its operator knows.

    Args:
        geohash: up to 6 characters; fewer mean the centre of a larger cell, none that nobody knows.
        geozone: overrides the zone that follows from the geohash.

    Raises:
        InvalidArgumentError: geohash is not one.
    """
    if not geohash:
        return Location(geozone=geozone or UNKNOWN)
    longitude, latitude = decode_geohash(geohash)
    return Location(
        geohash=geohash if len(geohash) == _LENGTH else encode_geohash(longitude, latitude),
        geozone=geozone or zone_at(longitude, latitude),
        longitude=longitude,
        latitude=latitude,
    )


@lru_cache(maxsize=65_536)
def decode_geohash(geohash: str) -> tuple[float, float]:
    """Returns the centre of a cell.

    Raises:
        InvalidArgumentError: empty, too long, or a character that geohashes do not have.
    """
    if not 1 <= len(geohash) <= 2 * _LENGTH or not set(geohash) <= _VALUE.keys():
        raise InvalidArgumentError("is not a geohash", field="geohash")
    bits = 0
    for character in geohash:
        bits = bits << _BITS | _VALUE[character]
    ranges = [[-180.0, 180.0], [-90.0, 90.0]]  # bits halve longitude and latitude in turn
    for position in range(_BITS * len(geohash)):
        span = ranges[position % 2]
        upper = bits >> (_BITS * len(geohash) - 1 - position) & 1
        span[1 - upper] = (span[0] + span[1]) / 2
    (west, east), (south, north) = ranges
    return (west + east) / 2, (south + north) / 2


def encode_geohash(longitude: float, latitude: float, length: int = _LENGTH) -> str:
    """Returns the cell that a position lies in."""
    ranges = [[-180.0, 180.0], [-90.0, 90.0]]
    point = (longitude, latitude)
    bits = 0
    for position in range(_BITS * length):
        span = ranges[position % 2]
        middle = (span[0] + span[1]) / 2
        upper = point[position % 2] >= middle
        span[1 - upper] = middle
        bits = bits << 1 | upper
    return "".join(_ALPHABET[bits >> _BITS * (length - 1 - index) & 31] for index in range(length))


@lru_cache(maxsize=65_536)
def zone_at(longitude: float, latitude: float) -> str:
    """Returns the zone of a position."""
    distance, zone = min(
        (_distance_km(longitude, latitude, *centre), zone) for zone, centres in ZONES.items() for centre in centres
    )
    return zone if distance <= _REACH_KM else UNKNOWN


def centre_of(geozone: str) -> tuple[float, float] | None:
    """Returns the position that stands for a zone, None for one that is not listed."""
    centres = ZONES.get(geozone)
    return centres[0] if centres else None


def _distance_km(longitude: float, latitude: float, to_longitude: float, to_latitude: float) -> float:
    """Returns the great-circle distance by the haversine formula."""
    half_latitude = radians(to_latitude - latitude) / 2
    half_longitude = radians(to_longitude - longitude) / 2
    chord = sin(half_latitude) ** 2 + cos(radians(latitude)) * cos(radians(to_latitude)) * sin(half_longitude) ** 2
    return 2 * _EARTH_RADIUS_KM * asin(sqrt(min(1.0, chord)))
