"""Checks of what only losses from embeddings are given. As checks.py, nothing here makes the host wait for a device."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from . import checks

SIMILARITIES = ("dot", "cosine")


def check_embeddings(queries: Tensor, passages: Tensor) -> None:
    for name, x, size in (("queries", queries, "Q"), ("passages", passages, "N")):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor of embeddings, [{size}, d], got {type(x).__name__}")
        if x.dtype not in checks.FLOATS:
            raise TypeError(
                f"{name} must be float64, float32, float16 or bfloat16 embeddings, got {x.dtype}: integers have no "
                f"gradient; convert with {name}.float()"
            )
        if x.dim() != 2:
            raise ValueError(f"{name} must be [{size}, d], one embedding a row, got shape {tuple(x.shape)}")
    checks.check_device("passages", passages, queries, "queries")
    if passages.dtype != queries.dtype:
        raise TypeError(
            f"queries are {queries.dtype} and passages {passages.dtype}: convert one of them, they are multiplied as "
            f"they are and summed in float32 (float64 for float64)"
        )
    if passages.shape[1] != queries.shape[1]:
        raise ValueError(
            f"queries [Q, d] and passages [N, d] must be of one width d, got {tuple(queries.shape)} and "
            f"{tuple(passages.shape)}: they come from encoders of different sizes, or one of them is transposed"
        )


def shape_of_scores(queries: Tensor, passages: Tensor, total: int | None = None) -> Tensor:
    """A tensor of the scores' shape, dtype and device, of which nothing is stored."""
    return queries.new_empty(()).expand(len(queries), len(passages) if total is None else total)


def check_temperature(temperature: float | Tensor, queries: Tensor) -> None:
    if not isinstance(temperature, Tensor):
        checks.check_positive("temperature", temperature, "scores are divided by it")
        return
    if temperature.dim() != 0 or temperature.dtype not in checks.FLOATS:
        raise TypeError(
            f"a learnable temperature must be a floating tensor of shape [], got {temperature.dtype} "
            f"{tuple(temperature.shape)}: torch.tensor(0.05, requires_grad=True), or temperature.squeeze()"
        )
    checks.check_device("temperature", temperature, queries, "queries")
    if temperature.is_cpu and not torch.compiler.is_compiling():  # elsewhere the host would wait for it
        checks.check_positive("temperature", float(temperature.detach()), "scores are divided by it")


def check_exclude(exclude: object, scores: Tensor, *, shared: bool) -> None:
    """`shared`: there are passages elsewhere, so that how many is not known here."""
    if exclude is None:
        return
    shape = tuple(scores.shape)
    if isinstance(exclude, Tensor):
        checks.check_device("exclude", exclude, scores)
        if exclude.dtype == torch.bool and tuple(exclude.shape) == shape:
            return
        if exclude.dtype in checks.INTEGERS and exclude.dim() == 2 and exclude.shape[1] == 2:
            return
        got = f"{exclude.dtype} {tuple(exclude.shape)}"
    elif isinstance(exclude, Sequence) and all(isinstance(pair, Sequence) and len(pair) == 2 for pair in exclude):
        for query, passage in exclude:
            if not (0 <= query < shape[0] and passage >= 0 and (shared or passage < shape[1])):
                raise ValueError(
                    f"exclude holds the pair ({query}, {passage}), but there are {shape[0]} queries and {shape[1]} "
                    f"passages"
                )
        return
    else:
        got = type(exclude).__name__
    raise TypeError(
        f"exclude must be bool {list(shape)} (True = left out), or pairs (query, passage): integers [M, 2] or a list; "
        f"got {got}"
    )


def check_tile(tile: tuple[int, int] | None, queries: Tensor) -> None:
    if tile is None:
        return
    if not (isinstance(tile, tuple) and len(tile) == 2 and all(isinstance(n, int) and n > 0 for n in tile)):
        raise ValueError(f"tile must be (rows, columns) of scores computed at a time, two numbers > 0, got {tile!r}")
    wanted = tile[0] * tile[1] * (8 if queries.dtype == torch.float64 else 4)
    there = _memory(queries.device)
    if wanted > there:
        raise ValueError(
            f"a tile of {tile[0]} x {tile[1]} scores takes {wanted / 2**30:.3g} GiB and {queries.device} has "
            f"{there / 2**30:.3g}: pass smaller numbers, or tile=None"
        )


def _memory(device: torch.device) -> int:
    """Bytes, all that the device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_ways(gather: bool | str) -> None:
    if gather not in (False, True, "ring"):
        raise ValueError(
            f"gather must be False (one process's batch), True (every process gathers all passages) or 'ring' (blocks "
            f"of passages go round), got {gather!r}"
        )
