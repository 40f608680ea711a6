"""The step itself: what the loss is given, accumulation, padding, determinism, learning, and the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.data import Collection, read_collection
from training.encoder import BiEncoder
from training.errors import InputError
from training.evaluate import evaluate
from training.groups import GradedGroups, Group, GroupCollator
from training.losses import LossOptions, build_loss, wants_all_scores
from training.timing import StepClock
from training.trainer import TrainingRun, fit, score, training_arguments

MakeEncoder = Callable[..., BiEncoder]
PLAIN_SGD = {"optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "warmup_steps": 0} | {
    "weight_decay": 0.0,
    "max_grad_norm": 0.0,
}


@pytest.fixture
def collection(collection_folder: Path) -> Collection:
    return read_collection(collection_folder, ["train", "test"])


def train(
    encoder: BiEncoder,
    collection: Collection,
    folder: Path,
    options: LossOptions,
    step: Any = None,  # options of the step
    **given: Any,
) -> TrainingRun:
    args = training_arguments(folder / "unused", **({"logging_steps": 1} | given))
    groups = GradedGroups(collection, "train", 4, args.seed)
    loss = build_loss(options, collection.highest_grade(), from_embeddings=(step or {}).get("from_embeddings", False))
    return fit(encoder, groups, loss, args, in_batch=wants_all_scores(options), **(step or {}))


def weights(encoder: BiEncoder) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in encoder.parameters()])


@pytest.mark.parametrize("name", ["grade_wasserstein", "info_nce"])
def test_accumulated_batches_give_the_big_batchs_gradient(
    name: str, tiny_encoder: MakeEncoder, collection: Collection, tmp_path: Path
) -> None:
    """Without in-batch passages a row's loss is its own; one SGD step shows the gradient."""
    options = LossOptions(name, in_batch=None)
    whole, parts = tiny_encoder(), tiny_encoder()
    before = weights(whole)
    train(whole, collection, tmp_path, options, max_steps=1, per_device_train_batch_size=8, **PLAIN_SGD)
    train(
        parts,
        collection,
        tmp_path,
        options,
        max_steps=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        **PLAIN_SGD,
    )
    moved = weights(whole) - before
    assert moved.norm() > 1e-3
    torch.testing.assert_close(weights(parts) - before, moved, rtol=1e-4, atol=1e-6)


def test_accumulated_in_batch_negatives_come_from_the_micro_batch(
    tiny_encoder: MakeEncoder, collection: Collection, tmp_path: Path
) -> None:
    """So the gradient differs from the big batch's: documented, and seen here."""
    whole, parts = tiny_encoder(), tiny_encoder()
    before = weights(whole)
    for encoder, given in (
        (whole, {"per_device_train_batch_size": 8}),
        (parts, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}),
    ):
        train(encoder, collection, tmp_path, LossOptions("info_nce"), max_steps=1, **given, **PLAIN_SGD)
    moved = weights(whole) - before
    assert (weights(parts) - before - moved).norm() > 0.01 * moved.norm()


@pytest.mark.parametrize("name", ["grade_wasserstein", "info_nce"])
def test_padding_changes_nothing(name: str, tiny_encoder: MakeEncoder) -> None:
    """A group of two beside a group of four has the gradient it has alone, where nothing is padded."""
    short = Group("w1 w2", ("w1 w3", "w9"), (3, 0))
    long = Group("w4 w5", ("w4", "w5 w6", "w7", "w8"), (3, 2, 1, 0))
    loss = build_loss(LossOptions(name, in_batch=None), highest_grade=3)

    def gradient(groups: list[Group]) -> Tensor:
        encoder = tiny_encoder()
        batch = GroupCollator(encoder.tokenizer, max_length=16)(groups)
        queries, passages = encoder(batch["queries"], batch["passages"])
        value = loss(score(queries, passages, in_batch=False), batch["grades"], mask=batch["mask"])
        value.backward()
        return torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])

    alone = (gradient([short]) + gradient([long])) / 2
    torch.testing.assert_close(gradient([short, long]), alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "gather"),
    [
        (LossOptions("combined_loss", kl=0.5), "none"),
        (LossOptions("info_nce", in_batch=None), "ring"),  # with nobody to share with
        (LossOptions("gaussian_wasserstein"), "none"),
        (LossOptions("gaussian_wasserstein", in_batch=None), "none"),
    ],
)
def test_from_embeddings_trains_as_from_scores(
    options: LossOptions, gather: str, tiny_encoder: MakeEncoder, collection: Collection, tmp_path: Path
) -> None:
    of_scores, of_embeddings = tiny_encoder(), tiny_encoder()
    before = weights(of_scores)
    given = {"max_steps": 2, "per_device_train_batch_size": 4} | PLAIN_SGD
    expected = train(of_scores, collection, tmp_path, options, **given)
    run = train(of_embeddings, collection, tmp_path, options, {"from_embeddings": True, "gather": gather}, **given)
    moved = weights(of_scores) - before
    assert moved.norm() > 1e-3
    assert run.losses == pytest.approx(expected.losses, rel=1e-4)
    assert (weights(of_embeddings) - before - moved).norm() < 1e-3 * moved.norm()


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ({"gather": "ring"}, "needs --from-embeddings"),
        ({"gather": "all", "from_embeddings": True}, "must be one of none, passages, ring, got 'all'"),
    ],
)
def test_what_cannot_be_gathered_is_refused(
    step: dict[str, Any], why: str, tiny_encoder: MakeEncoder, collection: Collection, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=why):
        train(tiny_encoder(), collection, tmp_path, LossOptions(), step, per_device_train_batch_size=4)


