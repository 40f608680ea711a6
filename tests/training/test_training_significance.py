"""Paired tests against SciPy's own, corrections against figures computed by hand, and their command."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from training import significance
from training.errors import InputError
from training.runs import write_run
from training.significance import differences, false_discovery, holm, main, named


def of_query(values: list[float]) -> dict[str, float]:
    return {f"q{i}": value for i, value in enumerate(values)}


def test_a_pair_is_tested_on_the_same_queries() -> None:
    rng = np.random.default_rng(1)
    first = rng.random(40)
    second = first - 0.1 + 0.2 * rng.random(40)
    (found,) = differences({"a": of_query(list(first)), "b": dict(reversed(of_query(list(second)).items()))})
    expected = stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert found.mean == pytest.approx((first - second).mean())
    assert found.p_t == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p_corrected == found.p_randomisation  # one pair: nothing to correct


def test_the_randomisation_test_is_exact_for_few_queries() -> None:
    gains = np.array([0.3, 0.1, -0.05, 0.4, 0.2, 0.15])
    means = [np.mean(gains * signs) for signs in product((1, -1), repeat=len(gains))]
    expected = np.mean([abs(one) >= abs(gains.mean()) - 1e-12 for one in means])
    (found,) = differences({"a": of_query(list(gains)), "b": of_query([0.0] * 6)})
    assert found.p_randomisation == pytest.approx(expected)


def test_equal_runs_do_not_differ() -> None:
    (found,) = differences({"a": of_query([0.1, 0.5]), "b": of_query([0.1, 0.5])})
    assert (found.mean, found.p_t, found.p_randomisation, found.significant) == (0.0, 1.0, 1.0, False)


def test_corrections_are_as_computed_by_hand() -> None:
    # Sorted: 0.01, 0.02, 0.03, 0.04. Holm: 4 · 0.01, 3 · 0.02, then none falls below the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    # Benjamini and Hochberg: m / i · p, none above the one after.
    assert false_discovery([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.04, 0.04, 0.04, 0.04])
    assert false_discovery([0.01, 0.04]) == pytest.approx([0.02, 0.04])


def test_many_runs_without_a_difference_are_seldom_called_different() -> None:
    """Sixty times six equal systems: uncorrected tests make a false claim most times, Holm's in 5 %."""
    rng = np.random.default_rng(3)
    uncorrected = claimed = 0
    for _ in range(60):
        gains = rng.normal(size=(15, 12))
        p_values = [float(stats.ttest_1samp(gain, 0).pvalue) for gain in gains]
        uncorrected += min(p_values) < 0.05
        claimed += min(holm(p_values)) < 0.05
    assert uncorrected > 20
    assert claimed <= 8


def test_every_pair_or_every_run_against_one() -> None:
    values = {name: of_query([0.1 * i, 0.2, 0.05 * i]) for i, name in enumerate("abc")}
    assert [(one.first, one.second) for one in differences(values)] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [(one.first, one.second) for one in differences(values, "b")] == [("a", "b"), ("c", "b")]
    with pytest.raises(InputError, match="no run is called 'd'"):
        differences(values, "d")


def test_runs_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(InputError, match="two runs are needed"):
        differences({"a": of_query([1.0, 0.0])})
    with pytest.raises(InputError, match="different queries"):
        differences({"a": of_query([1.0, 0.0]), "b": of_query([1.0, 0.0, 0.5])})
    with pytest.raises(InputError, match="two queries"):
        differences({"a": of_query([1.0]), "b": of_query([0.0])})
    with pytest.raises(InputError, match="two are called 'x'"):
        named(["a/x.trec", "b/x.trec"], "--run")
    for text in ("../x=a.trec", "my run.trec", "=a.trec"):
        with pytest.raises(InputError, match="letters, digits"):
            named([text], "--run")
    assert named(["a/v1.5"], "--model") == {"v1.5": "a/v1.5"}
    assert named(["a/x.trec", "y=b/x.trec"], "--run") == {"x": "a/x.trec", "y": "b/x.trec"}


def test_the_command_compares_run_files(
    collection_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(significance, "RESAMPLES", 100)
    queries = [f"q{i}" for i in range(8, 12)]
    write_run(tmp_path / "good.trec", {q: {f"{q}_g{g}": float(g) for g in range(4)} for q in queries}, "good")
    reverse = {q: {f"{q}_g{g}": -float(g) for g in range(int(q[1:]) % 2, 4)} for q in queries}
    write_run(tmp_path / "bad.trec", reverse, "bad")
    runs = [f"--run={tmp_path / 'good.trec'}", f"--run=worst={tmp_path / 'bad.trec'}"]
    assert main(["--data", str(collection_folder), *runs]) == 0
    printed = capsys.readouterr().out
    assert "| good  |  1.0000 |" in printed
    assert "good − worst" in printed
    # 4 queries: the smallest p-value there can be is 2 / 2⁴.
    assert "0.1250" in printed
    assert main(["--data", str(collection_folder), *runs, "--against", "none"]) == 1
    assert capsys.readouterr().err == "error: no run is called 'none'; there are good, worst\n"
