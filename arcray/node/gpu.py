"""GPUs by NVML, behind a small port. A machine without a driver or a GPU is normal: it has no GPUs.

NVML numbers devices by bus; device files are numbered by minor number, and CUDA numbers by its own order. So programs
and models are told which devices to use by uuid, and the device files by minor.

Of the GPUs of the machine, ours are those that ``CUDA_VISIBLE_DEVICES`` shows to the agent, as for any other program;
by index there, NVML's order is meant. Without that variable all are.

Every question is asked of each device by itself: one that has fallen off the bus, or that does not know an answer, must
not take the others with it.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import pynvml

from arcray.core.node import GpuTelemetry
from arcray.core.resources import Allocation, Gpu, GpuShare

__all__ = ["GpuDetails", "GpuDevices", "GpuHolding", "GpuProbe", "NvmlProbe"]

_log = logging.getLogger(__name__)

_WANTED: Final = "libcuda.so.1"  # what work loads
_OURS: Final = "libnvidia-ml.so."  # what NVML is; mapped by the name of its version
_VISIBLE: Final = "CUDA_VISIBLE_DEVICES="
_STARTED_WITH: Final = Path("/proc/self/environ")
_MAPPED: Final = Path("/proc/self/maps")
_TIMEOUT_S: Final = 30.0
# Who names it by its uuid gets the first of its instances alone: all shares of it would be in that one.
_DIVIDED: Final = "MIG divides it, whose instances are not offered; nvidia-smi -i {index} -mig 0 makes it one again"
_LIBRARY_PATH: Final = "LD_LIBRARY_PATH"
_ON_DEMAND: Final = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
_TOOLS: Final = Path("/dev/nvidia-uvm-tools")  # for debuggers and profilers
_SHARED_FILES: Final = (Path("/dev/nvidiactl"), Path("/dev/nvidia-uvm"), _TOOLS)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuHolding:
    """What one process holds of one device's memory, its context included."""

    index: int
    pid: int
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuDetails:
    """What some protocols tell of a GPU besides; "" where the driver does not say.

    Args:
        compute_capability: for example "9.0".
    """

    compute_capability: str = ""
    driver_version: str = ""


class GpuProbe(Protocol):
    """What tells about GPUs. Calls may block for milliseconds."""

    def devices(self) -> tuple[Gpu, ...]:
        """Returns the GPUs of this machine, sorted by index; () without any."""
        ...

    def minors(self) -> Mapping[int, int]:
        """Returns the number of each GPU's device file, by index."""
        ...

    def libraries(self) -> tuple[Path, ...]:
        """Returns where the driver's libraries are that the loader does not find by itself; () where it does."""
        ...

    def read(self) -> tuple[GpuTelemetry, ...]:
        """Returns one reading per GPU, sorted by index."""
        ...

    def holdings(self) -> tuple[GpuHolding, ...]:
        """Returns who holds memory of which GPU, as far as the driver tells."""
        ...


class NvmlProbe:
    """NVML, opened at the first call and kept open."""

    def __init__(self) -> None:
        self._handles: dict[int, Any] | None = None

    def devices(self) -> tuple[Gpu, ...]:
        """Returns the GPUs that answer; ``memory_bytes`` is 0 where a device shares the machine's memory."""
        found = (_device(index, handle) for index, handle in self._open().items())
        return tuple(gpu for gpu in found if gpu is not None)

    def minors(self) -> Mapping[int, int]:
        """Returns the number of each GPU's device file; the index where the driver does not tell."""
        minors = {index: _or_none(pynvml.nvmlDeviceGetMinorNumber, handle) for index, handle in self._open().items()}
        return {index: index if minor is None else int(minor) for index, minor in minors.items()}

    def libraries(self) -> tuple[Path, ...]:
        """Returns the directory that NVML's library came from, where only our own environment led the loader there."""
        if not self._open() or _loads_without_us():
            return ()
        mapped = (line.split(maxsplit=5)[-1] for line in _MAPPED.read_text().splitlines() if _OURS in line)
        return tuple({Path(path).parent for path in mapped})

    def read(self) -> tuple[GpuTelemetry, ...]:
        """Returns one reading per GPU; what a device does not support is None (utilization: 0)."""
        return tuple(_reading(index, handle) for index, handle in self._open().items())

    def holdings(self) -> tuple[GpuHolding, ...]:
        """Returns who holds memory of which GPU, by the driver's numbers of processes."""
        return tuple(holding for index, handle in self._open().items() for holding in _holdings(index, handle))

    def details(self) -> Mapping[int, GpuDetails]:
        """Returns what is told of each GPU besides, by index."""
        handles = self._open()
        driver_version = _text(_or_none(pynvml.nvmlSystemGetDriverVersion) or "") if handles else ""
        return {
            index: GpuDetails(compute_capability=_compute_capability(handle), driver_version=driver_version)
            for index, handle in handles.items()
        }

    def _open(self) -> dict[int, Any]:
        if self._handles is None:
            self._handles = _handles()
        return self._handles


