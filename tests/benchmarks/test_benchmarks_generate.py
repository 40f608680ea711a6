"""The generator's benchmark takes its figures from runs that do what they say; how fast, it says itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import generate


def test_throughput_is_of_queries_that_were_all_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "LATENCY", 0.05)
    row = generate.throughput(4, tmp_path)
    assert (row["concurrency"], row["latency"]) == (4, 0.05)
    assert row["share"] == pytest.approx(row["rate"] * 0.05 / 4)
    assert (tmp_path / "out" / "contexts.jsonl").read_bytes().count(b"\n") == 4 * generate.ROUNDS


def test_memory_is_looked_at_all_along(tmp_path: Path) -> None:
    used = generate.memory(200, tmp_path)
    assert [count for count, _ in used["seen"]] == list(range(0, 200, 10))
    assert all(0 < resident < 1.1 * used["peak"] for _, resident in used["seen"])  # the kernel's two counts differ
    assert (tmp_path / "out" / "contexts.jsonl").read_bytes().count(b"\n") == 200
