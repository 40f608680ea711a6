"""The commands evaluate and compare: run files, tables, pictures, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training import compare, evaluate, significance
from training.encoder import BiEncoder
from training.measures import MEASURES


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "RESAMPLES", 100)


@pytest.fixture
def other_model(tiny_encoder: Callable[..., BiEncoder], tmp_path: Path) -> Path:
    encoder = tiny_encoder(pooling="cls")
    with torch.no_grad():
        encoder.encoder.embeddings.word_embeddings.weight.mul_(3)
    encoder.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def test_a_run_file_has_the_measures_of_the_search_it_came_from(
    collection_folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(collection_folder)]
    assert evaluate.main([*data, "--model", str(model_folder), "--run", str(tmp_path / "run.trec")]) == 0
    searched = json.loads(capsys.readouterr().out)
    assert list(searched) == ["split", "queries", *MEASURES]
    assert 0 < searched["ndcg@10"] < 1
    assert evaluate.main([*data, "--from-run", str(tmp_path / "run.trec")]) == 0
    assert json.loads(capsys.readouterr().out) == searched
    # And again from the embeddings that were kept.
    assert len(list((tmp_path / "cache").glob("embeddings-*/embeddings.npy"))) == 1
    assert evaluate.main([*data, "--model", str(model_folder)]) == 0
    assert json.loads(capsys.readouterr().out) == searched


def test_no_run_file_is_overwritten(
    collection_folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.trec").write_text("mine", encoding="utf-8")
    arguments = ["--data", str(collection_folder), "--model", str(model_folder), "--run", str(tmp_path / "run.trec")]
    assert evaluate.main(arguments) == 1
    assert "is there already" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()  # known before anything was embedded
    assert (tmp_path / "run.trec").read_text(encoding="utf-8") == "mine"


def test_a_judged_passage_of_the_querys_own_id_brings_a_warning(
    collection_folder: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("corpus.jsonl", "qrels/test.tsv"):
        text = (collection_folder / name).read_text(encoding="utf-8")
        (collection_folder / name).write_text(text.replace("q8_g3", "q8"), encoding="utf-8")
    arguments = ["--data", str(collection_folder), "--model", str(model_folder)]
    assert evaluate.main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("warning: 1 queries have a judged passage of their own id")
    assert evaluate.main([*arguments, "--identical-ids", "keep"]) == 0
    kept = capsys.readouterr()
    assert kept.err == ""
    assert json.loads(kept.out)["recall@1000"] == 1.0 > json.loads(printed.out)["recall@1000"]


def test_models_are_compared_on_every_set(
    collection_folder: Path, model_folder: Path, other_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = tmp_path / "sets.yaml"
    sets.write_text(
        "train: {data: collection, split: train, relevant_grade: 2}\nunused: {data: none}\n", encoding="utf-8"
    )
    output = tmp_path / "out"
    models = ["--model", str(model_folder), "--model", f"ours={other_model}"]
    data = ["--data", f"small={collection_folder}", "--sets", str(sets), "--only", "train"]
    assert compare.main([*models, *data, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    report = json.loads((output / compare.REPORT_FILE).read_text(encoding="utf-8"))
    assert list(report["means"]) == ["small", "train"]
    assert list(report["means"]["small"]) == ["tiny_model", "ours"]
    for name, split in (("small", "test"), ("train", "train")):
        for model, folder in (("tiny_model", model_folder), ("ours", other_model)):
            arguments = ["--data", str(collection_folder), "--split", split, "--model", str(folder)]
            assert evaluate.main(arguments) == 0
            alone = json.loads(capsys.readouterr().out)
            assert alone | report["means"][name][model] == alone
            assert (output / compare.RUNS_FOLDER / name / f"{model}.trec").is_file()
    (one,) = report["differences"]["train"]
    assert (one["first"], one["second"]) == ("tiny_model", "ours")
    means = report["means"]["train"]
    assert one["mean"] == pytest.approx(means["tiny_model"]["ndcg@10"] - means["ours"]["ndcg@10"])
    assert (output / compare.TABLES_FILE).read_text(encoding="utf-8") in printed + "\n"
    assert f"{(means['ours']['ndcg@10'] + report['means']['small']['ours']['ndcg@10']) / 2:.3f}" in printed
    assert (output / compare.PICTURE_FILE).read_bytes().startswith(b"\x89PNG")


def test_one_model_alone_has_no_differences(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    arguments = ["--model", str(model_folder), "--data", str(collection_folder), "--output", str(tmp_path / "out")]
    assert compare.main(arguments) == 0
    assert json.loads((tmp_path / "out" / compare.REPORT_FILE).read_text(encoding="utf-8"))["differences"] == {}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--model", "MODEL", "--data", "absent/absent/absent"], "cannot be read"),
        (["--model", "MODEL", "--model", "MODEL", "--data", "DATA"], "two are called 'tiny_model'"),
        (["--model", "MODEL", "--data", "DATA", "--against", "x"], "no model is called 'x'"),
        (["--model", "MODEL", "--data", "DATA", "--split", "dev"], "dev.tsv"),
        (["--model", "MODEL", "--data", "DATA", "--relevant-grade", "5"], "below the relevant grade 5"),
        (["--model", "DATA", "--data", "DATA"], "cannot load the encoder"),
        (["--model", "MODEL", "--data", "DATA", "--sets", "SETS"], "two are called 'collection'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str],
    complaint: str,
    collection_folder: Path,
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "sets.yaml").write_text("collection: {data: collection}", encoding="utf-8")
    places = {"MODEL": str(model_folder), "DATA": str(collection_folder), "SETS": str(tmp_path / "sets.yaml")}
    output = tmp_path / "results" / "out"
    assert compare.main([places.get(one, one) for one in arguments] + ["--output", str(output)]) == 1
    complained = capsys.readouterr().err
    assert complaint in complained
    assert complained.count("\n") == 1
    assert not output.parent.exists() or list(output.parent.iterdir()) == []


def test_a_model_that_cannot_be_loaded_is_refused_before_another_is_measured(
    collection_folder: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "retrieve", lambda *_: pytest.fail("the work must not begin"))
    arguments = ["--model", str(model_folder), "--model", str(collection_folder), "--data", str(collection_folder)]
    assert compare.main([*arguments, "--output", str(tmp_path / "out")]) == 1
    (tmp_path / "sets.yaml").write_text("a: {data: collection}\nb: {data: absent/absent/absent}", encoding="utf-8")
    arguments = ["--model", str(model_folder), "--sets", str(tmp_path / "sets.yaml")]
    assert compare.main([*arguments, "--output", str(tmp_path / "out")]) == 1
