"""Moments as the wire has them: RFC 3339 text, in UTC, to the nanosecond.

Written with ``Z`` and 0, 3, 6 or 9 digits of a second, the fewest that say it. Any offset is read. Python's own
datetimes end at the microsecond and have no leap seconds, and what comes in is to go out unchanged.

RFC 3339 has a leap second, ``:60``, at the end of a month. Peers take one at the end of any minute, because an offset
moves it there, and what they take has to be read: so it is here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from arcray.claw_proto.errors import InvalidMessageError

__all__ = ["EPOCH", "Timestamp"]

_TEXT: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_ZERO: Final = timedelta(0)
_MINUTES, _HOURS = 60, 24
_NANOSECONDS: Final = 10**9
_MICROSECONDS: Final = 10**6
_THOUSAND: Final = 1_000
_LEAP: Final = 60


@dataclass(frozen=True, slots=True, order=True)
class Timestamp:
    """A moment.

    Args:
        at: in UTC, aware.
        nanosecond: what it has beyond the microsecond, 0 to 999. Beyond the last one of a minute there may be a leap
            second: a thousand and the nanoseconds of that.
    """

    at: datetime
    nanosecond: int = 0

    def __post_init__(self) -> None:
        is_last = self.at.second == _LEAP - 1 and self.at.microsecond == _MICROSECONDS - 1
        longest = _THOUSAND + is_last * _NANOSECONDS
        if self.at.utcoffset() != _ZERO or not 0 <= self.nanosecond < longest:
            raise ValueError("a Timestamp is in UTC, with 0 to 999 nanoseconds beyond it; see Timestamp.of")

    @classmethod
    def of(cls, at: datetime) -> Timestamp:
        """Returns the moment of an aware datetime of any zone."""
        return cls(at.astimezone(UTC))

    @classmethod
    def parse(cls, text: str) -> Timestamp:
        """Returns the moment that a text tells. Digits beyond the ninth are dropped.

        Raises:
            InvalidMessageError: it is not RFC 3339 with an offset, or no such moment exists.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            raise InvalidMessageError("must be a time as RFC 3339 has it, like 2026-02-03T12:34:56Z")
        year, month, day, hour, minute, second, fraction, sign, hours, minutes = found.groups()
        nanoseconds = 0 if fraction is None else int(fraction[:9].ljust(9, "0"))
        seconds = int(second)
        if seconds == _LEAP:
            seconds, microsecond, rest = seconds - 1, _MICROSECONDS - 1, _THOUSAND + nanoseconds
        else:
            microsecond, rest = divmod(nanoseconds, _THOUSAND)
        try:
            at = datetime(int(year), int(month), int(day), int(hour), int(minute), seconds, microsecond, UTC)
            if sign is not None:
                at -= _offset(sign, int(hours), int(minutes))
        except (ValueError, OverflowError) as error:
            raise InvalidMessageError("is a time that does not exist") from error
        return cls(at, rest)

    def __str__(self) -> str:
        at = self.at
        # By hand: strftime pads no year on some platforms, and takes three times as long.
        day = f"{at.year:04d}-{at.month:02d}-{at.day:02d}"
        leap, nanoseconds = divmod(at.microsecond * _THOUSAND + self.nanosecond, _NANOSECONDS)
        clock = f"{at.hour:02d}:{at.minute:02d}:{at.second + leap:02d}"
        return f"{day}T{clock}{_fraction(nanoseconds)}Z"


EPOCH: Final = Timestamp(datetime(1970, 1, 1, tzinfo=UTC))


def _offset(sign: str, hours: int, minutes: int) -> timedelta:
    if hours >= _HOURS or minutes >= _MINUTES:
        raise ValueError("an offset has up to 23 hours and 59 minutes")
    offset = timedelta(hours=hours, minutes=minutes)
    return offset if sign == "+" else -offset


def _fraction(nanoseconds: int) -> str:
    if not nanoseconds:
        return ""
    digits = f".{nanoseconds:09d}"
    if digits.endswith("000000"):
        return digits[:4]
    return digits[:7] if digits.endswith("000") else digits
