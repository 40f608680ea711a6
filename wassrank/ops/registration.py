"""How a loss becomes operators of torch: schema, fake and autograd, the same for every fused backend.

Each loss has a pair `wassrank::<loss>` and `wassrank::<loss>_backward` served by the native extension (CPU and CUDA),
and the same pair with the suffix `_triton`. The schemas stand here in Python, so that they exist whether or not the
extension was built; C++ only adds its kernels to them.

Autograd is one `torch.autograd.Function` a pair. It is the operator's Autograd kernel, and eager code calls it without
the detour through the dispatcher. `torch.library.register_autograd` does the same with some 50 µs more a step (seen on
a 2-core Xeon), which at 64 × 256 scores is more than both kernels together.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

LIBRARY = torch.library.Library("wassrank", "DEF")
SUFFIX = {"native": "", "triton": "_triton"}

below_autograd = torch._C._AutoDispatchBelowAutograd


def register(
    name: str,
    *,
    schema: str,  # "(Tensor scores, ...) -> (...)"
    fake: Callable[..., Any],
    backward_schema: str,
    backward_fake: Callable[..., Any],
    save: Callable[..., None],  # save(ctx, *leaves, rest of the inputs, outputs): for the backward
    backward: Callable[..., Any],  # backward(backward_op, ctx, grad_loss) -> a gradient for each leaf
    leaves: int = 1,  # inputs that have a gradient: the first; of both operators, after grad_loss
    short_cut: ShortCut | None = None,  # for eager calls of the native pair
    kernels: Mapping[str, tuple[Callable[..., Any], Callable[..., Any]]] | None = None,  # a backend's pair, of every
    # device; None: C++ and wassrank.triton have them under the operators' names
    backward_kernel: Callable[..., Any] | None = None,  # likewise, one for all backends
) -> dict[str, Callable[..., Any]]:
    """Defines the operator pair once for each backend; returns for each a differentiable call giving the loss."""
    calls = {}
    for backend in ("native", "triton") if kernels is None else kernels:
        suffix = SUFFIX[backend]
        forward_name, backward_name = f"{name}{suffix}", f"{name}_backward{suffix}"
        LIBRARY.define(f"{forward_name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.define(f"{backward_name}{backward_schema}", tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.register_fake(f"wassrank::{forward_name}", fake, lib=LIBRARY)
        torch.library.register_fake(f"wassrank::{backward_name}", backward_fake, lib=LIBRARY)
        operator = getattr(torch.ops.wassrank, forward_name).default
        backward_operator = getattr(torch.ops.wassrank, backward_name).default

        short = short_cut if backend == "native" else None
        function = _function(operator, backward_operator, save, backward, short)
        LIBRARY.impl(forward_name, _with_all_outputs(function, leaves), "Autograd")
        LIBRARY.impl(backward_name, _once_only(backward_operator, leaves), "Autograd")
        if kernels is not None:
            for device, (name_of, kernel) in itertools.product(
                ("CPU", "CUDA"), zip((forward_name, backward_name), kernels[backend], strict=True)
            ):
                LIBRARY.impl(name_of, kernel, device)
        elif backend == "triton":
            serve_by_triton(name, forward_name)
        if backward_kernel is not None:
            LIBRARY.impl(backward_name, backward_kernel, "CompositeExplicitAutograd")
        elif kernels is None and backend == "triton":
            serve_by_triton(f"{name}_backward", backward_name)
        calls[backend] = _loss_alone(operator, function, leaves)
    return calls


def serve_by_triton(name: str, operator_name: str) -> None:
    """The operator's kernel is `wassrank.triton.<name>`."""
    for device in ("CUDA", "CPU"):  # on the CPU in Triton's interpreter
        LIBRARY.impl(operator_name, _from_triton(name), device)


def _from_triton(name: str) -> Callable[..., Any]:
    """`wassrank.triton.<name>`, imported by the first call."""

    def kernel(*args: Any) -> Any:
        return getattr(importlib.import_module("wassrank.triton"), name)(*args)

    return kernel


@dataclass(frozen=True)
class ShortCut:
    """The same pair without the dispatcher, for calls whose arguments the public functions have checked."""

    serves: Callable[[Any], bool]  # whether it may be taken with this first leaf
    forward: Callable[..., Any]
    backward: Callable[..., Any]


def _function(
    operator: Any,
    backward_operator: Any,
    save: Callable[..., None],
    backward: Callable[..., Any],
    short_cut: ShortCut | None,
) -> type[torch.autograd.Function]:
    def run_backward_operator(grad_loss: Any, leaf: Any, *rest: Any) -> Any:
        if torch.is_grad_enabled():  # create_graph=True: through the operator's own autograd, which refuses
            return backward_operator(grad_loss, leaf, *rest)
        if short_cut is not None and short_cut.serves(leaf):
            return short_cut.backward(grad_loss, leaf, *rest)
        with below_autograd():
            return backward_operator(grad_loss, leaf, *rest)

    class Fused(torch.autograd.Function):
        # Only the leaves have gradients and only the loss, the first output, gets one. The other inputs come as one
        # tuple and the other outputs go only where they are wanted: autograd handles each of its own one by one.
        @staticmethod
        def forward(ctx: Any, rest: tuple[Any, ...], loss_alone: bool, *leaves: Any) -> Any:
            if loss_alone and short_cut is not None and short_cut.serves(leaves[0]):
                outputs = short_cut.forward(*leaves, *rest)
            else:
                with below_autograd():
                    outputs = operator(*leaves, *rest)
            save(ctx, *leaves, rest, outputs)
            if loss_alone:
                return outputs[0]
            ctx.set_materialize_grads(False)
            ctx.mark_non_differentiable(*outputs[1:])
            return outputs

        @staticmethod
        def backward(ctx: Any, grad_loss: Any, *_: None) -> Any:
            if grad_loss is None:
                return (None,) * len(ctx.needs_input_grad)
            gradients = backward(run_backward_operator, ctx, grad_loss)
            return (None, None, *gradients) if isinstance(gradients, tuple) else (None, None, gradients)

    return Fused


def _once_only(operator: Any, leaves: int) -> Callable[..., Any]:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, rest: tuple[Any, ...], grad_loss: Any, *leaves: Any) -> Any:
            with below_autograd():
                return operator(grad_loss, *leaves, *rest)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> NoReturn:
            raise NotImplementedError(
                "wassrank's fused kernels are differentiable once; for second derivatives take the loss of scores "
                "with backend='torch'"
            )

    function: type[torch.autograd.Function] = Once

    def call(grad_loss: Any, *rest: Any) -> Any:
        return function.apply(rest[leaves:], grad_loss, *rest[:leaves])

    return call


def _with_all_outputs(function: type[torch.autograd.Function], leaves: int) -> Callable[..., Any]:
    def call(*inputs: Any) -> Any:
        return function.apply(inputs[leaves:], False, *inputs[:leaves])

    return call


def _loss_alone(operator: Any, function: type[torch.autograd.Function], leaves: int) -> Callable[..., Any]:
    # Function.apply less its search for wrappers of functorch, 4 µs where there are none.
    apply = super(torch.autograd.Function, function).apply  # type: ignore[misc]

    def call(*inputs: Any) -> Any:
        if torch.compiler.is_compiling():  # one opaque operator in the graph
            return operator(*inputs)[0]
        if torch._C._are_functorch_transforms_active():
            return function.apply(inputs[leaves:], True, *inputs[:leaves])
        return apply(inputs[leaves:], True, *inputs[:leaves])

    return call
