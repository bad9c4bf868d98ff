"""What the demonstration task ``process-data`` does: counts what it is given. Goes to nodes as it is.

A module of its own, with nothing but the standard library, because it is sent alone.
"""

from __future__ import annotations

import json
from collections import Counter

__all__ = ["process_data"]


def process_data(given: str) -> str:
    """Returns, as JSON, how many lines, words and characters a text has, its most common word, and its sum.

    Args:
        given: any text. The sum is of the words that are numbers.
    """
    words = given.split()
    numbers = [number for number in map(_number, words) if number is not None]
    common = Counter(word.lower() for word in words).most_common(1)
    found = {
        "lines": len(given.splitlines()),
        "words": len(words),
        "characters": len(given),
        "mostCommon": common[0][0] if common else None,
        "sum": sum(numbers),
    }
    return json.dumps(found, separators=(",", ":"))


def _number(word: str) -> int | float | None:
    try:
        return int(word)
    except ValueError:
        pass
    try:
        number = float(word)
    except ValueError:
        return None
    return number if number - number == 0 else None  # no infinity, and not what is no number
