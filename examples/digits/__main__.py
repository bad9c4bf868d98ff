"""The main job on real input: `make demo`, or `python -m examples.digits --url http://...` against a running arcray.

Prints what ran where with results and timings; exits 0 only when all of it is well.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack

from arcray.client import Client
from arcray.core.errors import ArcrayError
from examples.claw.attached import Attached
from examples.digits.job import Job, Training
from examples.digits.own import OwnArcray
from examples.digits.promises import UnwellError
from examples.digits.report import Report, Row
from examples.hivemind.search import Search
from examples.joined import Joined, joined
from examples.matrix.everywhere import Everywhere
from examples.pool.lent import Lent


def main() -> int:
    """Runs the main job; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.digits", description="The main job on real input.")
    parser.add_argument("--url", help="a running arcray; without it one is started for the job")
    parser.add_argument("--hivemind", metavar="HOST:PORT", help="where that one serves HiveMind")
    given = parser.parse_args()
    report = Report()
    try:
        if given.url:
            _run(given.url, given.hivemind, report, own=False)
        else:
            _run_on_own(report)
    except (ArcrayError, UnwellError) as error:
        print(f"\nThe main job failed: {error}", file=sys.stderr)
        return 1
    report.show()
    return 0


def _run_on_own(report: Report) -> None:
    own = OwnArcray()
    well = False
    try:
        with report.phase("start arcray"):
            url = own.start()
        _run(url, own.hivemind, report, own=True)
        well = True
    finally:
        with report.phase("end arcray"):
            own.end()
        if well:
            own.forget()
        else:
            print(f"the log of arcray is kept in {own.log}", file=sys.stderr)


def _run(url: str, hivemind: str | None, report: Report, *, own: bool) -> None:
    with Client(url) as client:
        job = Job(client, report)
        with report.phase("train a classifier as a program"):
            training = job.train()
        with report.phase("load it as a model"):
            job.load(training)
        with report.phase(f"route {len(training.labels)} requests"):
            job.infer(training)
        with report.phase("run a container"):
            job.contain()
        with ExitStack() as stack:
            with report.phase("have a machine join by every protocol"):
                machines = stack.enter_context(joined(client, hivemind))
            _run_on(machines, client, training, report, own=own)
            with report.phase("have the machines leave"):
                stack.close()


def _run_on(machines: Joined, client: Client, training: Training, report: Report, *, own: bool) -> None:
    with report.phase("run a container on a claw node"):
        Attached(client, report).run(machines.claw)
    with report.phase("run a task of the Resource Pool, and a program on a device"):
        Lent(client, report).run(machines.device)
    if machines.worker is None:
        report.rows.append(Row(work="search", kind="HiveMind task", result="not run: --hivemind says where"))
        return
    with report.phase("search by HiveMind tasks"):
        Search(client, report).run(machines.worker.pool, machines.worker.owner)
    if own:  # nodes are cordoned for it
        with report.phase("every protocol on every kind of machine"):
            Everywhere(client, training, report).run(machines, machines.worker)


if __name__ == "__main__":
    sys.exit(main())