def _loads_without_us() -> bool:
    """Returns whether a process that inherits nothing of our environment finds the driver. Found out by trying."""
    program = (sys.executable, "-I", "-S", "-c", f"import ctypes; ctypes.CDLL({_WANTED!r})")
    try:
        subprocess.run(program, env={}, capture_output=True, timeout=_TIMEOUT_S, check=True)  # noqa: S603 - no input
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _handles() -> dict[int, Any]:
    """Returns the devices that NVML lets us have, by index; the others keep theirs."""
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        _log.info("no GPUs", extra={"reason": str(error)})
        return {}
    found = {}
    for index in range(count):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:
            _log.warning("GPU not offered", extra={"index": index, "reason": str(error)})
            continue
        if _is_divided(handle):
            _log.warning("GPU not offered", extra={"index": index, "reason": _DIVIDED.format(index=index)})
            continue
        found[index] = handle
    return _shown(found)


def _is_divided(handle: Any) -> bool:
    """Returns whether MIG divides a device; few can be."""
    mode = _or_none(pynvml.nvmlDeviceGetMigMode, handle)
    return mode is not None and mode[0] != pynvml.NVML_DEVICE_MIG_DISABLE


def _shown(found: dict[int, Any]) -> dict[int, Any]:
    """Returns those of the devices that are not hidden from us.

    As we were started, because Ray changes the variable in its workers while they live.
    """
    started_with = _STARTED_WITH.read_bytes().decode(errors="replace").split("\0")
    visible = next((entry.removeprefix(_VISIBLE) for entry in started_with if entry.startswith(_VISIBLE)), None)
    if visible is None:
        return found
    shown = set()
    for name in visible.split(","):
        index = next((index for index, handle in found.items() if _is_named(name.strip(), index, handle)), None)
        if index is None:
            break  # as CUDA has it: what follows a name that means nothing is hidden too
        shown.add(index)
    _log.info("GPUs shown to us", extra={"visible": visible, "indices": sorted(shown)})
    return {index: found[index] for index in sorted(shown)}


def _is_named(name: str, index: int, handle: Any) -> bool:
    uuid = _text(_or_none(pynvml.nvmlDeviceGetUUID, handle) or "")
    return name == str(index) or (name.startswith("GPU-") and uuid.startswith(name))


def _device(index: int, handle: Any) -> Gpu | None:
    """Returns what a device is; None when it does not answer."""
    try:
        memory_bytes, _ = _memory(handle)
    except pynvml.NVMLError_NotSupported:
        memory_bytes = 0  # it has none of its own, so nothing of it can be shared out; it is given whole
    except pynvml.NVMLError as error:
        _log.warning("GPU not offered", extra={"index": index, "reason": str(error)})
        return None
    uuid, name = _or_none(pynvml.nvmlDeviceGetUUID, handle), _or_none(pynvml.nvmlDeviceGetName, handle)
    return Gpu(index=index, memory_bytes=memory_bytes, uuid=_text(uuid or ""), name=_text(name or ""))


