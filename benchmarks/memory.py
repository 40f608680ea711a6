"""How much memory an operation takes on the CPU: the most that torch holds for it at a time."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak(run: Callable[[], object]) -> int:
    """Bytes of tensors that are alive at one time within `run`, beyond those alive before. What C++ kernels keep beside
    tensors, some kilobytes a thread, is not seen."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        run()
    assert trace.profiler is not None
    assert trace.profiler.kineto_results is not None
    changes = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = highest = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return highest
