from collections.abc import Mapping
from typing import TypedDict

class BuildInfo(TypedDict):
    version: str
    cuda_architectures: list[str]
    cuda_version: str  # "13.0"; "" without CUDA
    cpu_instruction_sets: list[str]
    cpu_instruction_set_in_use: str

class Launch(TypedDict):
    kernel: str  # "forward_kernel", "reduce_kernel", "backward_kernel"; "sorted_forward_kernel", ...
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int

def build_info() -> BuildInfo: ...
def level_losses(*numbers: float) -> None: ...  # addresses and numbers, as wassrank/ops/direct.py passes them
def level_losses_backward(*numbers: float) -> None: ...
def wasserstein_1d(*numbers: float) -> None: ...

class GaussianBatch:  # stream (None: the CPU), then addresses and numbers, as wassrank/gaussian/native.py passes them
    def __init__(self, stream: int | None, *numbers: float | None) -> None: ...

def gaussian_rows(batch: GaussianBatch, row: int, excess: int) -> float | None: ...  # a label that cannot be
def gaussian_moments(batch: GaussianBatch, *addresses: int) -> None: ...
def gaussian_products(batch: GaussianBatch, *addresses: int) -> None: ...
def gaussian_tiles(batch: GaussianBatch, *numbers: int) -> None: ...
def gaussian_along(batch: GaussianBatch, *addresses: int) -> None: ...
def gaussian_gradient(batch: GaussianBatch, *numbers: int) -> None: ...

# Of wassrank/gaussian/native_step.py and split_svd.py, on the CPU.
def gaussian_small_forward(
    batch: GaussianBatch, split: float, eps: float, *addresses: int
) -> tuple[bool, float | None]: ...  # whether it could, a label that cannot be
def gram_eigenvectors(gram: int, n: int, split: float, V: int) -> int: ...  # size of the lower part, or -1
def polar_factor(X: int, V: int, n: int, lower: int, noise: float, eps: float) -> float: ...
def small_polar_factor(
    A: int, noise: int, n: int, split: float, most: int, eps: float, norm: int, W: int
) -> bool: ...  # whether it could
def cuda_driver_version() -> int: ...  # 13000 for 13.0; 0 without a driver

# The four that follow: only where it was built with CUDA.
def level_losses_launches(
    dtype: str,  # "float64", "float32", "float16" or "bfloat16"
    Q: int,
    N: int,
    K: int,
    in_batch: int,
    num_levels: int,
    reduced: bool,
    capability: int = 0,  # whose tuning; 0: the defaults
    affine: bool = False,  # with InfoNCE or KL
    packed: bool = False,
) -> list[Launch]: ...
def sorted_losses_launches(
    dtype: str,
    Q: int,
    N: int,
    K: int,
    in_batch: int,  # -1: other queries' passages take no part
    p: float,
    reduced: bool,
    capability: int = 0,
    packed: bool = False,
) -> tuple[list[Launch], int]: ...  # and the bytes of the forward's workspace
def gaussian_wasserstein_launches(dtype: str, Q: int, N: int) -> list[Launch]: ...  # a launch a pass
def grade_order_launches(is_double: bool, rows: int, columns: int) -> list[Launch]: ...
def wasserstein_1d_launches(
    dtype: str,
    pairs: int,
    n: int,  # of packed sides the points of all pairs
    m: int,
    weighted: bool,
    wanted: int,  # as the operator's
    capability: int = 0,
    packed: bool = False,
) -> tuple[list[Launch], int]: ...  # and the bytes of its workspace
def tuning(capability: int) -> dict[str, int]: ...
def set_tuning(capability: int, values: Mapping[str, int]) -> None: ...
