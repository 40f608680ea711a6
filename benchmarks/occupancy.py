"""How many warps of a kernel one multiprocessor holds at a time, from what a block takes of it.

The arithmetic and the limits are those of NVIDIA's cuda_occupancy.h (in the CUDA toolkit, and beside Triton's other
CUDA headers), which tests/test_kernel_resources.py compares with; the sizes of an SM are the CUDA C++ Programming
Guide's table of technical specifications by compute capability.
"""

from __future__ import annotations

SHARED = {80: 164 << 10, 90: 228 << 10, 100: 228 << 10}  # bytes an SM, all that its L1 cache can give up

# The same on all three.
WARPS = 64  # 2048 threads
BLOCKS = 32
PARTITIONS = 4  # of an SM; each has its own registers, and a warp lives in one of them
REGISTERS = 65536
REGISTER_UNIT = 256  # registers are handed out to a warp so many at a time,
SHARED_UNIT = 128  # shared memory to a block by so many bytes,
SHARED_RESERVED = 1024  # of which the system keeps some


def resident_blocks(capability: int, warps: int, registers: int, shared: int) -> int:
    """With `warps` a block, `registers` a thread and `shared` bytes a block, static and dynamic."""
    by_warps = WARPS // warps
    a_warp = round_up(32 * registers, REGISTER_UNIT)
    by_registers = REGISTERS // PARTITIONS // a_warp * PARTITIONS // warps
    by_shared = SHARED[capability] // round_up(shared + SHARED_RESERVED, SHARED_UNIT)
    return min(BLOCKS, by_warps, by_registers, by_shared)


def occupancy(capability: int, warps: int, registers: int, shared: int) -> float:
    """Resident warps over the most an SM can hold."""
    return resident_blocks(capability, warps, registers, shared) * warps / WARPS


def round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit
