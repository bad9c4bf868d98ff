"""The NVML probe against a stub ``libnvidia-ml.so.1`` with two devices: pynvml itself is convinced.

The driver keeps 1 GiB of each for itself; ``OLD`` is a driver before 510, which does not tell so.

``-D`` makes device 1 fail: ``LOST`` from the first question on, ``FELL_OFF`` once it was found, ``NO_MEMORY`` and
``NO_NAMES`` are questions that it does not support, ``MIG`` has divided it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

STUB = r"""
#include <string.h>
typedef int R; typedef struct { int id; } *D;
static struct { int id; } devices[2] = {{0}, {1}};
R nvmlInitWithFlags(unsigned f) { return 0; }
R nvmlInit_v2(void) { return 0; }
R nvmlShutdown(void) { return 0; }
R nvmlDeviceGetCount_v2(unsigned *n) { *n = 2; return 0; }
R nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) {
#ifdef LOST
  if (i == 1) return 15;
#endif
  if (i > 1) return 2;
  *d = &devices[i]; return 0;
}
#ifdef NO_NAMES
#define NAMED if (d->id) return 3;
#else
#define NAMED
#endif
R nvmlDeviceGetName(D d, char *s, unsigned n) { NAMED strncpy(s, "Stub GPU", n); return 0; }
R nvmlDeviceGetUUID(D d, char *s, unsigned n) { NAMED strncpy(s, d->id ? "GPU-b" : "GPU-a", n); return 0; }
R nvmlDeviceGetMinorNumber(D d, unsigned *m) { *m = 5 + d->id; return 0; }
R nvmlSystemGetDriverVersion(char *s, unsigned n) { strncpy(s, "580.159", n); return 0; }
R nvmlDeviceGetCudaComputeCapability(D d, int *major, int *minor) { NAMED *major = 9; *minor = 0; return 0; }
R answer(D d) {
#ifdef NO_MEMORY
  if (d->id) return 3;
#endif
#ifdef FELL_OFF
  if (d->id) return 15;
#endif
  return 0;
}
R nvmlDeviceGetMemoryInfo(D d, unsigned long long *m) {
  m[0] = 81ull << 30; m[1] = 78ull << 30; m[2] = 3ull << 30; return answer(d);
}
#ifndef OLD
R nvmlDeviceGetMemoryInfo_v2(D d, unsigned long long *m) {
  if ((unsigned)m[0] != (sizeof(long long) * 5 | 2 << 24)) return 25;
  m[1] = 81ull << 30; m[2] = 1ull << 30; m[3] = 78ull << 30; m[4] = 2ull << 30; return answer(d);
}
#endif
#ifdef MIG
R nvmlDeviceGetMigMode(D d, unsigned *now, unsigned *next) { if (!d->id) return 3; *now = *next = 1; return 0; }
#endif
R nvmlDeviceGetUtilizationRates(D d, unsigned *u) { u[0] = 25 + d->id; u[1] = 3; return 0; }
R nvmlDeviceGetTemperature(D d, int sensor, unsigned *t) { *t = 41; return 0; }
R nvmlDeviceGetPowerUsage(D d, unsigned *mw) { if (d->id) return 3; *mw = 120500; return 0; }
#ifdef OLD
#define COMPUTING nvmlDeviceGetComputeRunningProcesses_v2
#define DRAWING nvmlDeviceGetGraphicsRunningProcesses_v2
#else
#define COMPUTING nvmlDeviceGetComputeRunningProcesses_v3
#define DRAWING nvmlDeviceGetGraphicsRunningProcesses_v3
#endif
struct process { unsigned pid; unsigned long long used; unsigned instance, computes; };
R COMPUTING(D d, unsigned *n, struct process *p) {
  unsigned room = *n; *n = 2;
  if (room < 2) return 7;
  p[0] = (struct process){11, 1ull << 30}; p[1] = (struct process){12, -1ull}; return 0;
}
R DRAWING(D d, unsigned *n, struct process *p) {
  if (d->id) return 3;
  unsigned room = *n; *n = 1;
  if (!room) return 7;
  p[0] = (struct process){11, 3ull << 30}; return 0;
}
const char *nvmlErrorString(R r) { return "stub error"; }
"""

ASK = """
import dataclasses, json
from arcray.node.gpu import NvmlProbe
probe = NvmlProbe()
print(json.dumps([[dataclasses.asdict(gpu) for gpu in probe.devices()], probe.minors(),
                  [dataclasses.asdict(reading) for reading in probe.read()], list(map(str, probe.libraries())),
                  [dataclasses.astuple(holding) for holding in probe.holdings()]]))
