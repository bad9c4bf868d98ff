"""Squares numbers on a GPU: a program, and a model. By the driver's own interface, so it needs nothing but a driver.

As a program it prints what it found as JSON; ``hold BYTES`` then keeps so much of the GPU's memory, ``busy`` keeps the
GPU busy, both until the program is ended.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from typing import Any, NoReturn

_THREADS = 256
_KERNEL = b"""
.version 6.4
.target sm_60
.address_size 64
.visible .entry square(.param .u64 numbers, .param .u32 times)
{
  .reg .pred %again;
  .reg .b32 %r<7>;
  .reg .b64 %at<4>;
  ld.param.u64 %at1, [numbers];
  ld.param.u32 %r6, [times];
  cvta.to.global.u64 %at1, %at1;
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %ntid.x;
  mov.u32 %r3, %tid.x;
  mad.lo.u32 %r4, %r1, %r2, %r3;
  mul.wide.u32 %at2, %r4, 4;
  add.u64 %at3, %at1, %at2;
  ld.global.u32 %r5, [%at3];
AGAIN:
  mul.lo.u32 %r5, %r5, %r5;
  sub.u32 %r6, %r6, 1;
  setp.ne.u32 %again, %r6, 0;
  @%again bra AGAIN;
  st.global.u32 [%at3], %r5;
  ret;
}
"""


class Square:
    """The first GPU that this process may use.

    Raises:
        OSError: no driver's library is here.
        RuntimeError: the driver refuses; says which call and its error number.
    """

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        self._call("cuInit", 0)
        count, device = ctypes.c_int(), ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        self.count = count.value
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), device)
        self.name = name.value.decode()
        self._context, module, self._kernel = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self._call("cuCtxSetCurrent", self._context)
        self._call("cuModuleLoadData", ctypes.byref(module), _KERNEL)
        self._call("cuModuleGetFunction", ctypes.byref(self._kernel), module, b"square")

    @property
    def memory_bytes(self) -> int:
        """What of the GPU's memory work can have."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return total.value

    def predict(self, numbers: list[int]) -> dict[str, Any]:
        """Returns the squares and where they were computed."""
        self._call("cuCtxSetCurrent", self._context)  # a model is asked by several threads
        return {"device": self.name, "squares": self.squares(numbers, times=1)}

    def squares(self, numbers: list[int], *, times: int) -> list[int]:
        """Returns the numbers squared so many times, within 32 bits."""
        blocks = -(-len(numbers) // _THREADS)
        values = (ctypes.c_uint32 * (blocks * _THREADS))(*numbers)
        size, memory = ctypes.c_size_t(ctypes.sizeof(values)), self.allocate(ctypes.sizeof(values))
        rounds = ctypes.c_uint32(times)
        arguments = (ctypes.c_void_p * 2)(ctypes.addressof(memory), ctypes.addressof(rounds))
        self._call("cuMemcpyHtoD_v2", memory, values, size)
        self._call("cuLaunchKernel", self._kernel, blocks, 1, 1, _THREADS, 1, 1, 0, None, arguments, None)
        self._call("cuMemcpyDtoH_v2", values, memory, size)
        self._call("cuMemFree_v2", memory)
        return list(values)[: len(numbers)]

    def allocate(self, size_bytes: int) -> ctypes.c_uint64:
        """Returns where so much of the GPU's memory is, which is now ours."""
        memory = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(size_bytes))
        return memory

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code:
            raise RuntimeError(f"{name}: error {code}")


def _main(mode: str = "", size: str = "0") -> None:
    began = time.monotonic()
    found: dict[str, Any] = {
        "files": sorted(name for name in os.listdir("/dev") if name.startswith("nvidia")),  # noqa: PTH208 - names are wanted
        "share": os.environ.get("ARCRAY_GPU_MEMORY_BYTES", ""),
    }
    try:
        square = Square()
        found |= {"count": square.count, "memory_bytes": square.memory_bytes, **square.predict([3, 4])}
        if mode == "hold":
            square.allocate(int(size))
    except (OSError, RuntimeError) as error:
        found |= {"reason": str(error)}
    print(json.dumps(found | {"began": began, "ended": time.monotonic()}), flush=True)
    if mode == "busy":
        _keep_busy(square)
    if mode == "hold":
        signal.pause()


def _keep_busy(square: Square) -> NoReturn:
    while True:
        square.squares([3] * 2**16, times=2**24)  # about a tenth of a second, beside which Python's part is little


if __name__ == "__main__":
    _main(*sys.argv[1:])
