"""Recipes: the published settings, what the command line changes, and the run that a saved recipe repeats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml  # type: ignore[import-untyped]

from training import train
from training.data import read_collection
from training.encoder import BiEncoder
from training.errors import InputError
from training.recipe import RECIPES, read_recipe
from training.sources import read_sources

NAMES = sorted(file.stem for file in RECIPES.glob("*-*.yaml"))
PUBLISHED = {
    "real_binary-info_nce": ("info_nce", 3),
    "synthetic_binary-info_nce": ("info_nce", 3),
    "synthetic-ws2": ("gaussian_wasserstein", 4),
    "synthetic_and_real-ws2": ("gaussian_wasserstein", 7),
}


def parsed(arguments: list[str]) -> tuple[Any, Any]:
    options, remaining = train.build_parser().parse_known_args(train.command_line([*arguments, "--output", "x"]))
    return options, train.huggingface_arguments(remaining)[0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_recipes_have_the_published_settings(name: str) -> None:
    options, args = parsed(["--recipe", name])
    assert (options.loss, read_sources(options.data).group_size) == PUBLISHED[name]
    assert (options.model, options.pooling, options.normalize) == ("facebook/contriever", "mean", False)
    assert (options.max_length, options.temperature, options.label_temperature) == (256, 1.0, 1.0)
    assert (options.target, options.in_batch) == ("softmax", 0)
    assert (args.learning_rate, args.per_device_train_batch_size) == (1e-5, 16)
    assert (args.gradient_accumulation_steps, args.warmup_steps, args.num_train_epochs) == (4, 0.05, 1)


def test_each_experiment_has_a_recipe_with_the_librarys_own_loss() -> None:
    own = {name.split("-")[0] for name in NAMES if name.endswith("-wassrank")}
    assert own == {name.split("-")[0] for name in PUBLISHED}
    for experiment in own:
        options, _ = parsed(["--recipe", f"{experiment}-wassrank"])
        assert (options.loss, options.wasserstein, options.kl, options.target) == ("combined_loss", 1.0, 1.0, "linear")


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_has_small_data_that_is_here(name: str) -> None:
    options, args = parsed(["--recipe", name, "--small"])
    assert options.model is None
    temperature = 0.1 if name.endswith("-wassrank") else 0.05
    assert (options.normalize, options.temperature, args.gradient_accumulation_steps) == (True, temperature, 1)
    collection = read_collection(options.data, ["train", "test"])
    assert len(collection.qrels["train"]) == 130
    grades = {grade for query in collection.qrels["train"].values() for grade in query.values()}
    assert grades == ({0, 1} if "binary" in name else {0, 1, 2, 3})


@pytest.mark.parametrize("name", ["synthetic_binary-info_nce", "synthetic_and_real-ws2"])
def test_a_saved_recipe_repeats_the_run(name: str, model_folder: Path, tmp_path: Path) -> None:
    changed = ["--model", str(model_folder), "--max-length", "16", "--max_steps", "2", "--no-normalize"]
    changed += ["--dataloader_drop_last", "False"]
    assert train.main(["--recipe", name, "--small", "--output", str(tmp_path / "first"), *changed]) == 0
    saved = tmp_path / "first" / train.RECIPE_FILE
    content = yaml.safe_load(saved.read_text(encoding="utf-8"))
    assert content["normalize"] is False  # the command line wins over the recipe
    assert content["dataloader_drop_last"] is False  # and over the trainer's defaults
    assert not {"output", "recipe", "small", "output_dir"} & set(content)
    assert train.main(["--recipe", str(saved), "--output", str(tmp_path / "second")]) == 0
    first, second = (BiEncoder.from_pretrained(tmp_path / run).state_dict() for run in ("first", "second"))
    start = BiEncoder.from_pretrained(model_folder).state_dict()
    assert all(torch.equal(weight, second[key]) for key, weight in first.items())
    assert not all(torch.equal(weight, start[key]) for key, weight in first.items())


def test_a_saved_recipe_finds_its_files_from_anywhere(
    collection_folder: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--data", collection_folder.name, "--model", model_folder.name, "--output", "first"]
    assert train.main([*arguments, "--max_steps", "1", "--per_device_train_batch_size", "4"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert train.main(["--recipe", "../first/recipe.yaml", "--output", "second"]) == 0


def test_a_recipe_may_start_from_another_and_lists_and_mappings_are_passed_on(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("loss: info_nce\ntemperature: 0.1\nsmall: {temperature: 0.2}\n")
    (tmp_path / "mine.yaml").write_text(
        "base: base.yaml\ndata: here\nloss: listwise_kl\nlr_scheduler_kwargs: {num_cycles: 2}\nreport_to: [none]\n"
        "small: {loss: info_nce, from_embeddings: true}\n"
    )
    options, args = parsed(["--recipe", str(tmp_path / "mine.yaml")])
    assert (options.loss, options.temperature, options.from_embeddings) == ("listwise_kl", 0.1, False)
    assert (options.data, args.lr_scheduler_kwargs) == (tmp_path / "here", {"num_cycles": 2})
    options, _ = parsed(["--recipe", str(tmp_path / "mine.yaml"), "--small", "--no-from-embeddings"])
    assert (options.loss, options.temperature, options.from_embeddings) == ("info_nce", 0.2, False)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("los: info_nce", "los: no such option"),
        ("- loss", "must be a mapping of options to values"),
        ("small: 3", "must be a mapping of options to values"),
        ("loss: info_nce\nloss: listwise_kl", "comes twice"),
        ("from_embeddings: maybe", "must be true or false, got 'maybe'"),
        ("loss: [[info_nce]]", "must be a value"),
        ("base: bad.yaml", "is based on itself"),
        ("base: 3", "must be a recipe's file"),
        ("base: none.yaml", "cannot be read"),
        ("model: !!python/object/apply:os.getcwd []", "not YAML"),
    ],
)
def test_a_bad_recipe_is_refused_in_one_line(content: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=why):
        train.command_line(["--recipe", str(tmp_path / "bad.yaml")])


def test_small_is_nothing_without_a_recipe() -> None:
    with pytest.raises(InputError, match="name one with --recipe"):
        train.command_line(["--small", "--data", "x"])


def test_an_unknown_recipe_is_answered_with_those_there_are() -> None:
    with pytest.raises(InputError, match="--recipe nothing: no such file, nor one of real_binary-info_nce, "):
        read_recipe("nothing")
