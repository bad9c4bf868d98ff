"""Programs of nothing a second on one node, as forks and alone, beside bare ``python -c pass``. No budgets: the end to
end figure of ``bench_hivemind`` has one.

    python -m pytest tests/bench/bench_forks.py -m bench -s

The node's runner in this process, with blobs in memory; so many programs at once as keep two cores busy.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final

import pytest

from arcray.core.workload import Phase, Program
from arcray.node.process_tree import descendants
from tests.bench.report import check, in_turn, row

if TYPE_CHECKING:
    from tests.program_bench import Bench

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]

PROGRAMS: Final = 600
FEW: Final = 60
AT_ONCE: Final = 8


async def test_programs_of_nothing(forked_bench: Bench) -> None:
    forked_bench.blobs.data["code"] = b"pass"
    forks, numbers = forked_bench.forks, iter(range(1_000_000))

    async def per_s(count: int) -> float:
        runner = forked_bench.runner()
        left = iter(range(count))

        async def worker() -> None:
            for _ in left:
                name = f"0b000000-0000-4000-8000-{next(numbers):012}"
                end = await runner.run(forked_bench.attempts.of(Program(blob="code"), workload_id=name))
                assert end.phase is Phase.SUCCEEDED, end

        began = perf_counter()
        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
        return count / (perf_counter() - began)

    async def forked() -> float:
        forked_bench.forks = forks
        return await per_s(PROGRAMS)

    async def alone() -> float:
        forked_bench.forks = None
        return await per_s(FEW)

    await forked()
    began = _processor_s()
    await forked()
    spent = 1000 * (_processor_s() - began) / PROGRAMS
    ours, plain = await in_turn(forked, _bare_per_s)
    slow, plain_again = await in_turn(alone, _bare_per_s)
    check([
        row("programs of nothing, forked", ours, "programs/s", better="higher", bare=plain),
        row("processor of each", [spent, spent], "ms", better="lower"),
        row("programs of nothing, alone", slow, "programs/s", better="higher", bare=plain_again),
    ])  # fmt: skip


async def _bare_per_s() -> float:
    """Returns how many interpreters of nothing start and end a second, without a sandbox."""
    left = iter(range(FEW))

    async def worker() -> None:
        for _ in left:
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", "pass")
            assert await process.wait() == 0

    began = perf_counter()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return FEW / (perf_counter() - began)


def _processor_s() -> float:
    """Returns what this process and all below it, ended programs among them, have used; not the bare interpreters."""
    own = sum(os.times()[:2])
    for pid in descendants(os.getpid()):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        own += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return own