def test_scores_are_inner_products_query_major() -> None:
    queries, passages = torch.randn(2, 5), torch.randn(6, 5)
    full = score(queries, passages, in_batch=True)
    torch.testing.assert_close(full, queries @ passages.T)
    own = score(queries, passages, in_batch=False)
    torch.testing.assert_close(own, torch.stack([full[0, :3], full[1, 3:]]))


def test_scores_are_float32_under_autocast() -> None:
    queries, passages = torch.randn(2, 8), torch.randn(4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = score(queries.bfloat16(), passages.bfloat16(), in_batch=True)
    torch.testing.assert_close(scores, queries.bfloat16().float() @ passages.bfloat16().float().T)


def test_the_same_seed_trains_the_same_model(tiny_encoder: MakeEncoder, collection: Collection, tmp_path: Path) -> None:
    def trained(seed: int) -> Tensor:
        encoder = tiny_encoder(dropout=0.1)
        torch.manual_seed(int(time.time()))  # whatever happened before must not matter
        given = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "seed": seed}
        train(encoder, collection, tmp_path, LossOptions(), **given)
        return weights(encoder)

    assert torch.equal(trained(seed=1), trained(seed=1))
    assert not torch.equal(trained(seed=1), trained(seed=2))


def test_all_losses_see_the_same_batches_and_each_epoch_new_ones(
    tiny_encoder: MakeEncoder, collection: Collection, tmp_path: Path
) -> None:
    class Recorder(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = scale
            self.seen: list[Tensor] = []

        def forward(self, scores: Tensor, labels: Tensor, *, mask: Tensor) -> Tensor:
            self.seen.append(labels)
            return self.scale * scores.square().sum()

    args = training_arguments(tmp_path / "unused", num_train_epochs=2, per_device_train_batch_size=4)
    recorders = [Recorder(0.0), Recorder(3.0)]
    for recorder in recorders:
        fit(tiny_encoder(), GradedGroups(collection, "train", 2, args.seed), recorder, args)
    first, second = (torch.stack(recorder.seen) for recorder in recorders)
    assert first.shape == (4, 4, 2)  # two epochs of two batches: two of four grades for each query
    assert torch.equal(first, second)
    assert not torch.equal(first[:2], first[2:])


@pytest.mark.parametrize(
    "options", [LossOptions("info_nce"), LossOptions(p=1.0), LossOptions(p=2.0), LossOptions(target="exp2")]
)
def test_training_lowers_the_loss_and_improves_the_ranking(
    options: LossOptions, tiny_encoder: MakeEncoder, collection: Collection, tmp_path: Path
) -> None:
    encoder = tiny_encoder()
    before = evaluate(encoder, collection, "train")
    given = {"num_train_epochs": 15, "per_device_train_batch_size": 8, "learning_rate": 3e-3}
    run = train(encoder, collection, tmp_path, options, **given)
    after = evaluate(encoder, collection, "train")
    assert run.steps == list(range(1, 16))
    assert run.losses[-1] < 0.8 * run.losses[0]
    assert after.ndcg_at_10 > before.ndcg_at_10 + 0.1


def test_a_data_set_smaller_than_a_batch_is_refused(
    tiny_encoder: MakeEncoder, collection: Collection, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="8 training queries do not fill one batch of 9"):
        train(tiny_encoder(), collection, tmp_path, LossOptions(), per_device_train_batch_size=9)


@pytest.mark.parametrize("count", [1, 2])
def test_the_clock_measures_the_loss_and_only_the_loss(count: int) -> None:
    """Forward 20 ms and backward 30 ms of a loss of scores, or of queries and passages, in a step that also sleeps 100
    ms for each of those."""

    def slow(tensor: Tensor, forward: float, backward: float) -> Tensor:
        time.sleep(forward)
        inner = tensor * 1
        inner.register_hook(lambda _: time.sleep(backward))
        return inner * 1

    def loss(sources: list[Tensor]) -> Tensor:
        return slow(torch.cat(sources), 0.02, 0.03).sum()

    clock = StepClock()
    weight = torch.randn(2, 3, requires_grad=True)
    for _ in range(4):
        sources = [slow(weight, 0.04, 0.06) for _ in range(count)]
        clock.timed(partial(loss, sources), *sources).backward()
        clock.on_step_end(None, None, None)
    seconds, share = clock.seconds_per_step(), clock.loss_share()
    assert seconds is not None
    assert share is not None
    assert 0.05 + 0.1 * count <= seconds < 0.15 + 0.15 * count
    assert 0.05 <= seconds * share < 0.1


def test_one_step_is_not_a_measurement(tiny_encoder: MakeEncoder, collection: Collection, tmp_path: Path) -> None:
    run = train(tiny_encoder(), collection, tmp_path, LossOptions(), max_steps=1, per_device_train_batch_size=8)
    assert (run.seconds_per_step, run.loss_share) == (None, None)
