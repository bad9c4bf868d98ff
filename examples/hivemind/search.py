"""A search for the best classifier, by HiveMind: the tasks of one user, some on a machine that another lends for pay.

Everything goes over the protocol, as a program of somebody else would do it. The public client only tells which machine
of the pool, and which process of it, each task was.
"""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from arcray.client import Client
from examples.digits.promises import require
from examples.digits.report import Balance, Report, Row, show_log
from examples.hivemind.pool import Pool, User

__all__ = ["Search", "archive_of"]

_PROGRAM: Final = Path(__file__).with_name("candidate.py")
_CANDIDATES: Final = (0.1, 1.0, 10.0, 100.0)
_MIN_ACCURACY: Final = 0.9
_NEWEST: Final = 100
_LOOK_S: Final = 0.2
_LONGEST_S: Final = 180.0
_LIVE: Final = frozenset({"PENDING", "RUNNING"})


class Search:
    """The search on one arcray."""

    def __init__(self, client: Client, report: Report) -> None:
        self._client = client
        self._report = report

    def run(self, pool: Pool, owner: User) -> None:
        """Uploads a task for each candidate, waits for all, fetches what they left, and sees who paid whom.

        Args:
            owner: who lends a machine.
        """
        sender = pool.user("ana")
        print(f"    {owner.name} lends a machine; {sender.name} sends {len(_CANDIDATES)} tasks")
        before = [user.balance() for user in (sender, owner)]
        names = {f"{sender.name}/C={value:g}": value for value in _CANDIDATES}
        for task_id, value in names.items():
            sender.upload(task_id, archive_of(value))
        show_log(_lines_until_ended(sender, list(names)))
        self._show(sender)
        after = [user.balance() for user in (sender, owner)]
        self._report.balances += [
            Balance(user=user.name, before=had, after=has)
            for user, had, has in zip((sender, owner), before, after, strict=True)
        ]
        _check_paid(sender, owner, before, after)

    def _show(self, sender: User) -> None:
        tasks = sender.tasks()
        names = {node.raw["externalId"]: f"{node.name} {node.id[:8]}" for node in self._client.nodes()}
        pids = {work.name: work.pid for work in self._client.workloads(limit=_NEWEST)}
        for task_id, task in sorted(tasks.items()):
            score = _score(sender.result(task_id))
            accuracy = fmean(score["accuracy"])
            require(accuracy > _MIN_ACCURACY, f"{task_id}: accuracy {accuracy:.4f} is not above {_MIN_ACCURACY}")
            self._report.rows.append(
                Row(
                    work=f"C={score['C']:g}",
                    kind="HiveMind task",
                    node=names.get(task.assigned_node, task.assigned_node),
                    pid=pids.get(task_id),
                    result=f"accuracy {accuracy:.4f} in {len(score['accuracy'])} folds",
                    ms=(task.completed_at - task.started_at) * 1000,
                )
            )


def archive_of(value: float) -> bytes:
    """Returns a task that tries one candidate: a zip whose ``main.py`` a pool runs."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.write(_PROGRAM, "main.py")
        archive.writestr("candidate.json", json.dumps({"C": value}))
    return content.getvalue()


def _lines_until_ended(sender: User, task_ids: Sequence[str]) -> Iterator[str]:
    """Yields what tasks print, until all have ended well."""
    shown = dict.fromkeys(task_ids, 0)
    live = set(task_ids)
    deadline = time.monotonic() + _LONGEST_S
    while live:
        require(time.monotonic() < deadline, f"{', '.join(sorted(live))}: not ended in {_LONGEST_S:g} s")
        for task_id in sorted(live):
            status, lines = sender.poll(task_id)
            yield from (f"{line}\n" for line in lines[shown[task_id] :])
            shown[task_id] = len(lines)
            if status not in _LIVE:
                require(status == "COMPLETED", f"{task_id} is {status}: {' / '.join(lines)}")
                live.discard(task_id)
        time.sleep(_LOOK_S)


def _score(result: bytes) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(result)) as archive:
        score: dict[str, Any] = json.loads(archive.read("score.json"))
    return score


def _check_paid(sender: User, owner: User, before: Sequence[int], after: Sequence[int]) -> None:
    """What the owner of the machine has earned was paid by the sender, who may have paid the pool's own house too."""
    spent, earned = before[0] - after[0], after[1] - before[1]
    require(0 <= earned <= spent, f"{owner.name} has earned {earned}, and {sender.name} spent {spent}")