def _compute_capability(handle: Any) -> str:
    numbers = _or_none(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    return "" if numbers is None else f"{numbers[0]}.{numbers[1]}"


def _reading(index: int, handle: Any) -> GpuTelemetry:
    utilization = _or_none(pynvml.nvmlDeviceGetUtilizationRates, handle)
    memory = _or_none(_memory, handle)
    temperature = _or_none(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
    power_mw = _or_none(pynvml.nvmlDeviceGetPowerUsage, handle)
    return GpuTelemetry(
        index=index,
        utilization=0.0 if utilization is None else utilization.gpu / 100,
        memory_used_bytes=0 if memory is None else memory[1],
        temperature_c=None if temperature is None else int(temperature),
        power_w=None if power_mw is None else power_mw / 1000,
    )


def _memory(handle: Any) -> tuple[int, int]:
    """Returns what of a device's memory work can have, and what of that is in use, in bytes.

    The driver keeps some for itself (615 MiB of an H200), which the older form of the question counts as in use: shares
    of the whole would be given out that nobody can allocate, and an idle device would be told as one in use.
    """
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2)
    except pynvml.NVMLError_FunctionNotFound:  # a driver before 510
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return int(memory.total), int(memory.used)
    return int(memory.total - memory.reserved), int(memory.used)


def _holdings(index: int, handle: Any) -> Iterator[GpuHolding]:
    """Yields one for each process; those that compute and draw are in both lists of the driver's."""
    held: dict[int, int] = {}
    for question in (_computing, _drawing):
        for process in _or_none(question, handle) or ():
            held[process.pid] = max(held.get(process.pid, 0), process.usedGpuMemory or 0)
    for pid, memory_bytes in held.items():
        yield GpuHolding(index=index, pid=pid, memory_bytes=memory_bytes)


def _computing(handle: Any) -> Any:
    try:
        return pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)
    except pynvml.NVMLError_FunctionNotFound:  # a driver before 510
        return pynvml.nvmlDeviceGetComputeRunningProcesses_v2(handle)


def _drawing(handle: Any) -> Any:
    try:
        return pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3(handle)
    except pynvml.NVMLError_FunctionNotFound:
        return pynvml.nvmlDeviceGetGraphicsRunningProcesses_v2(handle)


def _or_none(call: Any, *arguments: Any) -> Any:
    """Returns what NVML answers; None where a device does not support the question."""
    try:
        return call(*arguments)
    except pynvml.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuDevices:
    """How the GPUs of an allocation are named to processes.

    Args:
        gpus, minors, libraries: as the probe tells them.
    """

    gpus: tuple[Gpu, ...] = ()
    minors: Mapping[int, int]
    libraries: tuple[Path, ...] = ()

    def environment(self, allocation: Allocation, own: Mapping[str, str]) -> dict[str, str]:
        """Returns the variables by which a process finds the devices of an allocation, and what it may have of them.

        Args:
            own: what the work sets itself. It is kept, but for what decides which GPUs are whose; the driver's
                libraries come after those that it names.
        """
        found = {"CUDA_VISIBLE_DEVICES": ",".join(self.names(allocation))}  # "" hides all
        if allocation.gpus and self.libraries:
            paths = (own.get(_LIBRARY_PATH, ""), *map(str, self.libraries))
            found[_LIBRARY_PATH] = ":".join(path for path in paths if path)  # an empty one is the working directory
        shares = [share.memory_bytes for share in allocation.gpus if not share.whole]
        if shares:
            found["ARCRAY_GPU_MEMORY_BYTES"] = str(min(shares))
        return {**(_ON_DEMAND if shares else {}), **own, **found}

    def names(self, allocation: Allocation) -> tuple[str, ...]:
        """Returns the uuid of each device of an allocation, its index where it has none."""
        uuids = {gpu.index: gpu.uuid for gpu in self.gpus}
        return tuple(uuids.get(share.index) or str(share.index) for share in allocation.gpus)

    def files(self, allocation: Allocation) -> tuple[Path, ...]:
        """Returns the device files of an allocation; () without GPUs."""
        if not allocation.gpus:
            return ()
        own = (Path(f"/dev/nvidia{self.minors.get(share.index, share.index)}") for share in allocation.gpus)
        return (*_SHARED_FILES, *own)

    def absent(self) -> tuple[Path, ...]:
        """Returns the device files that work with a GPU needs and this machine lacks.

        The driver makes them when somebody with the right to do so first asks it to, which is nobody in a sandbox.
        """
        shares = (GpuShare(index=gpu.index, memory_bytes=gpu.memory_bytes, whole=True) for gpu in self.gpus)
        needed = set(self.files(Allocation(gpus=tuple(shares)))) - {_TOOLS}
        return tuple(sorted(path for path in needed if not path.exists()))
