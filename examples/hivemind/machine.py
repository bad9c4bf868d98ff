"""A machine that somebody lends to a HiveMind pool."""

from __future__ import annotations

from typing import Final

from examples.hivemind.pool import Pool, User
from examples.machine import Start

__all__ = ["lending"]

# A little of this machine, which is in the pool with all of it already: so small a one is filled first.
_OFFERED: Final = {
    "ARCRAY_NODE__CPU_MILLI": "1000",
    "ARCRAY_NODE__MEMORY_BYTES": str(2 * 2**30),
    "ARCRAY_NODE__MODELS__ENABLED": "false",
}


def lending(pool: Pool, owner: User) -> Start:
    """Returns how the machine joins; its pool then has it under its owner's name."""
    return Start(
        name=f"the machine of {owner.name}",
        words=["--protocol", "hivemind", "--pool", pool.address, "--listen", "127.0.0.1:0", "--user", owner.name],
        env={**_OFFERED, "ARCRAY_AGENT_PASSWORD": owner.password},
        has_joined=lambda: pool.health(owner.name) == "healthy",
    )
