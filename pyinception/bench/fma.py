"""The FMA roof: a loop of fused multiply-adds on registers, nothing else.

No kernel of the library can serve as the roof: the best, a 1x1 convolution out of L1, reached
246-257 GFLOP/s where this loop reached 270-275 (one Zen 5 core), and shares of it would flatter
every row. The loop is assembled here, since Python has no instruction of its own for it:

    acc_0 .. acc_11 = 0;  do  acc_i += a b  for 12 independent i  while (--count)

Twelve sums cover the latency (4 cycles, 2 a cycle) of every x86-64-v3 core. Encodings: Intel 64 and
IA-32 Architectures Software Developer's Manual, volume 2, sections 2.3.5 (VEX) and 2.7.1 (EVEX).
"""

import ctypes
import mmap
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

SUMS = 12
_A, _B = 14, 15  # registers of the two factors
_VECTORS = {"x86-64-v3": 8, "x86-64-v4": 16}  # floats a vector


def _vex(opcode: int, reg: int, vvvv: int, rm: int, *, table: int = 2, prefix: int = 1) -> bytes:
    """A 256-bit instruction reg, vvvv, rm on registers 0 to 15."""
    first = (reg < 8) << 7 | 1 << 6 | (rm < 8) << 5 | table
    second = (~vvvv & 15) << 3 | 1 << 2 | prefix
    return bytes([0xC4, first, second, opcode, 0xC0 | (reg & 7) << 3 | rm & 7])


def _evex(opcode: int, reg: int, vvvv: int, rm: int) -> bytes:
    """The same on 512 bits."""
    first = (reg < 8) << 7 | 1 << 6 | (rm < 8) << 5 | 1 << 4 | 2
    second = (~vvvv & 15) << 3 | 1 << 2 | 1
    return bytes([0x62, first, second, 0x48, opcode, 0xC0 | (reg & 7) << 3 | rm & 7])


def assemble(floats: int) -> bytes:
    """Machine code of ``void loop(int64 count, const float factors[2])`` (System V)."""
    wide = floats == 16
    # vbroadcastss a, [rsi];  vbroadcastss b, [rsi + 4]  (EVEX counts the offset in floats)
    head = "62727D481836 62727D48187E01" if wide else "C4627D1836 C4627D187E04"
    clear = b"".join(_vex(0x57, i, i, i, table=1, prefix=0) for i in range(SUMS))  # vxorps
    multiply = _evex if wide else _vex
    body = b"".join(multiply(0xB8, i, _A, _B) for i in range(SUMS))  # vfmadd231ps
    body += bytes.fromhex("48FFCF")  # dec rdi
    back = (-len(body) - 6).to_bytes(4, "little", signed=True)
    tail = bytes.fromhex("0F85") + back + bytes.fromhex("C5F877 C3")  # jnz; vzeroupper; ret
    return bytes.fromhex(head) + clear + body + tail


class FmaLoop:
    """The loop on ``threads`` threads at once; a call returns its GFLOP/s, all threads together.

    Raises
    ------
    OSError
        Where the machine is no x86-64 or forbids new machine code (a hardened kernel).
    """

    def __init__(self, threads: int, level: str, count: int = 300_000) -> None:
        floats = _VECTORS.get(level)
        if floats is None or platform.machine() != "x86_64":
            raise OSError(f"FmaLoop: level is {level!r}, expected one of {', '.join(_VECTORS)}")
        code = assemble(floats)
        self.threads, self.count = threads, count
        self.flops = 2 * floats * SUMS * count  # of one thread
        self._factors = (ctypes.c_float * 2)(1e-3, 1.5)
        self._memory = mmap.mmap(-1, len(code), prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self._memory.write(code)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        libc = ctypes.CDLL(None, use_errno=True)
        page = self._address & -mmap.PAGESIZE
        size = ctypes.c_size_t(self._address + len(code) - page)
        # Writable or executable, never both.
        if libc.mprotect(ctypes.c_void_p(page), size, mmap.PROT_READ | mmap.PROT_EXEC) != 0:
            raise OSError(ctypes.get_errno(), "FmaLoop: mprotect forbids new machine code")
        kind = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.POINTER(ctypes.c_float))
        self._loop = kind(self._address)  # ctypes lets go of the GIL meanwhile
        self._pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None
        self._start = Barrier(threads)

    def _one(self) -> tuple[float, float]:
        self._start.wait()
        start = time.perf_counter()
        self._loop(self.count, self._factors)
        return start, time.perf_counter()

    def __call__(self) -> float:
        others = (
            [self._pool.submit(self._one) for _ in range(self.threads - 1)] if self._pool else []
        )
        spans = [self._one(), *(other.result() for other in others)]
        # From the first start to the last end: threads that took turns on one core do not add up.
        seconds = max(end for _, end in spans) - min(start for start, _ in spans)
        return self.threads * self.flops / seconds / 1e9
