"""A short list of calls, small enough for compute-sanitizer: each kernel by each backend, short rows and long, one loss
and all of them, side by side and packed."""

from __future__ import annotations

import torch

import wassrank
from wassrank.backends import missing

SHAPES = ((4, 12), (3, 51), (2, 3000))


def main() -> None:
    for backend in ("native", "triton"):
        if missing(backend, "cuda") is not None:
            continue
        for Q, N in SHAPES:
            for p, dtype in ((1.0, torch.float32), (2.0, torch.bfloat16)):
                scores = torch.randn(Q, N, device="cuda").to(dtype).requires_grad_()
                for labels in (torch.randint(0, 4, (Q, N // Q)), torch.randint(0, 4, (Q, N), dtype=torch.uint8)):
                    wassrank.grade_wasserstein(scores, labels.cuda(), p=p, backend=backend).backward()
                    wassrank.combined_loss(scores, labels.cuda(), p=p, info_nce=0.5, kl=0.5, backend=backend).backward()
                packed = scores.detach().flatten()[1:].requires_grad_()  # lists that begin at odd places
                grades = torch.randint(0, 4, packed.shape, device="cuda")
                offsets = torch.tensor([0, 3, 3, packed.numel() // 2, packed.numel()], device="cuda")
                wassrank.combined_loss(packed, grades, p=p, kl=0.5, offsets=offsets, backend=backend).backward()
    torch.cuda.synchronize()
    print("wassrank: all calls ended")


if __name__ == "__main__":
    main()