"""


DETAILS = """
import dataclasses, json
from arcray.node.gpu import NvmlProbe
print(json.dumps({index: dataclasses.astuple(each) for index, each in NvmlProbe().details().items()}))
"""


def ask(library_path: Path, program: str = ASK, **env: str) -> Any:
    answer: Any = json.loads(
        subprocess.run(
            [sys.executable, "-c", program],
            env={"LD_LIBRARY_PATH": str(library_path), "PYTHONPATH": str(Path(__file__).parents[2]), **env},
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout
    )
    return answer


def build(directory: Path, *faults: str) -> Path:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc to compile the stub with")
    (directory / "stub.c").write_text(STUB)
    library = directory / "libnvidia-ml.so.580.159"  # the name that everybody asks for leads to it, as a driver has it
    (directory / "libnvidia-ml.so.1").symlink_to(library.name)
    options = ("-shared", "-fPIC", "-w", *(f"-D{fault}" for fault in faults))
    subprocess.run([compiler, *options, "-o", library, directory / "stub.c"], check=True, timeout=60)
    return directory


def test_probe_reads_devices_of_the_library(tmp_path: Path) -> None:
    devices, minors, readings, *_ = ask(build(tmp_path))
    assert devices == [
        {"index": index, "memory_bytes": 80 * 2**30, "uuid": uuid, "name": "Stub GPU"}
        for index, uuid in ((0, "GPU-a"), (1, "GPU-b"))
    ]
    assert minors == {"0": 5, "1": 6}
    assert readings == [
        {"index": 0, "utilization": 0.25, "memory_used_bytes": 2 * 2**30, "temperature_c": 41, "power_w": 120.5},
        {"index": 1, "utilization": 0.26, "memory_used_bytes": 2 * 2**30, "temperature_c": 41, "power_w": None},
    ]


def test_details_are_told_as_far_as_the_driver_tells(tmp_path: Path) -> None:
    assert ask(build(tmp_path, "NO_NAMES"), DETAILS) == {"0": ["9.0", "580.159"], "1": ["", "580.159"]}
    empty = tmp_path / "empty"
    empty.mkdir()
    assert ask(empty, DETAILS) == {}


@pytest.mark.parametrize("fault", ["LOST", "FELL_OFF", "MIG"])
def test_lost_or_divided_device_takes_no_other_with_it(tmp_path: Path, fault: str) -> None:
    devices, minors, readings, *_ = ask(build(tmp_path, fault))
    assert [gpu["uuid"] for gpu in devices] == ["GPU-a"]
    assert minors["0"] == 5
    assert readings[0]["utilization"] == 0.25


def test_device_that_shares_the_machines_memory_is_offered_whole(tmp_path: Path) -> None:
    devices, _, readings, *_ = ask(build(tmp_path, "NO_MEMORY", "NO_NAMES"))
    assert devices[1] == {"index": 1, "memory_bytes": 0, "uuid": "", "name": ""}
    assert (readings[1]["utilization"], readings[1]["memory_used_bytes"]) == (0.26, 0)


def test_driver_that_does_not_tell_what_it_keeps_is_believed(tmp_path: Path) -> None:
    devices, _, readings, *_ = ask(build(tmp_path, "OLD"))
    assert [gpu["memory_bytes"] for gpu in devices] == [81 * 2**30] * 2
    assert [reading["memory_used_bytes"] for reading in readings] == [3 * 2**30] * 2


def test_library_that_cannot_be_opened_is_no_gpus(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    assert ask(tmp_path) == [[], {}, [], [], []]


def test_library_that_only_our_own_environment_leads_to_is_handed_on(tmp_path: Path) -> None:
    *_, libraries, _ = ask(build(tmp_path))
    assert libraries == [str(tmp_path)]


@pytest.mark.parametrize("driver", [(), ("OLD",)], ids=["new", "old"])
def test_holdings_are_each_process_once_and_what_the_driver_does_not_tell_is_nothing(
    tmp_path: Path, driver: tuple[str, ...]
) -> None:
    *_, holdings = ask(build(tmp_path, *driver))
    assert holdings == [[0, 11, 3 * 2**30], [0, 12, 0], [1, 11, 2**30], [1, 12, 0]]


@pytest.mark.parametrize(
    ("visible", "offered"),
    [("1", [1]), ("1,0", [0, 1]), ("GPU-b", [1]), ("", []), ("NoDevFiles", []), ("1,GPU-lost,0", [1]), ("-1", [])],
)
def test_gpus_that_are_hidden_from_the_agent_are_not_offered(tmp_path: Path, visible: str, offered: list[int]) -> None:
    devices, minors, readings, *_ = ask(build(tmp_path), CUDA_VISIBLE_DEVICES=visible)
    assert [gpu["index"] for gpu in devices] == [reading["index"] for reading in readings] == offered
    assert list(minors) == [str(index) for index in offered]
