"""The CPU kernels of the level losses and of the 1-D distance called with addresses, without torch's dispatcher.

Boxing an operator's twenty arguments and finding the way through the dispatcher takes longer than the kernels of a
small step do, and leaves the processor's caches with other code in them: at 64 × 256 on a 2-core EPYC a step takes 91
µs instead of 103. So eager code with nothing to dispatch to calls them here. They are the operators' kernels with the
operators' arguments, and whoever watches operators (a dispatch mode, torch.compile, the profiler) still gets those.

Arguments have passed `wassrank.functional`'s checks: here nothing is checked again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wassrank import backends
from wassrank.addresses import DTYPES, address
from wassrank.arguments import EXTRA
from wassrank.codes import Reduction

_PLAIN = (Tensor, torch.nn.Parameter)
_PER_ROW = int(Reduction.none)


def serves(scores: Tensor) -> bool:
    """Whether a call with these scores may come here: a plain CPU tensor, and nobody watches."""
    return (
        scores.is_cpu
        and type(scores) in _PLAIN
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._autograd._profiler_enabled()
    )


def level_losses(
    scores: Tensor,
    labels: Tensor,
    target: Tensor | None,
    mask: Tensor | None,
    weight: Tensor | None,
    label_temperatures: Tensor | None,
    positives: Tensor | None,
    offsets: Tensor | None,
    position: Tensor | None,
    wasserstein: float,
    info_nce: float,
    kl: float,
    target_kind: int,
    reduction: int,
    in_batch: int,
    num_levels: int,
    p: float,
    temperature: float,
    label_temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`wassrank::level_losses`."""
    dtype = scores.dtype
    C = dtype if dtype is torch.float64 else torch.float32
    Q, rows = _rows(scores, labels, mask, offsets)
    loss = scores.new_empty((Q,) if reduction == _PER_ROW else (), dtype=C)
    state = scores.new_empty((Q, 2 * num_levels + EXTRA if info_nce or kl else num_levels + 1), dtype=C)
    scale = scores.new_empty((), dtype=C)
    assert backends.native is not None
    backends.native.level_losses(
        scores.data_ptr(), labels.data_ptr(), address(target), address(mask), address(weight),
        address(label_temperatures), address(positives), address(offsets), address(position),
        *rows, 0 if target is None else target.shape[-1], wasserstein, info_nce, kl, target_kind, reduction, in_batch,
        num_levels, p, temperature, label_temperature, loss.data_ptr(), state.data_ptr(), scale.data_ptr(),
    )  # fmt: skip
    return loss, state, scale


def level_losses_backward(
    grad_loss: Tensor,
    scores: Tensor,
    labels: Tensor,
    target: Tensor | None,
    mask: Tensor | None,
    positives: Tensor | None,
    offsets: Tensor | None,
    state: Tensor,
    scale: Tensor,
    in_batch: int,
    num_levels: int,
    temperature: float,
) -> Tensor:
    """`wassrank::level_losses_backward`."""
    _, rows = _rows(scores, labels, mask, offsets)
    gradient = torch.empty_like(scores)
    assert backends.native is not None
    backends.native.level_losses_backward(
        grad_loss.data_ptr(), scores.data_ptr(), labels.data_ptr(), address(target), address(mask),
        address(positives), address(offsets), state.data_ptr(), scale.data_ptr(),
        *rows, 0 if target is None else target.shape[-1], state.shape[1] != num_levels + 1, grad_loss.dim() != 0,
        in_batch, num_levels, temperature, gradient.data_ptr(),
    )  # fmt: skip
    return gradient


def wasserstein_1d(
    u_values: Tensor,
    v_values: Tensor,
    u_weights: Tensor | None,
    v_weights: Tensor | None,
    u_mask: Tensor | None,
    v_mask: Tensor | None,
    u_offsets: Tensor | None,
    v_offsets: Tensor | None,
    pairs: int,
    wanted: int,
    p: float,
) -> tuple[Tensor, ...]:
    """`wassrank::wasserstein_1d`."""
    dtype = u_values.dtype
    C = dtype if dtype is torch.float64 else torch.float32
    given = (u_values, v_values, u_weights, v_weights, u_mask, v_mask)
    offsets = (u_offsets, v_offsets)
    n, m = u_values.shape[-1], v_values.shape[-1]
    shared = 0
    for k, tensor in enumerate(given):
        if tensor is not None and offsets[k % 2] is None and tensor.shape[0] != pairs:
            shared |= 1 << k
    loss = u_values.new_empty((pairs,), dtype=C)
    kept = [
        u_values.new_empty(
            (0,) if not wanted >> k & 1 else (pairs, (n, m)[k % 2]) if offsets[k % 2] is None else ((n, m)[k % 2],),
            dtype=C,
        )
        for k in range(4)
    ]
    assert backends.native is not None
    backends.native.wasserstein_1d(
        *map(address, given), *map(address, offsets), n, m, shared, pairs, DTYPES[dtype], p, loss.data_ptr(),
        *(t.data_ptr() if wanted >> k & 1 else 0 for k, t in enumerate(kept)),
    )  # fmt: skip
    return loss, *kept


def _rows(
    scores: Tensor, labels: Tensor, mask: Tensor | None, offsets: Tensor | None
) -> tuple[int, tuple[int, int, int, int, int, bool, int]]:
    """Q, and what csrc/common/rows.h has beside addresses: Q, N, K, the dtype, the labels' bytes and whether they are
    signed, the mask's stride."""
    if offsets is None:
        Q, N = scores.shape
        K = labels.shape[1]
    else:
        Q, N, K = offsets.shape[0] - 1, scores.shape[0], scores.shape[0]
    stride = N if mask is not None and mask.shape == scores.shape else 0
    kind = labels.dtype
    return Q, (Q, N, K, DTYPES[scores.dtype], kind.itemsize, kind is not torch.uint8, stride)
