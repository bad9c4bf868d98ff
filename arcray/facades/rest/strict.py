"""Bodies that say how the pool is run: limits, cordons, keys, credits. They take no member that they do not know.

Ignoring one is right where something else is said as well: a submission from a newer client runs without what this
version does not know. Here it would do the opposite of what was meant: ``{"gpu": 8}`` for ``gpus`` gives a quota
without a limit, ``expiresIn`` a key that never expires, and a drain of ``{"gpu": [1]}`` empties the whole machine.
"""

from __future__ import annotations

from pydantic import ConfigDict

from arcray.facades.rest.messages import Message

__all__ = ["StrictMessage"]


class StrictMessage(Message):
    """A body whose unknown members are refused by name."""

    model_config = ConfigDict(extra="forbid")
