"""The study: what it may see when it chooses, that it goes on where it was cut off, and what it reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from training.data import read_collection
from training.encoder import BiEncoder
from training.study import __main__ as command
from training.study import encoder as encoder_command
from training.study.contestants import FILE, Setting, read_contestants
from training.study.cross_validation import best, result, untrained
from training.study.head import draw
from training.study.problem import Plan, Problem, embedded

PLAN = Plan(folds=2, validation_folds=2, seeds=2, epochs=3, batch_size=4, group_size=4, learning_rate=0.05)
CONTESTANTS = """
InfoNCE: {loss: info_nce, temperature: [0.05, 0.2], positives_from: [null, 2]}
KL: {loss: listwise_kl, temperature: 0.1, target: [linear, {target: softmax, label_temperature: 0.3}]}
"""
SMALL = [
    "--folds=2",
    "--validation-folds=2",
    "--seeds=2",
    "--epochs=3",
    "--batch-size=4",
    "--group-size=4",
    "--workers=1",
]


@pytest.fixture
def problem(collection_folder: Path, tiny_encoder: Callable[..., BiEncoder]) -> Problem:
    return _problem(collection_folder, tiny_encoder())


@pytest.fixture
def contestants_file(tmp_path: Path) -> Path:
    file = tmp_path / "contestants.yaml"
    file.write_text(CONTESTANTS, encoding="utf-8")
    return file


@pytest.fixture
def settings(contestants_file: Path) -> list[Setting]:
    return read_contestants(contestants_file, 3)["InfoNCE"]


@pytest.fixture
def study(collection_folder: Path, model_folder: Path, contestants_file: Path, tmp_path: Path) -> Callable[..., int]:
    def run(*more: str) -> int:
        given = ["--data", str(collection_folder), "--model", str(model_folder), "--output", str(tmp_path / "out")]
        return command.main([*given, "--contestants", str(contestants_file), *SMALL, *more])

    return run


def _problem(folder: Path, encoder: BiEncoder) -> Problem:
    collection = read_collection(folder, ["train"])
    return Problem(collection, "train", embedded(encoder, collection, "train"), PLAN)


def test_each_query_is_measured_once_by_folds_that_do_not_train_on_it() -> None:
    measured = []
    for number in range(5):
        held_out, training = Plan(folds=5).fold(number, 23)
        assert sorted(held_out + training) == list(range(23))
        measured += held_out
    assert sorted(measured) == list(range(23))


def test_what_a_fold_measures_has_no_say_in_what_is_chosen(
    problem: Problem, settings: Sequence[Setting], collection_folder: Path, tiny_encoder: Callable[..., BiEncoder]
) -> None:
    before = result(problem, settings, fold=0)
    measured, _ = PLAN.fold(0, 8)
    file = collection_folder / "qrels" / "train.tsv"
    turned = []
    for line in file.read_text(encoding="utf-8").splitlines():
        query, passage, score = line.split("\t")
        if query in {f"q{place}" for place in measured}:
            score = str(3 - int(score))
        turned.append(f"{query}\t{passage}\t{score}")
    file.write_text("\n".join(turned) + "\n", encoding="utf-8")
    after = result(_problem(collection_folder, tiny_encoder()), settings, fold=0)
    assert (after.chosen, after.epochs, after.validation) == (before.chosen, before.epochs, before.validation)
    assert after.qualities[0].ndcg_at_10 < before.qualities[0].ndcg_at_10  # but it is what is measured


def test_of_equal_settings_the_first_and_the_fewest_epochs_are_chosen() -> None:
    assert best([[0.1, 0.5, 0.5], [0.5, 0.2, 0.1]]) == (0, 2)


def test_every_loss_sees_the_same_batches(problem: Problem) -> None:
    places = [5, 0, 3, 2, 7, 1]
    first, second = (draw(problem.groups(1), places, 4, 2, seed=1) for _ in range(2))
    assert [len(batches) for batches in first] == [1, 1]  # of six queries one batch of four
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(getattr(one[0], name), getattr(other[0], name)) for name in vars(one[0]))
    assert not torch.equal(first[0][0].queries, first[1][0].queries)


def test_a_batch_holds_the_passages_that_are_judged_for_its_queries(problem: Problem) -> None:
    batch = draw(problem.groups(1), range(8), 8, 1, seed=1)[0][0]
    corpus = list(problem.collection.corpus)
    judged = problem.collection.qrels["train"]
    for row, place in enumerate(batch.queries.tolist()):
        passages = [corpus[position] for position in batch.passages.view(8, -1)[row].tolist()]
        assert dict(zip(passages, batch.grades[row].tolist(), strict=True)) == judged[judged.query_id(place)]
    assert batch.mask.all()


def test_an_untrained_head_is_the_encoder(problem: Problem, tiny_encoder: Callable[..., BiEncoder]) -> None:
    from training.evaluate import evaluate

    assert untrained(problem, range(8)) == evaluate(tiny_encoder(), problem.collection, "train")


def test_the_head_learns_what_it_is_trained_on(problem: Problem, settings: Sequence[Setting]) -> None:
    from training.study.cross_validation import quality
    from training.study.head import train

    batches = draw(problem.groups(1), range(8), 8, 20, seed=1)
    *_, head = train(problem.frozen, settings[0].build(3), True, batches, learning_rate=0.05)
    assert quality(problem, head, range(8)).ndcg_at_10 > untrained(problem, range(8)).ndcg_at_10 + 0.05


def test_positives_from_a_grade_up_are_all_that_a_binary_loss_is_told(settings: Sequence[Setting]) -> None:
    binary = next(setting for setting in settings if setting.positives_from == 2)
    scores, mask = torch.randn(2, 8), torch.ones(2, 4, dtype=torch.bool)
    loss = binary.build(3)
    values = [loss(scores, torch.tensor([grades, grades]), mask=mask) for grades in ([3, 2, 1, 0], [2, 3, 0, 0])]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], loss(scores, torch.tensor([[3, 1, 1, 0]] * 2), mask=mask))


def test_the_bundled_contestants_can_all_be_built() -> None:
    contestants = read_contestants(FILE, 4)
    assert {"InfoNCE", "KL", "ws2", "p=1", "p=2"} <= contestants.keys()


def test_the_command_reports_the_mean_over_queries_and_seeds(study: Callable[..., int], tmp_path: Path) -> None:
    assert study() == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    values = [
        seed_values[query]["ndcg@10"]
        for fold in range(2)
        for seed_values in json.loads((tmp_path / "out" / "results" / f"{fold}-1.json").read_text())["of_query"]
        for query in seed_values
    ]
    assert len(values) == 8 * 2
    assert report["means"]["ndcg@10"]["KL"] == pytest.approx(sum(values) / len(values))
    assert [one["first"] for one in report["differences"]["InfoNCE"]] == ["zero-shot", "KL"]
    assert [len(settings) for settings in report["settings"].values()] == [4, 2]
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert f"{report['means']['ndcg@10']['KL']:.4f}" in text
    assert {"differences.png", "options.png"} <= {file.name for file in (tmp_path / "out").iterdir()}


def test_a_study_that_was_cut_off_does_only_what_is_missing(study: Callable[..., int], tmp_path: Path) -> None:
    assert study() == 0
    report = (tmp_path / "out" / "report.json").read_text(encoding="utf-8")
    lost, kept = (tmp_path / "out" / "results" / name for name in ("1-0.json", "0-1.json"))
    content, written = lost.read_text(encoding="utf-8"), kept.stat().st_mtime_ns
    lost.unlink()
    assert study() == 0
    assert lost.read_text(encoding="utf-8") == content
    assert kept.stat().st_mtime_ns == written
    assert (tmp_path / "out" / "report.json").read_text(encoding="utf-8") == report


@pytest.mark.full
def test_several_processes_find_what_one_finds(study: Callable[..., int], tmp_path: Path) -> None:
    assert study() == 0
    alone = {file.name: file.read_text(encoding="utf-8") for file in (tmp_path / "out" / "results").iterdir()}
    for file in (tmp_path / "out" / "results").iterdir():
        file.unlink()
    assert study("--workers=2") == 0
    assert {file.name: file.read_text(encoding="utf-8") for file in (tmp_path / "out" / "results").iterdir()} == alone


def test_the_encoder_itself_is_trained_as_its_head_chose(
    study: Callable[..., int], collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    assert study() == 0
    given = ["--chosen-by", str(tmp_path / "out"), "--data", str(collection_folder), "--model", str(model_folder)]
    given += ["--output", str(tmp_path / "encoder"), "--fold=1", "--epochs=1", "--batch-size=2", "--against=KL"]
    assert encoder_command.main(given) == 0
    head = json.loads((tmp_path / "out" / "results" / "1-0.json").read_text(encoding="utf-8"))
    own = json.loads((tmp_path / "encoder" / "results" / "1-0.json").read_text(encoding="utf-8"))
    assert own["chosen"] == head["chosen"]
    assert own["of_query"][0].keys() == head["of_query"][0].keys()
    assert own["of_query"] != head["of_query"][:1]


def test_settings_that_were_chosen_on_other_judgements_are_refused(
    study: Callable[..., int],
    collection_folder: Path,
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert study() == 0
    file = collection_folder / "qrels" / "train.tsv"
    file.write_text(file.read_text(encoding="utf-8").replace("q0_g1\t1", "q0_g1\t2"), encoding="utf-8")
    given = ["--chosen-by", str(tmp_path / "out"), "--data", str(collection_folder), "--model", str(model_folder)]
    assert encoder_command.main([*given, "--output", str(tmp_path / "encoder")]) == 1
    assert "has chosen with another judgements" in capsys.readouterr().err
    assert not (tmp_path / "encoder").exists()


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--folds=5"], "8 queries are too few for 5 × 2 folds"),
        (["--folds=1"], "--folds must be at least 2, got 1"),
        (["--workers=0"], "--workers must be at least 1, got 0"),
        (["--learning-rate=0"], "--learning-rate must be above 0, got 0.0"),
        (["--against=ws2"], "--against ws2: no contestant; there are InfoNCE, KL"),
        (["--contestants=nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(
    study: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], complaint: str
) -> None:
    assert study(*more) == 1
    told = capsys.readouterr().err
    assert complaint in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("train", "complaint"),
    [
        ("[{folder: collection, score_transform: real}]", "the grades of 'train' are real numbers"),
        (
            "[{folder: collection}, {corpus: copy.jsonl, queries: collection/queries.jsonl, "
            "qrels: collection/qrels/test.tsv}]",
            "the sources of 'train' must share one corpus",
        ),
    ],
)
def test_judgements_that_a_head_would_misread_are_refused(
    study: Callable[..., int],
    collection_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    train: str,
    complaint: str,
) -> None:
    (tmp_path / "copy.jsonl").write_bytes((collection_folder / "corpus.jsonl").read_bytes())
    (tmp_path / "data.yaml").write_text(f"train: {train}\n", encoding="utf-8")
    assert study("--data", str(tmp_path / "data.yaml")) == 1
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--seeds=0", "--epochs=0", "--batch-size=0", "--group-size=0"])
def test_the_encoders_study_refuses_none_of_something(
    option: str, collection_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--chosen-by", str(tmp_path), "--data", str(collection_folder), "--output", str(tmp_path / "encoder")]
    assert encoder_command.main([*given, option]) == 1
    assert f"{option.removesuffix('=0')} must be at least 1, got 0" in capsys.readouterr().err


def test_another_study_in_the_folder_is_refused(study: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert study() == 0
    assert study("--epochs=2") == 1
    assert "holds a study of other data, contestants or options" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("KL: {loss: listwise_kl, temprature: 1}", "KL: temprature: no such option"),
        ("KL: {temperature: 1}", "KL: names no loss"),
        ("KL: {loss: kl}", "KL: loss must be one of"),
        ("KL: {loss: listwise_kl, temperature: [0.1, -1]}", "KL: loss listwise_kl: temperature"),
        ("N: {loss: info_nce, positives_from: 4}", "N: positives_from must be a grade from 1 to 3, got 4"),
        ("- KL", "must map names of contestants to their options"),
        ("KL: 3", "must be a name and a mapping of options"),
    ],
)
def test_contestants_that_cannot_be_are_refused_by_name(tmp_path: Path, text: str, complaint: str) -> None:
    from training.errors import InputError

    file = tmp_path / "contestants.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_contestants(file, 3)
    assert complaint in str(caught.value)


def test_a_result_that_is_damaged_is_named(
    study: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study() == 0
    (tmp_path / "out" / "results" / "0-0.json").write_text("{", encoding="utf-8")
    assert study() == 1
    assert "0-0.json: not a study's result" in capsys.readouterr().err
